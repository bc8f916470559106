"""Frames of a batch sampled a few rows at a time, so that what the networks pass on stays in the processor's cache."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diamond_gym.networks.inference import rows_at_once
from diamond_gym.sampler import Denoises, Prepares, SamplerConfig, sample


def sample_rows(
    denoiser: Denoises | Prepares,
    obs: Tensor,
    act: Tensor | None,
    initial_noise: Tensor,
    config: SamplerConfig,
    noise: Callable[[tuple[int, ...]], Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """`sample`, block by block; the arguments and what is returned are those of `sample`, for all rows."""
    size, batch = rows_at_once(denoiser, obs), len(obs)
    if size >= batch:
        return sample(denoiser, obs, act, initial_noise, config, noise)
    drawn: list[Tensor] = []  # what the first block asks for is drawn for all rows, and the others take their part
    frames, trajectories = [], []
    for first in range(0, batch, size):
        rows, turn = slice(first, first + size), iter(range(2**31))

        def extra(shape: tuple[int, ...], rows: slice = rows, turn: Iterator[int] = turn) -> Tensor:
            assert noise is not None
            k = next(turn)
            if k == len(drawn):
                drawn.append(noise((batch, *shape[1:])))
            return drawn[k][rows]

        frame, trajectory = sample(
            denoiser,
            obs[rows],
            None if act is None else act[rows],
            initial_noise[rows],
            config,
            None if noise is None else extra,
        )
        frames.append(frame)
        trajectories.append(trajectory)
    return torch.cat(frames), [torch.cat(images) for images in zip(*trajectories, strict=True)]
