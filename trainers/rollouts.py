"""Rollouts of a policy: in the real game, and in the dream from the same frames."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.dream import Dream
from diamond_gym.errors import DiamondGymError
from diamond_gym.frames import to_pixels
from diamond_gym.sampler import SamplerConfig
from diamond_gym.starts import Starts
from diamond_gym.trainers.closed_loop import RealPlay
from diamond_gym.trainers.collect import Policy
from diamond_gym.trainers.collect_games import Games
from diamond_gym.world_model import WorldModel

_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rollouts:
    """N pieces of real play: T frames to begin from, and what the game showed in the H steps after them.

    Attributes:
        play: Frames uint8 (N, T + H, C, H, W), actions, the rewards' signs, and the ends (a lost life is one).
        going: bool (N, H), false from the step on in which a new game began.
    """

    play: RealPlay
    going: _Bool

    @property
    def returns(self) -> npt.NDArray[np.float32]:
        """The sum of the rewards' signs up to the first end, (N,)."""
        return returns(self.play.rew, self.play.end | ~self.going)


def returns(rew: npt.NDArray[np.float32], end: _Bool) -> npt.NDArray[np.float32]:
    """Sums of rewards (N, H) up to and with the step of the first end (N, H)."""
    after = np.cumsum(end, axis=1) - end > 0
    return np.asarray(np.where(after, 0, rew).sum(axis=1), np.float32)


def record(
    games: Games,
    policy: Policy,
    t: int,
    steps: int,
    warm_up: int,
    rng: np.random.Generator,
    progress: Callable[[int], None] | None = None,
) -> Rollouts:
    """Plays each game for a random while, then on until T frames lie within one game, and records from there.

    They may be of several lives, as a dream's own past may be that goes on.

    Args:
        games: N games side by side.
        policy: Who plays all of it.
        t: Frames to begin from, T.
        steps: Steps to record after them, H.
        warm_up: Steps to play before, 0 to so many.
        rng: The source of chance.
        progress: Called with the steps of each game so far.
    """
    obs = games.reset(int(rng.integers(2**31 - 1024)))
    n = len(obs)
    wait = rng.integers(0, warm_up + 1, size=n)
    frames = np.zeros((n, t + steps, *obs.shape[1:]), np.uint8)
    act, rew = np.zeros((n, t + steps - 1), np.int64), np.zeros((n, steps), np.float32)
    end, restart = np.zeros((n, steps), np.bool_), np.zeros((n, steps), np.bool_)
    # At how many frames each row's record stands; a new game begins it anew until one more than T are of the same.
    length, first = np.ones(n, np.int64), np.ones(n, np.bool_)
    frames[:, 0] = obs
    for step in range(10**9):
        chosen = policy(obs, first)
        obs, reward, ended, truncated, restarted = games.step(chosen)
        first = ended | truncated | restarted
        for i in np.flatnonzero(length < t + steps):
            if (restarted[i] and length[i] <= t) or (step < wait[i] and length[i] < t):
                frames[i, 0], length[i] = obs[i], 1
                continue
            at = length[i]
            frames[i, at], act[i, at - 1] = obs[i], chosen[i]
            if at >= t:
                rew[i, at - t], end[i, at - t], restart[i, at - t] = np.sign(reward[i]), ended[i], restarted[i]
            length[i] += 1
        if progress is not None:
            progress(step + 1)
        if (length == t + steps).all():
            break
    going = ~np.logical_or.accumulate(restart, axis=1)
    rew[~going] = 0
    play = RealPlay(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3)), act, rew, end & going)
    return Rollouts(play, going)


_BATCH = 32

MakePolicy = Callable[[int, np.random.Generator], Policy]  # from the number of rows


@dataclass(frozen=True)
class Dreamed:
    """N dreams of H steps that no end stopped.

    Attributes:
        obs: uint8 (N, H, C, H, W).
        act: int64 (N, H), what the policy did.
        rew: float32 (N, H), sampled signs of rewards.
        end: bool (N, H), sampled ends.
    """

    obs: npt.NDArray[np.uint8]
    act: npt.NDArray[np.int64]
    rew: npt.NDArray[np.float32]
    end: npt.NDArray[np.bool_]

    @property
    def returns(self) -> npt.NDArray[np.float32]:
        """The sum of the rewards up to the first end, (N,)."""
        return returns(self.rew, self.end)


def dream_rollout(
    model: WorldModel,
    play: RealPlay,
    make_policy: MakePolicy,
    sampler: SamplerConfig,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Dreamed:
    """Dreams on from the first T frames of each piece, for as many steps as really followed.

    A policy with a memory is shown the earlier frames of each start first. Dreams go on after an end, as the game
    does after the loss of a life.

    Args:
        model: The world model, of one stage.
        play: Real pieces.
        make_policy: Makes a policy for a number of rows.
        sampler: How frames are sampled.
        seed: Seeds the dreams and the policy.
        progress: Called with the number of frames dreamed since the last call.

    Raises:
        DiamondGymError: The model has two stages.
    """
    if model.upsampler is not None:
        raise DiamondGymError("models of two stages cannot be held against real play yet")
    parts = []
    for first in range(0, len(play.obs), _BATCH):
        rows = slice(first, first + _BATCH)
        policy = make_policy(len(play.obs[rows]), np.random.default_rng([seed, first]))
        parts.append(_dream_rollout(model, play.obs[rows], play.act[rows], policy, sampler, seed + first, progress))
    obs, act, rew, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Dreamed(obs, act, rew, end)


def _dream_rollout(
    model: WorldModel,
    obs: npt.NDArray[np.uint8],
    act: npt.NDArray[np.int64],
    policy: Policy,
    sampler: SamplerConfig,
    seed: int,
    progress: Callable[[int], None] | None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    n, t = len(obs), model.denoiser.num_steps_conditioning
    real = np.ascontiguousarray(obs[:, :t].transpose(0, 1, 3, 4, 2))  # (N, T, H, W, C)
    starts = Starts(real, act[:, : t - 1], np.zeros(n, np.bool_))
    dream = Dream(
        model.denoiser, model.reward_end, starts, n, sampler, None, model.device, model.precision, seed=seed
    )  # fmt: skip
    dream.reset(seed, start=torch.arange(n))
    first = np.ones(n, np.bool_)
    for earlier in range(t - 1):
        policy(real[:, earlier], first)
        first = np.zeros(n, np.bool_)
    seen, frames, acts, rews, ends = real[:, -1], [], [], [], []
    for _ in range(obs.shape[1] - t):
        acts.append(policy(seen, first))
        first = np.zeros(n, np.bool_)
        step = dream.step(torch.from_numpy(acts[-1]).to(model.device), restart=False)
        seen = to_pixels(step.obs).cpu().numpy()
        frames.append(seen)
        rews.append(step.rew.cpu().numpy())
        ends.append(step.end.cpu().numpy())
        if progress is not None:
            progress(n)
    dreamed = np.ascontiguousarray(np.stack(frames, axis=1).transpose(0, 1, 4, 2, 3))
    return dreamed, np.stack(acts, axis=1), np.stack(rews, axis=1), np.stack(ends, axis=1)
