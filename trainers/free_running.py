"""Dreams that run free: a policy acts on what is dreamed, and nothing but the start is real."""

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
from diamond_gym.trainers.collect import Policy
from diamond_gym.trainers.evaluation import RealPlay
from diamond_gym.trainers.real_pieces import returns
from diamond_gym.world_model import WorldModel

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


def dream_on(
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
        parts.append(_dream_on(model, play.obs[rows], play.act[rows], policy, sampler, seed + first, progress))
    obs, act, rew, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Dreamed(obs, act, rew, end)


def _dream_on(
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
