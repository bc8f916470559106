"""Real experience: a Gymnasium vector environment, played by a policy, into an episode store."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from diamond_gym.action_spaces import codec_of_space
from diamond_gym.data.episode_files import Episode, next_game
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.schema import check_least, check_shares
from diamond_gym.trainers.games import Games
from diamond_gym.trainers.policies import Policy, ScriptedPolicy, StickyPolicy, explore

_Frames = npt.NDArray[np.uint8]
_WRITE_EVERY = 2048  # steps held in memory, 25 MB of frames


@dataclass
class _OpenEpisode:
    """The part of an episode that is not stored yet.

    Attributes:
        obs: Frames, from the last one that is stored on, or the first.
        info: What is noted about the episode.
        number: Its number, once part of it is stored.
        act: Actions, numbers or arrays.
        rew: Rewards.
    """

    obs: list[_Frames]
    info: dict[str, Any]
    number: int | None = None
    act: list[Any] = field(default_factory=list)
    rew: list[float] = field(default_factory=list)

    def part(self, end: bool, trunc: bool) -> Episode:
        """What is to be stored; its last step may have ended the episode."""
        last = np.arange(len(self.act)) == len(self.act) - 1
        act, rew = np.array(self.act), np.array(self.rew, np.float32)
        info = self.info if self.number is None else {}
        return Episode(np.stack(self.obs), act, rew, last & end, last & trunc, info)


@dataclass(frozen=True)
class CollectConfig:
    """How to collect.

    Attributes:
        policy: Without a policy of your own: "random", "sticky", "mixed", every other game one of the two, or
            "scripted", a simple player with random spells, where the game has one (`policies.PLAYERS`).
        epsilon: Chance of a uniform random action instead of the policy's.
        sticky_steps: For how many steps the sticky policy keeps an action, on average.
        seed: Collecting again into the same store with the same seed still plays other games.
        life_loss_ends: Whether the loss of a life ends an episode, as in the paper's training. The game goes
            on, and the next episode begins with the frame in which this one ended.
    """

    policy: Literal["mixed", "random", "sticky", "scripted"] = "mixed"
    epsilon: float = 0.0
    sticky_steps: float = 4.0
    seed: int = 0
    life_loss_ends: bool = True

    def __post_init__(self) -> None:
        check_shares(self, "epsilon")
        check_least(self, sticky_steps=1, seed=0)


@dataclass
class CollectStats:
    """What a collection brought.

    Attributes:
        steps: New steps in the store.
        episodes: Episodes that ended.
        scores: The score of every game that was played to its end, from its beginning.
        reward_signs: How many rewards were negative, zero, positive.
    """

    steps: int = 0
    episodes: int = 0
    scores: list[float] = field(default_factory=list)
    reward_signs: list[int] = field(default_factory=lambda: [0, 0, 0])


def games_for(steps: int) -> int:
    """How many games to play side by side for so many steps: 16, or fewer where each would get less than 50 steps.

    An Atari game takes a fifth of a second to load.
    """
    return min(16, max(2, steps // 50))


class Collector:
    """Games that stay open between collections, as the alternation of collecting and training needs it.

    >>> envs = world.envs(16)  # see `worlds.find_world`
    >>> with Collector(store, envs, CollectConfig("random")) as collector:
    ...     stats = collector.collect(20_000)

    Args:
        store: Open for appending.
        envs: Of the store's frames and actions, as `Games` takes them; closed with the collector.
        config: See there.
        policy: Your own; instead of `config.policy`.

    Attributes:
        scores: The sum of rewards so far of the game in each row, (B,).
        first_scores: The score of each row's first game, NaN until it is over, (B,).
    """

    def __init__(
        self,
        store: EpisodeStore,
        envs: VectorEnv[Any, Any, Any],
        config: CollectConfig | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.store, self.config = store, config or CollectConfig()
        self._played_by = self.config.policy if policy is None else "agent"
        self._rng = np.random.default_rng([self.config.seed, len(store)])
        self._codec = store.codec or codec_of_space(envs.single_action_space)
        self._policy = self._built_in(envs.num_envs) if policy is None else policy
        self._games = Games(envs, self.config.life_loss_ends)
        obs = self._games.reset(int(self._rng.integers(2**31 - envs.num_envs)))
        self.scores, self.first_scores = np.zeros(len(obs)), np.full(len(obs), np.nan)
        self._games_begun = next_game(store.info(i) for i in range(len(store)))
        self._open = [self._new_game(i) for i in range(len(obs))]
        self._finished: list[tuple[int | None, Episode]] = []

    def _built_in(self, num_envs: int) -> Policy:
        name, about = self.config.policy, self.store.about
        if name == "scripted":
            return ScriptedPolicy(about.game, num_envs, self._rng)
        repeat = np.full(num_envs, 0.0 if name == "random" else 1 - 1 / self.config.sticky_steps)
        if name == "mixed":
            repeat[::2] = 0.0
        return StickyPolicy(self._codec, repeat, self._rng)

    def collect(self, steps: int, progress: Callable[[int], None] | None = None) -> CollectStats:
        """Plays until the store has `steps` more steps (up to B - 1 more than that).

        Whatever interrupts it, what was played until then is stored first.

        Args:
            steps: How many.
            progress: Called after each step of the batch with the steps so far.
        """
        if steps < 1:
            raise BadArgument(f"steps must be at least 1, not {steps}")
        stats, held, signs = CollectStats(), 0, np.zeros(3, np.int64)
        try:
            while stats.steps < steps:
                signs += self._step(stats)
                stats.steps, held = stats.steps + self._games.num_envs, held + self._games.num_envs
                if held >= _WRITE_EVERY:
                    self._write()
                    held = 0
                if progress is not None:
                    progress(stats.steps)
        finally:
            self._write()
        stats.reward_signs = signs.tolist()
        return stats

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on from here between collections, but for store and policy."""
        return {
            "games": self._games.state_dict(),
            "rng": self._rng.bit_generator.state,
            "scores": self.scores.tolist(),
            "episodes": [(part.number, dict(part.info)) for part in self._open],
            "games_begun": self._games_begun,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state; the store has to be as it was then."""
        self._games.load_state_dict(state["games"])
        self._rng.bit_generator.state = state["rng"]
        self.scores = np.array(state["scores"])
        episodes = zip(self._games.obs, state["episodes"], strict=True)
        self._open = [_OpenEpisode([obs], info, number) for obs, (number, info) in episodes]
        self._games_begun = state["games_begun"]

    def close(self) -> None:
        """Ends the games."""
        self._games.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _step(self, stats: CollectStats) -> npt.NDArray[np.int64]:
        """One step of all games; returns how many rewards were negative, zero and positive, (3,)."""
        begins = np.array([part.number is None and not part.act for part in self._open])
        act = self._policy(self._games.obs, begins)
        act = explore(act, self.config.epsilon, self._codec, self._rng)
        obs, rew, end, trunc, over = self._games.step(act)
        self.scores += rew
        for i, part in enumerate(self._open):
            part.act.append(act[i])
            part.rew.append(rew[i])
            part.obs.append(obs[i])
            if end[i] or trunc[i]:
                stats.episodes += 1
                self._finished.append((part.number, part.part(bool(end[i]), bool(trunc[i]))))
                self._open[i] = _OpenEpisode([obs[i]], {**part.info, "first": False})
            if over[i]:
                stats.scores.append(float(self.scores[i]))
                if np.isnan(self.first_scores[i]):
                    self.first_scores[i] = self.scores[i]
                self.scores[i] = 0.0
                self._open[i] = self._new_game(i)
        return np.bincount(np.sign(rew).astype(np.int64) + 1, minlength=3)

    def _new_game(self, row: int) -> _OpenEpisode:
        self._games_begun += 1
        info = {"first": True, "policy": self._played_by, "game": self._games_begun - 1}
        return _OpenEpisode([self._games.obs[row]], info)

    def _write(self) -> None:
        """Stores all that was played, unfinished episodes too: they are extended later."""
        unfinished = [i for i, part in enumerate(self._open) if part.act]
        parts = self._finished + [(self._open[i].number, self._open[i].part(False, False)) for i in unfinished]
        if not parts:
            return
        numbers = self.store.write(parts)
        for i, number in zip(unfinished, numbers[len(self._finished) :], strict=True):
            self._open[i] = _OpenEpisode(self._open[i].obs[-1:], self._open[i].info, number)
        self._finished = []
