"""Real experience: a batch of real games, played by a policy, into an episode store."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from diamond_gym.data.episode_files import About, Episode
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.envs.atari_game import SIZE
from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import game as find_game
from diamond_gym.trainers.collect_games import AleGames, Games
from diamond_gym.trainers.policies import Policy as Policy
from diamond_gym.trainers.policies import StickyPolicy as StickyPolicy
from diamond_gym.trainers.scripted import ScriptedPolicy


class OpenEpisode:
    """The piece of an episode that is not stored yet.

    Attributes:
        number: The episode's, once part of it is stored.
        obs: Frames, from the last one that is stored on, or the first.
        act: Actions.
        rew: Rewards.
        first: Whether the episode begins a game.
        played_by: Who plays.
        game: The game's number in the store; None if it is not known.

    Args:
        obs: The first frame.
        first: See above, as the rest.
        played_by: See above.
        game: See above.
    """

    def __init__(self, obs: npt.NDArray[np.uint8], first: bool, played_by: str, game: int | None) -> None:
        self.number: int | None = None
        self.obs, self.act, self.rew = [obs], list[int](), list[float]()
        self.first, self.played_by, self.game = first, played_by, game

    @property
    def begins(self) -> bool:
        """Whether the episode has no step yet, stored or not."""
        return self.number is None and not self.act

    def add(self, act: int, rew: float, next_obs: npt.NDArray[np.uint8]) -> None:
        """Adds a step."""
        self.act.append(act)
        self.rew.append(rew)
        self.obs.append(next_obs)

    def episode(self, end: bool, trunc: bool) -> Episode:
        """The piece to be stored, whose last step may have ended the episode."""
        last = np.arange(len(self.act)) == len(self.act) - 1
        info: dict[str, Any] = {}
        if self.number is None:
            info = {"first": self.first, "policy": self.played_by}
            info |= {} if self.game is None else {"game": self.game}
        act, rew = np.array(self.act, np.int64), np.array(self.rew, np.float32)
        return Episode(np.stack(self.obs), act, rew, last & end, last & trunc, info)

    def go_on(self, number: int) -> None:
        """Forgets what has been stored under a number."""
        self.number, self.obs, self.act, self.rew = number, self.obs[-1:], [], []


_WRITE_EVERY = 2048  # steps held in memory, 25 MB of frames


@dataclass(frozen=True)
class CollectConfig:
    """How to collect.

    Attributes:
        game: One of the 26 games; any word where the collector is given games.
        num_envs: Games played side by side.
        policy: Without a policy of your own: "random", "sticky", "mixed", every other game one of the two, or
            "scripted", a simple player with random spells, where the game has one (`scripted.PLAYERS`).
        epsilon: Chance of a uniform random action instead of your policy's.
        sticky_steps: For how many steps the sticky policy keeps an action, on average.
        seed: Collecting again into the same store with the same seed still plays other games.
        life_loss_ends: Whether the loss of a life ends an episode, as in the paper's training. The game goes
            on, and the next episode begins with the frame in which this one ended.
        noop_max: At most so many no-ops before a game begins.
    """

    game: str
    num_envs: int = 16
    policy: Literal["mixed", "random", "sticky", "scripted"] = "mixed"
    epsilon: float = 0.0
    sticky_steps: float = 4.0
    seed: int = 0
    life_loss_ends: bool = True
    noop_max: int = 30

    def __post_init__(self) -> None:
        """Refuses what makes no sense, in one line."""
        if self.num_envs < 1:
            raise BadArgument(f"num_envs is at least 1, not {self.num_envs}")
        if not 0 <= self.epsilon <= 1:
            raise BadArgument(f"epsilon is a chance, 0 to 1, not {self.epsilon}")
        if self.sticky_steps < 1:
            raise BadArgument(f"sticky_steps is at least 1, not {self.sticky_steps}")
        if self.seed < 0:
            raise BadArgument(f"seed is not negative, unlike {self.seed}")


@dataclass
class CollectStats:
    """What a collection brought.

    Attributes:
        steps: New steps in the store.
        episodes: Episodes that ended.
        scores: The score of every game that was played to its end, from its beginning.
        reward_signs: How many rewards were negative, zero, positive.
        seconds: How long it took.
    """

    steps: int = 0
    episodes: int = 0
    scores: list[float] = field(default_factory=list)
    reward_signs: tuple[int, int, int] = (0, 0, 0)
    seconds: float = 0.0


class Collector:
    """Games that stay open between collections, as the alternation of collecting and training needs it.

    >>> with Collector(store, CollectConfig("Breakout", num_envs=1), policy) as collector:
    ...     stats = collector.collect(100)

    Args:
        store: Open for appending.
        config: See there.
        policy: Your own; instead of `config.policy`.
        games: Your own, as many as the configuration says; instead of the game in ALE.
    """

    def __init__(
        self,
        store: EpisodeStore,
        config: CollectConfig,
        policy: Policy | None = None,
        games: Games | None = None,
    ) -> None:
        self.store, self.config = store, config
        self._played_by = config.policy if policy is None else "agent"
        n, num_actions = config.num_envs, store.about.num_actions
        self._rng = np.random.default_rng([config.seed, store.num_episodes])
        if policy is None and config.policy == "scripted":
            policy = ScriptedPolicy(config.game, n, self._rng)
        elif policy is None:
            repeat = np.full(n, 0.0 if config.policy == "random" else 1 - 1 / config.sticky_steps)
            if config.policy == "mixed":
                repeat[::2] = 0.0
            policy = StickyPolicy(num_actions, repeat, self._rng)
        self._policy, self._num_actions = policy, num_actions
        size = store.about.frame_shape[:2]
        self._games = games or AleGames(config.game, n, size, config.noop_max, config.life_loss_ends)
        self._obs = self._games.reset(int(self._rng.integers(2**31 - n)))
        self._scores = np.zeros(n)
        self._games_begun = 1 + max(
            (episode.get("game", -1) for episode in map(store.info, range(len(store)))), default=-1
        )
        self._parts = [self._new_game(i) for i in range(n)]
        self._finished: list[tuple[int | None, Episode]] = []

    def collect(self, steps: int, progress: Callable[[int], None] | None = None) -> CollectStats:
        """Plays until the store has `steps` more steps (up to num_envs - 1 more than that).

        Whatever interrupts it, what was played until then is stored first.

        Args:
            steps: How many.
            progress: Called after each step of the batch with the steps so far.
        """
        if steps < 1:
            raise BadArgument(f"steps is at least 1, not {steps}")
        stats, began, held = CollectStats(), time.monotonic(), 0
        signs = np.zeros(3, np.int64)
        try:
            while stats.steps < steps:
                new = self._step(stats, signs)
                stats.steps, held = stats.steps + new, held + new
                if held >= _WRITE_EVERY:
                    self._write()
                    held = 0
                if progress is not None:
                    progress(stats.steps)
        finally:
            self._write()
        stats.seconds = time.monotonic() - began
        stats.reward_signs = (int(signs[0]), int(signs[1]), int(signs[2]))
        return stats

    def state_dict(self) -> dict[str, Any] | None:
        """What it takes to go on from here between collections, but for store and policy; None where games cannot."""
        games = self._games.state_dict()
        if games is None:
            return None
        parts = [(part.number, part.first, part.game) for part in self._parts]
        return {
            "games": games,
            "rng": self._rng.bit_generator.state,
            "scores": self._scores.tolist(),
            "parts": parts,
            "games_begun": self._games_begun,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state; the store has to be as it was then."""
        self._obs = self._games.load_state_dict(state["games"])
        self._rng.bit_generator.state = state["rng"]
        self._scores = np.array(state["scores"])
        self._parts = []
        for i, (number, first, game) in enumerate(state["parts"]):
            self._parts.append(OpenEpisode(self._obs[i], first, self._played_by, game))
            self._parts[-1].number = number
        self._games_begun = state["games_begun"]

    def close(self) -> None:
        """Ends the games."""
        self._games.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _step(self, stats: CollectStats, signs: npt.NDArray[np.int64]) -> int:
        """One step of all games; returns how many of them count."""
        n = self.config.num_envs
        act = self._policy(self._obs, np.array([part.begins for part in self._parts]))
        if self.config.epsilon:
            chance = self._rng.random(n) < self.config.epsilon
            act = np.where(chance, self._rng.integers(self._num_actions, size=n), act)
        self._obs, rew, end, trunc, restarted = self._games.step(act)
        for i in range(n):
            if restarted[i]:
                stats.scores.append(float(self._scores[i]))
                self._scores[i] = 0.0
                self._parts[i] = self._new_game(i)
                continue
            self._scores[i] += rew[i]
            part = self._parts[i]
            part.add(act[i], rew[i], self._obs[i])
            if end[i] or trunc[i]:
                stats.episodes += 1
                self._finished.append((part.number, part.episode(bool(end[i]), bool(trunc[i]))))
                self._parts[i] = OpenEpisode(self._obs[i], False, self._played_by, part.game)
        signs += np.bincount(np.sign(rew[~restarted]).astype(np.int64) + 1, minlength=3)
        return n - int(restarted.sum())

    def _new_game(self, row: int) -> OpenEpisode:
        self._games_begun += 1
        return OpenEpisode(self._obs[row], True, self._played_by, self._games_begun - 1)

    def _write(self) -> None:
        """Stores all that was played, unfinished episodes too: they are extended later."""
        open_parts = [part for part in self._parts if part.act]
        pieces = self._finished + [(part.number, part.episode(False, False)) for part in open_parts]
        if not pieces:
            return
        numbers = self.store.write(pieces)
        for part, number in zip(open_parts, numbers[len(self._finished) :], strict=True):
            part.go_on(number)
        self._finished = []


def about_game(game: str, size: tuple[int, int] = (SIZE, SIZE)) -> About:
    """What a store of a real game's experience holds, with frames of the paper's size or of another."""
    row = find_game(game)
    versions = {name: version(name) for name in ("ale-py", "gymnasium", "diamond-gym") if _installed(name)}
    return About(row.name, (*size, 3), row.num_actions, row.action_meanings, versions=versions)


def collect(
    store: EpisodeStore,
    config: CollectConfig,
    steps: int,
    policy: Policy | None = None,
    progress: Callable[[int], None] | None = None,
) -> CollectStats:
    """Plays new games until the store has `steps` more steps; see `Collector`.

    >>> with EpisodeStore("breakout", "a", about_game("Breakout")) as store:
    ...     collect(store, CollectConfig("Breakout"), steps=20_000)
    """
    with Collector(store, config, policy) as collector:
        return collector.collect(steps, progress)


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
