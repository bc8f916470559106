"""Real play of Atari games by several processes, as flat arrays."""

import multiprocessing
import shutil
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diamond_gym.registry import entries
from diamond_gym.trainers.appearances import appearances
from diamond_gym.trainers.scripted import PLAYERS

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Task:
    """One process's part of the playing."""

    game: str
    steps: int
    num_envs: int = 8
    seed: int = 0
    policy: str = "mixed"
    """"mixed" (half the games uniform, half with actions held), "scripted", "agent", or "bundled": the model's own."""
    agent: dict[str, Any] | None = None
    """For "agent": {"config": ActorCriticConfig, "weights": its state_dict}."""
    epsilon: float = 0.05
    """Chance that an agent's action is replaced by the action of mixed play."""


@dataclass(frozen=True)
class Play:
    """Frames in the order of play, game after game.

    Attributes:
        frames: uint8 (N, H, W, C).
        act: int64 (N,), taken after the frame was seen.
        rew: float32 (N,), unclipped.
        end: bool (N,), whether the step cost a life or ended the game.
        goes_on: bool (N,), whether frame i + 1 is what the step led to; false at the last frame of a game.
        scores: float32 (K,), of the games that were played from beginning to end.
        appears: int64 (N,), the place where something appears with the step's next frame (`appearances`), else -1.
        moves: int64 (places,), in how many steps something moves at each place.
    """

    frames: Array
    act: Array
    rew: Array
    end: Array
    goes_on: Array
    scores: Array
    appears: Array
    moves: Array

    @classmethod
    def of(cls, frames: Array, act: Array, rew: Array, end: Array, goes_on: Array, scores: Array) -> Self:
        """A play whose appearances are found here."""
        appears, moves, first = np.full(len(act), -1, np.int64), np.zeros(1, np.int64), 0
        for last in (*np.flatnonzero(~goes_on), len(goes_on) - 1):
            if last - first > 0:
                game = np.ascontiguousarray(frames[first : last + 1].transpose(0, 3, 1, 2))
                found, moving = appearances(game)
                appears[first + found[:, 0]] = found[:, 1]
                moves = moves + moving
            first = last + 1
        return cls(frames, act, rew, end, goes_on, scores, appears, moves)

    def save(self, folder: Path) -> Path:
        """Writes one .npy file an array."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote."""
        return cls(*(np.load(folder / f"{field.name}.npy") for field in fields(cls)))


def tasks_of(game: str, steps: int, seed: int, num_envs: int, part: int = 10**9) -> list[Task]:
    """First play in parts: mixed, as much scripted where the game has a script, and by its bundled agent."""
    policies = ["mixed", *(["scripted"] if game in PLAYERS else []), *(["bundled"] if has_agent(game) else [])]
    parts = max(len(policies), -(-steps // part))
    return [Task(game, steps // parts, num_envs, seed + i, policies[i % len(policies)]) for i in range(parts)]


def has_agent(game: str) -> bool:
    """Whether an agent lies beside the game's bundled model."""
    cards = [entry.card for entry in entries()]
    return any(card.game == game and ("agent" in card.files or card.actor_critic is not None) for card in cards)


def noise_play(num_actions: int, seed: int = 0, steps: int = 4_000) -> Play:
    """Random frames, in games of 200 steps with a reward now and then."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    end = t % 200 == 199
    frames = rng.integers(256, size=(steps, 64, 64, 3), dtype=np.uint8)
    return Play.of(
        frames, rng.integers(num_actions, size=steps), (t % 50 == 20) * 1.0, end, ~end, np.zeros(0, np.float32)
    )


def play(task: Task, size: tuple[int, int] = (64, 64)) -> Play:
    """Plays `task.steps` steps, divided among the rows."""
    import torch

    from diamond_gym.networks.actor_critic import ActorCritic
    from diamond_gym.registry import load_world_model, resolve
    from diamond_gym.registry.games import game as find_game
    from diamond_gym.trainers.games import Games
    from diamond_gym.trainers.own_agent import own_agent, own_file
    from diamond_gym.trainers.policies import AgentPolicy, StickyPolicy
    from diamond_gym.trainers.scripted import ScriptedPolicy
    from diamond_gym.trainers.worlds import World, about_game

    torch.set_num_threads(1)
    rows, rng = task.num_envs, np.random.default_rng([task.seed, 1])
    repeat = np.where(np.arange(rows) % 2, 0.75, 0.0)
    mixed = StickyPolicy(find_game(task.game).num_actions, repeat, rng)
    policy: Any = mixed
    if task.policy == "scripted":
        policy = ScriptedPolicy(task.game, rows, rng)
    elif task.policy == "bundled":
        saved = own_file(resolve(task.game), "cpu")
        if saved is not None:
            policy = saved.playing(rows, seed=task.seed)
        else:
            policy = AgentPolicy(own_agent(load_world_model(task.game, "cpu", "float32")), rows, rng)
    elif task.policy == "agent":
        assert task.agent is not None
        network = ActorCritic(task.agent["config"])
        network.load_state_dict(task.agent["weights"])
        policy = AgentPolicy(network, rows, rng)
    games = Games(World(about_game(task.game, size), task.game).envs(rows))
    obs, first = games.reset(task.seed), np.ones(rows, np.bool_)
    score = np.zeros(rows)
    kept: list[list[tuple[Any, ...]]] = [[] for _ in range(rows)]
    scores: list[float] = []
    for _ in range(-(-task.steps // rows)):
        act = policy(obs, first)
        if task.policy in ("agent", "bundled"):
            act = np.where(rng.random(rows) < task.epsilon, mixed(obs, first), act)
        new, rew, end, _, over = games.step(act)
        score = score + rew
        for i in range(rows):
            kept[i].append((obs[i], act[i], rew[i], end[i], True))
            if over[i]:
                kept[i].append((new[i], 0, 0.0, False, False))
        scores += score[over].tolist()
        score = np.where(over, 0, score)
        obs, first = games.obs, over
    games.close()
    for row in kept:
        row[-1] = (*row[-1][:4], False)  # the last frame of a row leads nowhere
    frames, act, rew, end, goes_on = (
        np.stack(part) for part in zip(*(step for row in kept for step in row), strict=True)
    )
    return Play.of(frames, act, rew.astype(np.float32), end, goes_on, np.array(scores, np.float32))


def _save(task: Task, size: tuple[int, int], folder: str) -> Path:
    return play(task, size).save(Path(folder))


class Players:
    """Processes that play while the GPU computes."""

    def __init__(self, processes: int, size: tuple[int, int] = (64, 64)) -> None:
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
        self._size = size
        memory = Path("/dev/shm")
        self._folder = Path(mkdtemp(dir=memory if memory.is_dir() else None))

    def start(self, task: Task) -> "Future[Path]":
        """Begins a part; the result is a folder for `Play.load`."""
        return self._pool.submit(_save, task, self._size, mkdtemp(dir=self._folder))

    def close(self) -> None:
        """Ends the processes and deletes what they played."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)
