"""Presets become flags, and the paper's are the paper's."""

import pytest

from diamond_gym import cli
from diamond_gym.cli.train_wm import TrainWm
from diamond_gym.errors import BadArgument
from diamond_gym.trainers.presets import preset_flags, preset_names, preset_table
from diamond_gym.trainers.world_model import WorldModelConfig


def parse(*words: str) -> TrainWm:
    words = TrainWm.arguments(["--game", "Pong", *words])
    return cli._parse(TrainWm, "train-wm", words)  # as the shell's words are read


def test_every_preset_parses() -> None:
    assert {"paper", "nano"} <= set(preset_names())
    for name in preset_names():
        assert parse("--preset", name).preset == name


def test_paper_is_the_papers() -> None:
    assert parse("--preset", "paper").fit == WorldModelConfig()


def test_the_users_flags_come_on_top() -> None:
    command = parse("--preset", "nano", "--steps", "7", "--denoiser.channels", "16", "32", "32", "--sigma.loc", "-1")
    assert command.steps == 7
    assert command.fit.denoiser.inner_model.channels == [16, 32, 32]
    assert command.fit.denoiser.inner_model.patch_size == preset_table("nano")["denoiser"]["inner-model"]["patch-size"]
    assert command.fit.sigma.loc == -1


def test_unknown_preset_suggests() -> None:
    with pytest.raises(BadArgument, match="did you mean nano"):
        preset_flags("nanoo")


@pytest.mark.parametrize("words", [("--steps", "-1"), ("--minutes", "0"), ("--seed", "-3"), ("--collect-steps", "5")])
def test_nonsense_is_refused(words: tuple[str, str]) -> None:
    with pytest.raises(BadArgument, match=f"{words[0]}.* must"):
        parse("--preset", "nano", *words)
