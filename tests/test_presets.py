"""Presets are defaults that the user's options come on top of, and the paper's are the paper's."""

from pathlib import Path

import pytest

from diamond_gym import cli
from diamond_gym.cli.train import Train
from diamond_gym.cli.train_wm import TrainWm
from diamond_gym.errors import BadArgument
from diamond_gym.trainers.presets import LOOP, preset_flags, preset_names, preset_table
from diamond_gym.trainers.world_model_config import WorldModelConfig


def parse(*words: str) -> TrainWm:
    return cli._parse(TrainWm, "train-wm", ["Pong", *words])  # as the shell's words are read


def test_every_preset_parses() -> None:
    assert {"paper", "nano"} <= set(preset_names())
    for name in preset_names():
        assert parse("--preset", name).preset == name


def test_paper_is_the_papers() -> None:
    assert parse("--preset", "paper").fit == WorldModelConfig(age_weights=(1.0,))  # as the authors fit recordings


@pytest.mark.parametrize("name", preset_names())
def test_recordings_are_drawn_evenly_and_a_loops_play_by_age(name: str) -> None:
    assert parse("--preset", name).fit.age_weights == (1.0,)
    if name in preset_names(LOOP):
        assert cli._parse(Train, "train", ["Pong", "--preset", name]).loop.fit.age_weights is None


def test_the_users_flags_come_on_top() -> None:
    command = parse(
        "--preset", "nano", "--steps", "7", "--denoiser.inner-model.channels", "16", "32", "32", "--sigma.loc", "-1"
    )
    assert command.steps == 7
    assert command.fit.denoiser.inner_model.channels == [16, 32, 32]
    assert command.fit.denoiser.inner_model.patch_size == preset_table("nano")["denoiser"]["inner-model"]["patch-size"]
    assert command.fit.sigma.loc == -1
    assert (
        command.fit.denoiser.residual and not parse("--preset", "nano", "--denoiser.no-residual").fit.denoiser.residual
    )


def test_a_preset_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        """preset = "nano"\nsteps = 7\nacross-lives = false\n[denoiser.inner-model]\nchannels = [8, 8, 8]\n"""
    )
    command, nano = parse("--preset", str(file)), parse("--preset", "nano")
    assert (command.steps, command.fit.denoiser.inner_model.channels, command.fit.across_lives) == (7, [8, 8, 8], False)
    assert command.fit.reward_end == nano.fit.reward_end and nano.fit.across_lives
    assert parse("--preset", str(file), "--steps", "9").steps == 9


@pytest.mark.parametrize(("text", "message"), [("steps = ", "cannot be read"), (None, "No such file")])
def test_a_preset_that_cannot_be_read(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BadArgument, match=f"mine.toml cannot be read.*{'' if text else message}"):
        parse("--preset", str(tmp_path / "mine.toml"))


def test_auto_is_settled_by_the_machine() -> None:
    assert parse().preset in ("nano", "paper")


def test_unknown_preset_suggests() -> None:
    with pytest.raises(BadArgument, match="did you mean nano"):
        preset_flags("nanoo")


@pytest.mark.parametrize("words", [("--steps", "-1"), ("--minutes", "0"), ("--seed", "-3"), ("--collect-steps", "5")])
def test_nonsense_is_refused(words: tuple[str, str]) -> None:
    with pytest.raises(BadArgument, match=f"{words[0]}.* must"):
        parse("--preset", "nano", *words)
