"""Frames of a batch sampled a few rows at a time, so that what the networks pass on stays in the processor's cache."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diamond_gym.denoiser import Denoiser
from diamond_gym.folded_denoiser import FoldedDenoiser
from diamond_gym.sampler import Denoises, Prepares, SamplerConfig, sample

CACHE_BYTES = 2**21
"""How large one feature map of the rows sampled together may be on a CPU. Measured on a Zen 4 (1 MiB of cache a core,
32 MiB shared), paper's size, bfloat16, one thread: 18.6 frames/s at 2**19, 22.8 at 2**21, 22.7 at 2**22 (one step)."""


def folded(denoiser: Denoises | Prepares, dtype: torch.dtype) -> Denoises | Prepares:
    """A denoiser's folded form, if it is one that can be folded; any other is returned as it is."""
    return FoldedDenoiser(denoiser, dtype) if isinstance(denoiser, Denoiser) else denoiser


def rows_at_once(denoiser: Denoises | Prepares, obs: Tensor) -> int:
    """How many of the rows of obs (B, T, C, H, W) to sample together: all of them, but for folded networks on CPUs."""
    if not isinstance(denoiser, FoldedDenoiser) or obs.device.type != "cpu":
        return len(obs)
    inner = denoiser.denoiser.config.inner_model
    pixels = obs.shape[-2] * obs.shape[-1] / inner.patch_size**2
    largest = max(channels * pixels / 4**level for level, channels in enumerate(inner.channels))
    fitting = max(1, int(CACHE_BYTES / (largest * denoiser.dtype.itemsize)))
    return -(-len(obs) // -(-len(obs) // fitting))  # as many blocks as there have to be, as equal as can be


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
