"""The command line: one clear line and an exit code for whatever goes wrong."""

import errno
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from diamond_gym import cli
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry import Card, games, save_model


@pytest.fixture
def model() -> str:
    card = Card(
        name="tiny",
        game="Catch",
        created="2026-11-22T12:00:00Z",
        spaces={"obs_shape": [16, 16, 1], "num_actions": 3},
        denoiser={"inner_model": {"channels": [8]}},
        summary="A small one.",
        figures={"mse": 0.25},
    )
    return save_model(card, {"denoiser.a": torch.zeros(3)}).name


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    return err.rstrip("\n")


def test_overview_lists_every_command_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.commands())
    assert {"list", "info"} <= set(cli.commands())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import diamond_gym

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"diamond-gym {diamond_gym.__version__}\n"


@pytest.mark.parametrize("name", cli.commands())
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    assert f"usage: diamond-gym {name}" in capsys.readouterr().out


def test_list(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "tiny" in shown
    assert "Catch" in shown
    assert cli.main(["list", "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "tiny")
    assert (row["game"], row["from"], row["summary"]) == ("Catch", "you", "A small one.")


def test_list_games(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--games", "--json"]) == 0
    assert [row["game"] for row in json.loads(capsys.readouterr().out)] == list(games())


def test_list_tells_of_a_damaged_card_and_goes_on(model: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "models" / "bad").mkdir()
    assert cli.main(["list"]) == 0
    out, err = capsys.readouterr()
    assert "tiny" in out
    assert err.count("\n") == 1
    assert "bad.toml: the card is missing" in err


def test_info(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", model]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("A small one.", "DiamondDream-tiny-v0", "inner_model.channels", "0.25"))
    assert cli.main(["info", "Catch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["lsit"], 2, "unknown command 'lsit'; did you mean list?"),
        (["--hlep"], 2, "unknown option '--hlep'"),
        (["train-wm", "--preset", "nano"], 2, "say which game: diamond-gym train-wm Pong"),
        (["train-agent", "--preset", "nano"], 2, "say which game: diamond-gym train-agent Pong"),
        (["train", "--preset", "nano"], 2, "say what to learn: diamond-gym train Breakout"),
        (["dream"], 2, "say what to dream: diamond-gym dream Breakout"),
        (["dream", "Brakout"], 1, "unknown game or model 'Brakout'; did you mean Breakout?"),
        (["info", "Brakout"], 1, "unknown game or model 'Brakout'; did you mean Breakout?"),
        (["info", "Zork"], 1, "no world model for 'Zork' yet; train one with `diamond-gym train-wm --data NAME`"),
        (["info", "./nowhere"], 1, "no folder nowhere"),
    ],
)
def test_one_line_for_a_wrong_word(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == code
    assert message in one_line(capsys)


@dataclass(frozen=True)
class Fails:
    """A command that fails as asked."""

    steps: int = 1
    """How many."""
    raises: Any = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DiamondGymError(f"--steps must be at least 1, not {self.steps}")

    def run(self) -> int:
        raise self.raises


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(cli, "commands", lambda: {"fails": "a:b"})
    monkeypatch.setattr(cli, "_parse", lambda *_: Fails(raises=error))
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: type("module", (), {"b": Fails}))


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DiamondGymError("two\n lines"), 1, "two lines"),
        (BadArgument("no"), 2, "no"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a"),
            1,
            "the disk is full: could not write runs/a",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), 1, "Permission denied: runs/a"),
        (
            ModuleNotFoundError("No module named 'ale_py'", name="ale_py"),
            1,
            "pip install 'diamond-gym[atari]'",
        ),
        (gymnasium.error.NameNotFound("no such id"), 1, "no such id"),
        (torch.OutOfMemoryError("CUDA out of memory.\n..."), 1, "not enough memory on the device"),
    ],
)
def test_one_line_for_what_goes_wrong(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, error)
    assert cli.main(["fails"]) == code
    assert message in one_line(capsys)


@pytest.mark.parametrize("error", [RuntimeError("ours"), ModuleNotFoundError("x", name="diamond_gym.typo")])
def test_our_own_mistakes_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        cli.main(["fails"])


def test_a_commands_own_check_is_a_wrong_argument() -> None:
    with pytest.raises(BadArgument, match="^--steps must be at least 1, not -1$"):
        cli._parse(Fails, "fails", ["--steps", "-1"])


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["list", "--jsn"], ["--jsn", "--json"]),
        (["info"], ["A model's name"]),
        (["dream", "Pong", "--steps", "many"], ["--steps", "a whole number is wanted, not 'many'"]),
        (["dream", "Pong", "--quality", "best"], ["--quality", "fast", "fine", "best"]),
        (["train-wm", "Pong", "--preset", "x.toml"], ["--stpes", "preset x.toml"]),
    ],
)
def test_tyro_says_which_option_is_wrong(
    words: list[str], messages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text("stpes = 3\n")
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and all(message in err for message in messages), err


MOST_OPTIONS = 25


@pytest.mark.parametrize("name", cli.commands())
def test_help_is_short_and_help_all_has_everything(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    options = re.findall(r"^  --([a-z-]+)", shown, re.MULTILINE)
    assert len(options) <= MOST_OPTIONS and len(set(options)) == len(options)
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert cli.main([name, "--help-all"]) == 0
    everything = capsys.readouterr().out
    assert all(f"--{option}" in everything for option in options)
    if name == "train":
        assert "--fit.denoiser.inner-model.channels" in everything and "--epochs" in everything


@pytest.mark.parametrize(
    ("name", "word", "option"),
    [
        ("dream", "Breakout", "game"),
        ("dream", "tiny", "model"),
        ("train-wm", "Pong", "game"),
        ("train", "Breakout", "game"),
        ("train-agent", "Pong", "game"),
        ("evaluate", "Freeway", "game"),
        ("evaluate", "tiny", "model"),
        ("collect", "Breakout", "game"),
    ],
)
def test_the_game_or_model_as_a_plain_word(name: str, word: str, option: str, model: str) -> None:
    module, _, kind = cli.commands()[name].partition(":")
    command = getattr(importlib.import_module(module), kind)
    preset = ["--preset", "nano"] if hasattr(command, "defaults") else []
    plain = cli._parse(command, name, [word, *preset])
    assert plain == cli._parse(command, name, [f"--{option}", word, *preset])
    assert getattr(plain, option) == word


def test_evaluate_wm_takes_a_game_or_a_model() -> None:
    from diamond_gym.cli.evaluate_wm import EvaluateWm

    assert [cli._parse(EvaluateWm, "evaluate-wm", [word]).name for word in ("Pong", "tiny")] == ["Pong", "tiny"]


def test_it_runs_as_a_module(root: Path) -> None:
    command = [sys.executable, "-m", "diamond_gym", "lsit"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    said = "unknown command 'lsit'; did you mean list? (diamond-gym --help lists the commands)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_closed_pipe_is_quiet(root: Path) -> None:
    code = "import sys; from diamond_gym.cli import main; sys.exit(main())"
    command = f"{sys.executable} -c '{code}' list --games --json"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -c 1"], capture_output=True, text=True, cwd=root
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[", "")


def test_help_is_fast_because_it_loads_little(root: Path) -> None:
    code = "import sys; from diamond_gym.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert not {"torch", "tyro", "rich", "ale_py", "stable_baselines3"} & set(done.stderr.split())
