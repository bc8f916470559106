"""Agents evaluated in whole real games: scores and their intervals."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from diamond_gym.action_spaces import codec_of_space
from diamond_gym.envs.atari import RealVectorEnv
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.registry.games import game as find_game
from diamond_gym.registry.games import games
from diamond_gym.trainers.policies import AgentPolicy, Policy, StickyPolicy
from diamond_gym.trainers.worlds import World, find_world, game_name

if TYPE_CHECKING:
    from diamond_gym.trainers.sb3_files import SavedAgent

RESAMPLES = 10_000
_SURE = 1e-6  # a temperature at which only the likeliest action is ever drawn


def interval(values: npt.NDArray[np.floating], level: float = 0.95) -> tuple[float, float] | None:
    """A bootstrap interval of a mean: percentiles of the means of resampled values; None of fewer than two values."""
    if len(values) < 2:
        return None  # every resample is the same: it would claim a certainty that there is not
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Scores:
    """Unclipped scores of full games.

    Attributes:
        game: The game's name.
        scores: One for each game, by row and then by time.
        lengths: The steps of each.
        truncated: How many were cut by a limit of steps instead of ending.
    """

    game: str
    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    truncated: int = 0

    @property
    def mean(self) -> float:
        """The mean score."""
        return float(np.mean(self.scores))

    @property
    def std(self) -> float | None:
        """The standard deviation of a single game's score (n - 1 below); None where there is only one."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None

    @property
    def human_normalised(self) -> float | None:
        """The mean score where random play is 0 and a human player is 1; None for what is no Atari game."""
        return find_game(self.game).human_normalised(self.mean) if self.game in games() else None

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """A bootstrap interval of the mean; None where there is only one score."""
        return interval(np.asarray(self.scores), level)

    def table(self) -> dict[str, Any]:
        """All of it as plain data."""
        interval = self.interval()
        return {
            "episodes": len(self.scores),
            "mean": self.mean,
            "std": self.std,
            "interval_95": None if interval is None else list(interval),
            "human_normalised": self.human_normalised,
            "mean_length": float(np.mean(self.lengths)),
            "truncated": self.truncated,
            "scores": list(self.scores),
        }


Agent: TypeAlias = "ActorCritic | SavedAgent | None"  # None plays at random


def world_of(env: str, size: tuple[int, int] | None = None, render_obs: bool = False) -> World:
    """The world of an environment's id, seen by its rendered picture where its observations are no images."""
    if render_obs:
        return find_world(env=env, size=size, render_obs=True)
    try:
        return find_world(env=env, size=size)
    except BadArgument:
        return find_world(env=env, size=size, render_obs=True)


def real_games(game: str | World, num_envs: int, max_episode_steps: int | None = None) -> VectorEnv[Any, Any, Any]:
    """Real games for `play`, by name, environment's id or world: full ones, which a lost life does not end."""
    if isinstance(game, World) or game not in games():
        if max_episode_steps is not None:
            raise BadArgument("--max-episode-steps cuts Atari games; an environment has its own limit")
        world = game if isinstance(game, World) else world_of(game)
        return world.envs(num_envs, AutoresetMode.SAME_STEP)
    return RealVectorEnv(
        game=game, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=max_episode_steps
    )


def play(
    policy: Policy,
    envs: VectorEnv[Any, Any, Any],
    game: str,
    episodes: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Plays full games and adds up their rewards.

    Each row plays a number of games that is settled beforehand. Taking whichever games end first would
    prefer the short ones, which in most games are the bad ones.

    Args:
        policy: From frames (B, H, W, C), and in which rows a game begins (B,), to actions (B,).
        envs: The games, in mode SAME_STEP.
        game: Their name.
        episodes: How many games, at least as many as rows.
        seed: Row i begins with seed + i.
        progress: Called with the number of finished games.
    """
    rows = envs.num_envs
    if episodes < rows:
        raise BadArgument(f"{rows} rows cannot share {episodes} games: use fewer rows")
    quota = episodes // rows + (np.arange(rows) < episodes % rows)
    scores: list[list[float]] = [[] for _ in range(rows)]
    lengths: list[list[int]] = [[] for _ in range(rows)]
    score, length, truncated, finished = np.zeros(rows), np.zeros(rows, np.int64), 0, 0
    obs, _ = envs.reset(seed=seed)
    first: npt.NDArray[np.bool_] = np.ones(rows, np.bool_)
    while finished < episodes:
        obs, rewards, terminations, truncations, _ = envs.step(policy(obs, first))
        score, length, first = score + rewards, length + 1, terminations | truncations
        for row in np.flatnonzero(first):
            if len(scores[row]) < quota[row]:  # rows that are through play on, but no longer count
                scores[row].append(float(score[row]))
                lengths[row].append(int(length[row]))
                truncated += int(truncations[row] and not terminations[row])
                finished += 1
        score[first], length[first] = 0, 0
        if progress is not None and first.any():
            progress(finished)
    return Scores(game, tuple(chain(*scores)), tuple(chain(*lengths)), truncated)


def score(
    agent: Agent,
    envs: VectorEnv[Any, Any, Any],
    game: str,
    episodes: int,
    seed: int = 0,
    deterministic: bool = False,
    temperature: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores an agent over full games; by default as the paper does: sampled policy, unclipped rewards.

    Args:
        agent: On its device; None for uniform random actions.
        envs: The games, in mode SAME_STEP.
        game: Their name.
        episodes: How many games, at least as many as rows.
        seed: Of games and actions.
        deterministic: Whether to take the likeliest action instead of sampling one.
        temperature: Divides the logits of DIAMOND's agent; 1 by default.
        progress: Called with the number of finished games.

    Raises:
        BadArgument: The agent sees other frames than the games show, or has other actions; or it is one of
            Stable-Baselines3's, which has no temperature.
    """
    rows, shown = envs.num_envs, envs.single_observation_space.shape or ()
    codec = codec_of_space(envs.single_action_space, game)
    if agent is None:
        policy: Policy = StickyPolicy(codec, np.zeros(rows), np.random.default_rng([seed, 3]))
    elif isinstance(agent, ActorCritic):
        config = agent.config
        seen = config.frame_shape
        if (seen, config.num_actions, codec.is_vector) != (shown, codec.num_inputs, False):
            raise BadArgument(
                f"the agent sees frames {seen} and has {config.num_actions} actions, "
                f"but {game} shows {shown} and has {codec.space if codec.is_vector else codec.num_inputs}"
            )
        temperature = _SURE if deterministic else temperature or 1.0
        policy = AgentPolicy(agent, rows, np.random.default_rng([seed, 9]), temperature)
    elif temperature is not None:
        raise BadArgument("agents of Stable-Baselines3 have no --temperature")
    else:
        agent.check(game_name(game), shown, codec)
        policy = agent.playing(rows, deterministic, seed)
    with torch.random.fork_rng():  # agents of Stable-Baselines3 draw from torch's own stream
        torch.manual_seed(seed)
        return play(policy, envs, game, episodes, seed, progress)


def score_agent(
    agent: Agent,
    game: str | World,
    episodes: int = 100,
    num_envs: int = 10,
    max_episode_steps: int | None = None,
    **how: Any,
) -> Scores:
    """Scores an agent as `score` does, in games that are opened for it.

    Args:
        agent: On its device; None for uniform random actions.
        game: One of the 26, the id of an environment, or a world that can be played.
        episodes: How many games.
        num_envs: How many of them side by side.
        max_episode_steps: Cuts longer games; None for ALE's own half hour of play.
        **how: `seed`, `deterministic`, `temperature` and `progress`, as those of `score`.
    """
    with closing(real_games(game, min(num_envs, episodes), max_episode_steps)) as envs:
        name = game.env if isinstance(game, World) else game
        return score(agent, envs, name, episodes, **how)
