"""The authors' checkpoints: all that is refused, in one line."""

import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from released import ATARI_FILES, CSGO_FILES, episodes, import_words, spawns
from said import one_line

from diamond_gym import cli
from diamond_gym.errors import BadArgument, DamagedModel
from diamond_gym.registry import resolve, save_model
from diamond_gym.registry.checkpoint import read_checkpoint
from diamond_gym.registry.released import read_released


@pytest.mark.parametrize(
    ("more", "game", "message"),
    [
        ((), "Breakout", "Breakout has 4 actions, the checkpoint 5: give start states with --starts"),
        ((), "Zork", "Zork is not a game that can be played here"),
        (("--starts", "nowhere"), "Breakout", "nowhere is not a folder of collected episodes"),
        (("--name", "../up"), "Breakout", "cannot be used"),
        (("--start-steps", "1"), "Breakout", "--start-steps must be at least 100, not 1"),
        (("--seed", "-1"), "Breakout", "--seed must be at least 0, not -1"),
    ],
)
def test_asked_for_wrongly(
    more: tuple[str, ...], game: str, message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(import_words(ATARI_FILES, *more, game=game)) != 0
    assert message in one_line(capsys)
    assert not any(home.rglob("*.toml"))


def test_experience_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(import_words(ATARI_FILES, "--starts", str(episodes(tmp_path / "s", num_actions=4)))) == 2
    assert "but the model needs (16, 16, 3) and 5" in one_line(capsys)


def test_a_model_trained_here_is_not_replaced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = read_released(*ATARI_FILES, "Breakout")
    entry = save_model(type(model.card)(**{**vars(model.card), "training": {}}), model.weights)
    assert cli.main(import_words(ATARI_FILES, "--starts", "none")) == 2
    assert "choose another --name" in one_line(capsys)
    assert resolve(entry.name) == entry


def test_the_environments_configuration_is_asked_for() -> None:
    with pytest.raises(BadArgument, match="--env-config"):
        read_released(ATARI_FILES[0], ATARI_FILES[1], None, "Breakout")
    with pytest.raises(BadArgument, match="--env-config"):
        read_released(CSGO_FILES[0], CSGO_FILES[1], None, "CSGO")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["."], ". is not the folder of a run"),
        ([str(ATARI_FILES[0])], "name the configuration with --config"),
        ([str(ATARI_FILES[0]), "--config", str(ATARI_FILES[1])], "give it with --env-config"),
        (
            [str(CSGO_FILES[0]), "--config", str(CSGO_FILES[1]), "--env-config", str(CSGO_FILES[2])],
            "name it with --game",
        ),
    ],
)
def test_what_cannot_be_found_is_asked_for(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["import-diamond", *words, "--starts", "none"]) == 2
    assert message in one_line(capsys)


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    weights = torch.load(ATARI_FILES[0], weights_only=True)
    key = next(iter(weights))
    torch.save({**weights, f"_orig_mod.{key}": weights[key]}, tmp_path / "twice.pt")
    with pytest.raises(DamagedModel, match="is there twice"):
        read_released(tmp_path / "twice.pt", *ATARI_FILES[1:], "Breakout")


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_runs_nothing(
    form: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path, marker = tmp_path / "agent.pt", tmp_path / "was-here"
    state = {**torch.load(ATARI_FILES[0], weights_only=True), "more": Malicious(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(state["more"]))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    assert cli.main(import_words((path, *ATARI_FILES[1:]), "--starts", "none")) == 1
    line = one_line(capsys)
    assert "refused" in line
    if form != "pickle":
        assert "mkdir" in line
    assert not recwarn
    assert not marker.exists()
    assert not any(home.iterdir())


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1, -30])
def test_a_truncated_file(keep: float, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = ATARI_FILES[0].read_bytes()
    path = tmp_path / "agent.pt"
    path.write_bytes(content[: int(len(content) * keep) if 0 < keep < 1 else int(keep)])
    assert cli.main(import_words((path, *ATARI_FILES[1:]), "--starts", "none")) == 1
    assert str(path) in one_line(capsys)
    assert not any(home.iterdir())


def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    content = bytearray(ATARI_FILES[0].read_bytes())
    rng = np.random.default_rng(0)
    path = tmp_path / "agent.pt"
    for place in rng.integers(0, len(content), 30):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except DamagedModel as error:
            assert "\n" not in str(error)  # noqa: PT017


def change(change: Callable[[dict[str, Any]], Any], source: Path, target: Path) -> Path:
    state = torch.load(source, weights_only=True)
    change(state)
    torch.save(state, target)
    return target


ACT = "denoiser.inner_model.act_emb.0.weight"
OUT = "denoiser.inner_model.conv_out.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop(OUT), f"1 key is missing for networks of this configuration: '{OUT}'"),
        (lambda s: s.pop(ACT), "which tells the number of actions"),
        (lambda s: [s.pop(k) for k in list(s) if "lstm" in k], "8 keys are missing"),
        (lambda s: s.update({"denoiser.more": torch.ones(1)}), "1 key is left over .*: 'denoiser.more'"),
        (lambda s: s.update({"upsampler.x": torch.ones(1)}), "1 key is left over"),
        (lambda s: s.update({OUT: torch.ones(3, 3)}), r"has shape \(3, 3\), but its configuration makes it \(3, 32"),
        (lambda s: s.update({ACT: torch.ones(6, 8)}), "differ in the number of actions"),
        (lambda s: s.update({OUT: s[OUT].long()}), "not a dense tensor of floats"),
        (lambda s: s.update({OUT: s[OUT].to("meta")}), "not a dense tensor of floats"),
        (lambda s: s.update({OUT: s[OUT].to(torch.float8_e4m3fn)}), "not a dense tensor of floats"),
        (lambda s: s.update({OUT: torch.zeros(1).expand(s[OUT].shape)}), "share memory"),
        (lambda s: s.update({OUT: s[OUT].to_sparse()}), "not a dense tensor of floats|not readable"),
        (lambda s: s.update({OUT: s[OUT] * float("nan")}), "not finite"),
        (lambda s: s.update({"step": 3}), "'step' is a int"),
        (lambda s: s.update({1: s[OUT]}), "1 is a Tensor"),
        (lambda s: s.clear(), "a dictionary of tensors is wanted"),
        (lambda s: s.update({"agent": {"x": s[OUT]}}), "'agent' is a dict"),
    ],
)
def test_a_checkpoint_that_does_not_fit(edit: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    path = change(edit, ATARI_FILES[0], tmp_path / "agent.pt")
    with pytest.raises(DamagedModel, match=message) as caught:
        read_released(path, *ATARI_FILES[1:], "Breakout")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("denoiser.inner_model.channels", [64, 64], "has shape|missing|left over"),
        ("denoiser.inner_model.cond_channels", 64, "has shape"),
        ("denoiser.inner_model.depths", [1, 3], "missing"),
        ("denoiser.inner_model.depths", [1, 10**9], "list of 1 to 12 whole numbers from 1 to 64"),
        ("denoiser.inner_model.cond_channels", 10**12, "from 1 to 8192, not 1000000000000"),
        ("denoiser.inner_model.num_steps_conditioning", 0, "from 1 to 256, not 0"),
        ("denoiser.inner_model.num_steps_conditioning", 3, "no network of this configuration"),
        ("denoiser.inner_model.depths", [1], "describe the same levels"),
        ("denoiser.inner_model.depths", "${eval:'[1,2]'}", "is refused"),
        ("denoiser.inner_model.depths", "many", "must be a list of 1 to 12 whole numbers"),
        ("denoiser.inner_model.colour", "red", "unknown key 'denoiser.inner_model.colour'"),
        ("denoiser.sigma_data", None, "key 'denoiser.sigma_data' is missing"),
        ("denoiser.sigma_data", "half", "must be a number from"),
        *(("denoiser.sigma_data", value, "denoiser.sigma_data' must be a number") for value in ("nan", "inf", 0, -1)),
        ("denoiser.sigma_data", math.nan, "must be a number from 0.001 to 1000, not nan"),
        ("denoiser.upsampling_factor", 0, "from 1 to 64"),
        ("denoiser.inner_model.channels", [], "a list of"),
        ("denoiser.inner_model.cond_channels", 1 << 70, "more than 64 bits"),
        ("denoiser.num_train_timesteps", 1000, "unknown key"),
        ("denoiser", None, "key 'agent.actor_critic.img_channels': "),
        ("denoiser", [1], "key 'agent.actor_critic.img_channels': "),
        ("rew_end_model", [1], "a table is wanted"),
        ("rew_end_model.lstm_dim", 32, "has shape"),
        ("rew_end_model.img_size", 32, "made for 32 pixels a side"),
        ("actor_critic.down", [1, 0], "has shape"),
        ("rew_end_model", None, "left over"),
        ("critic", 3, "unknown key 'critic'"),
    ],
)
def test_a_configuration_that_does_not_fit(place: str, value: Any, message: str, tmp_path: Path) -> None:
    config = yaml.safe_load(ATARI_FILES[1].read_text())
    *way, last = place.split(".")
    table = config
    for key in way:
        table = table[key]
    table[last] = value
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(DamagedModel, match=message) as caught:
        read_released(ATARI_FILES[0], path, ATARI_FILES[2], "Breakout")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("low_res.npy", np.zeros((4, 3, 6, 9), np.uint8), "is wanted"),
        ("low_res.npy", np.zeros((3, 3, 6, 8), np.uint8), "is wanted"),
        ("full_res.npy", np.zeros((4, 3, 30, 40), np.float32), "is wanted"),
        ("full_res.npy", None, "no such file"),
        ("act.npy", np.zeros((4, 50)), "is wanted"),
        ("act.npy", np.full((4, 51), 2), "0 and 1 only"),
        ("next_act.npy", np.array([None, {}], dtype=object), "not readable as an array"),
    ],
)
def test_a_damaged_spawn(
    name: str, array: Any, message: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = spawns(tmp_path / "spawn")
    (folder / "1" / name).unlink()
    if array is not None:
        np.save(folder / "1" / name, array, allow_pickle=True)
    assert cli.main(import_words(CSGO_FILES, "--starts", str(folder), game="CSGO")) == 1
    assert message in one_line(capsys)
    assert not any(home.rglob("*.toml"))
