"""Command lines of hostile values, over all commands and options: a clear message, or a command that makes sense."""

import importlib
import random
import signal
import types
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from released import episodes, tiny_release
from stubs import save_tiny_model

from diamond_gym import cli
from diamond_gym.frames import tile
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.world_model import WorldModel

LINES, SAMPLE, SECONDS = 1_200, 40, 120
# What is no number whatever the option; infinity is one for --sampler.s-tmax alone.
NO_NUMBER = ["nan", "NaN", "３", "1_000", "None", "", " 1", "1 ", "0x10", "1e400", "١", "1,5", "true", "9" * 30, "--1"]
NUMBERS = ["0", "-1", "1", "2", "3", "7", "0.5", "-0.0", "1e30", "inf", "-inf", "1000000", "2147483648", "999999999999"]
TEXTS = ["", "None", "../x", "a" * 5000, "ünï", "-", "[red]", "{}", "%s", "~", "~nobody/x", ".", "..", "hf:a/b", "Pong"]
PATHS = [
    "",
    ".",
    "..",
    "/dev/null",
    "/dev/full",
    "/dev/null/x",
    "/proc/x",
    "a" * 300,
    "x.gif",
    "x.mp4",
    "/dev/null/x.gif",
    "/proc/x.mp4",
    "x.png",
    "x.zip",
    "no/such/thing",
    "~nobody/x",
    "taken",
    "taken/x.gif",
]
BASES: dict[str, list[list[str]]] = {
    "list": [[], ["--games"]],
    "info": [["tiny"], ["Pong"]],
    "collect": [["--game", "Pong", "--steps", "3"], ["--env", "DiamondGym/Catch-v0", "--steps", "3"]],
    "data import": [["made", "--name", "x"], ["taken", "--name", "y", "--format", "npz"]],
    "data info": [["taken"]],
    "data preview": [["taken"]],
    "data merge": [["taken", "--name", "x"]],
    "data split": [["taken"]],
    "data export": [["taken", "a/b-v0"]],
    "data convert": [["taken"]],
    "data check": [["taken"]],
    "train-wm": [["--game", "Pong"], ["--game", "Pong", "--dry-run"], ["--data", "./store"]],
    "play": [["tiny", "--no-open"], ["--no-open"], ["tiny", "--terminal"]],
    "dream": [["--model", "tiny", "--steps", "2"], ["--model", "tiny", "--steps", "2", "--out", "x.gif"]],
    "evaluate-wm": [["tiny"]],
    "study": [["--game", "Pong"], ["--data", "./store", "--quick"]],
    "distill": [["tiny"], ["tiny", "--dry-run"], ["tiny", "--data", "./store"]],
    "train": [["--game", "Pong"], ["--game", "Pong", "--dry-run"], ["--env", "DiamondGym/Catch-v0"]],
    "train-agent": [["--game", "Breakout", "--model", "tiny"], ["--game", "Breakout", "--algo", "ppo"]],
    "evaluate": [["--game", "Breakout", "--random"], ["--runs", "."], ["--published"]],
    "import-diamond": [
        [
            "made/agent.pt",
            "--config",
            "made/agent.yaml",
            "--env-config",
            "made/env.yaml",
            "--game",
            "X",
            "--starts",
            "none",
        ]
    ],
    "benchmark": [["tiny", "--eager"]],
    "pull": [["Pong"], ["hf:a/b"]],
    "push": [["tiny", "a/b"]],
    "export": [["tiny", "out"]],
    "verify": [["tiny"], ["--all"]],
    "remove": [["nobody"]],
}


class Reached(Exception):
    """The command was accepted and would begin its work."""


def options(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of a command with its type, as one types it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, name = hints[field.name], field.name
        if typing.get_origin(hint) is typing.Annotated:
            hint, *more = typing.get_args(hint)
            name = next((arg.name for arg in more if getattr(arg, "name", None) is not None), name)
        name = name.rstrip("_").replace("_", "-")
        if is_dataclass(hint):
            yield from options(hint, f"{prefix}{name}." if name else prefix)
        elif "Positional" not in str(hints[field.name]):
            yield f"--{prefix}{name}", hint


def members(hint: Any) -> list[Any]:
    """The types a value may have, without those of lists' brackets."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, list):
        return [one for part in typing.get_args(hint) if part is not Ellipsis for one in members(part)]
    return [hint]


def lines(count: int, seed: int = 0) -> list[tuple[list[str], bool]]:
    """Command lines, and whether each must be refused."""
    dice, found = random.Random(seed), []
    kinds = {name: target.split(":") for name, target in cli.commands().items()}
    flags = {
        name: list(options(getattr(importlib.import_module(module), kind))) for name, (module, kind) in kinds.items()
    }
    names = [name for name in flags for _ in range(1 + min(6, len(flags[name]) // 4))]
    while len(found) < count:
        name = dice.choice(names)
        words, refused = [name, *dice.choice(BASES[name])], False
        for flag, hint in dice.sample(flags[name], min(len(flags[name]), dice.choice((1, 1, 1, 2, 3)))):
            kinds_of = members(hint)
            words.append(flag)
            if bool in kinds_of:
                continue
            if int in kinds_of or float in kinds_of:
                value = dice.choice(NO_NUMBER if dice.random() < 0.5 else NUMBERS)
                refused |= value in NO_NUMBER
            else:
                value = dice.choice(PATHS if Path in kinds_of else TEXTS)
            words += [value] * dice.choice((1, 1, 1, 2) if typing.get_origin(hint) in (tuple, list) else (1,))
        found.append((words, refused))
    return found


@pytest.fixture
def place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with models and files, where nothing that takes long is begun."""
    from diamond_gym.cli import (
        benchmark,
        distill,
        dream,
        dry_run,
        evaluate,
        evaluate_wm,
        fits,
        train_agent,
    )
    from diamond_gym.networks.actor_critic import ActorCritic
    from diamond_gym.play import serving
    from diamond_gym.registry import hub
    from diamond_gym.trainers import collect, sb3, start_states
    from diamond_gym.trainers.actor_critic import ActorCriticTrainer
    from diamond_gym.trainers.rollouts import Rollouts
    from diamond_gym.trainers.world_model import WorldModelTrainer
    from diamond_gym.trainers.worlds import World

    def reached(*_: Any, **__: Any) -> Any:
        raise Reached

    def fit(self: Any, config: Any, *_: Any, **__: Any) -> None:
        with torch.device("meta"):
            self.world_model = WorldModel(Denoiser(config.denoiser), RewardEnd(config.reward_end))
        self.step, self.config = 0, config

    def agent(self: Any, config: Any, *_: Any, **__: Any) -> None:
        with torch.device("meta"):
            ActorCritic(config.network)
        raise Reached

    def planned(config: Any, world: Any, *_: Any, **__: Any) -> None:
        fit(types.SimpleNamespace(), config.for_game(world.about).fit)
        agent(None, config.for_game(world.about).agent)

    def played(self: Any, envs: Any, player: Any) -> Any:
        obs, _ = envs.reset(seed=self.seed)
        return [tile(obs, scale=self.scale)] * 2, [1.0], 0, 1.0

    store = episodes(tmp_path / "store", num_actions=6, size=64)
    no_games = types.SimpleNamespace(close=lambda: None)
    from diamond_gym.data import EpisodeStore

    for owner, name, stub in (
        (WorldModelTrainer, "__init__", fit),
        (ActorCriticTrainer, "__init__", agent),
        (dry_run, "measure", planned),
        (benchmark, "step_seconds", reached),
        (collect.Collector, "__init__", reached),
        (fits, "experience", lambda *_: EpisodeStore(store)),
        (Rollouts, "held_out", reached),
        (evaluate_wm, "experience", lambda *_: EpisodeStore(store)),
        (evaluate_wm, "measure", reached),
        (distill, "DistillTrainer", reached),
        (dream.DreamCommand, "_play", played),
        (WorldModel, "compile_networks", lambda _: None),
        (serving.Running, "run", reached),
        (train_agent, "real_games", lambda *_: no_games),
        (evaluate, "score_agent", reached),
        (sb3, "training_envs", reached),
        (hub, "fetch_published", reached),
        (hub, "fetch_model", reached),
        (hub, "push", reached),
        (start_states, "starts_from_game", reached),
        (World, "envs", lambda *_, **__: no_games),
        (torch, "set_num_threads", lambda threads: None),
    ):
        monkeypatch.setattr(owner, name, stub)
    tiny_release(tmp_path / "made")
    save_tiny_model()
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(words: list[str]) -> int:
    """The exit code; 0 for a command that would begin its work. Whatever else it raises is a fault."""

    def late(*_: object) -> None:
        raise TimeoutError(f"hangs: {words}")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return cli.main(words)
    except Reached:
        return 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(found: list[tuple[list[str], bool]], place: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = []
    for words, refused in found:
        try:
            code = outcome(words)
        except BaseException as error:  # each is noted, and the next one tried
            faults.append(f"{words}: {type(error).__name__}: {str(error)[:200]}")
            continue
        said = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("preset: ")]
        if refused and code == 0:
            faults.append(f"{words}: accepted")
        elif code == 2 and not said:
            faults.append(f"{words}: {said}")
        elif code not in (0, 1, 2) or (code == 1 and not said):
            faults.append(f"{words}: {code} {said}")
        left = [path for folder in (place, home) for path in folder.rglob("*.tmp-*")]
        faults += [f"{words}: left {path}" for path in left]
        for path in left:
            path.unlink(missing_ok=True)
    assert not faults, "\n".join(faults)


def test_a_sample_of_hostile_command_lines(place: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(lines(SAMPLE, seed=1), place, home, capsys)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(12))
def test_hostile_command_lines(part: int, place: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(lines(LINES)[part::12], place, home, capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--game", "Pong", "--agent.network.down", "３"],
        ["train", "--game", "Pong", "--agent.network.down", "3"],
        ["train", "--game", "Pong", "--dry-run", "--fit.reward-end.attn-depths", "1_000"],
        ["train-wm", "--game", "Pong", "--reward-end.attn-depths", "1"],
        ["train-wm", "--game", "Pong", "--denoiser.inner-model.attn-depths", "0", "0"],
        ["train-wm", "--game", "Pong", "--denoiser.inner-model.channels", "60", "60", "60"],
        ["benchmark", "--eager", "--threads", "2147483648"],
        ["train-agent", "--game", "Breakout", "--model", "tiny", "--n-envs", "None"],
        ["dream", "--model", "tiny", "--fps", "1e30"],
        ["dream", "--model", "tiny", "--fps", "1" + "0" * 30],
        ["dream", "--model", "tiny", "--starts", "²"],
        ["train", "--game", "Pong", "--fit.sigma.scale", "-1"],
        ["train", "--game", "Pong", "--agent.loss.gamma", "7"],
    ],
)
def test_command_lines_that_once_failed(words: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(words) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("preset: ")]
    assert len(message) == 1 or any("--help" in line for line in message), "one line, or tyro's own message"
