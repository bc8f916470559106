"""The second stage of a world model of two stages: its configuration, and the small frames of the first one.

Alonso et al. 2024 (arXiv 2405.12399), the CS:GO model: the dynamics learn frames that are made small by bicubic
interpolation, and the upsampler draws each large frame from the small one, enlarged, and the large one before.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.networks.preconditioning import SigmaDistribution
from diamond_gym.schema import check_least
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.two_stage import shrink_planes

Size = tuple[int, int]


def _sizes() -> DenoiserConfig:
    inner = InnerModelConfig(
        num_steps_conditioning=1,
        cond_channels=2048,
        channels=[64, 64, 128, 256],
        attn_depths=[0, 0, 0, 1],
    )
    return DenoiserConfig(inner, sigma_offset_noise=0.1)


@dataclass(frozen=True)
class UpsamplerConfig:
    """The training of a second stage, if there is one; the defaults are those of the authors for CS:GO."""

    factor: int | None = None
    """How many times smaller, in height and in width, the frames are that the dynamics learn; the upsampler brings them
    back (None: one stage)."""
    denoiser: DenoiserConfig = field(default_factory=_sizes)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(max_grad_norm=10.0, batch_size=8, grad_acc_steps=4)
    )
    sigma: SigmaDistribution = field(default_factory=lambda: SigmaDistribution(loc=-1.2))
    num_autoregressive_steps: int = 1
    """k: predictions of a segment beyond the first, each after the upsampler's own large frame."""
    every: int = 1
    """Steps of the dynamics per step of the upsampler."""

    def __post_init__(self) -> None:
        """Refuses what makes no sense, in one line."""
        check_least(self, num_autoregressive_steps=0, every=1)
        if self.factor is not None and not 2 <= self.factor <= 64:
            raise BadArgument(f"--upsampler.factor is 2 or more, up to 64, not {self.factor}")

    def small(self, size: Size) -> Size:
        """Height and width of the frames that the dynamics learn, of large ones of `size`; the same with one stage.

        Raises:
            BadArgument: The factor does not divide them, or leaves nothing.
        """
        if self.factor is None:
            return size
        (h, w), factor = size, self.factor
        if h % factor or w % factor:
            dividing = [n for n in range(2, 17) if h % n == w % n == 0 and min(h, w) // n >= _LEAST]
            words = f"one of {', '.join(map(str, dividing))} does" if dividing else "none does: import them --size"
            raise BadArgument(f"--upsampler.factor {factor} does not divide frames of {h}x{w} pixels; {words}")
        if min(h, w) // factor < _LEAST:
            raise BadArgument(
                f"frames of {h}x{w} pixels are too small for two stages by --upsampler.factor {factor}, which leaves "
                f"{h // factor}x{w // factor}: use a preset of one stage, such as nano"
            )
        return h // factor, w // factor

    def with_low_size(self, low: Size, size: Size) -> Self:
        """The same with the factor between frames of two sizes.

        Raises:
            BadArgument: There is none.
        """
        (h, w), (high, wide) = low, size
        if h >= high or w >= wide:
            raise BadArgument(f"--low-size {h}x{w} is to be smaller than the frames, which have {high}x{wide} pixels")
        if high % h or wide % w or high // h != wide // w:
            raise BadArgument(f"--low-size {h}x{w} does not go into frames of {high}x{wide} pixels: both sides have to")
        return replace(self, factor=high // h)

    def for_frames(self, img_channels: int) -> Self:
        """The same with a world's channels, and what makes a denoiser an upsampler, filled in."""
        inner = replace(self.denoiser.inner_model, img_channels=img_channels, num_actions=None, num_extra_images=1)
        return replace(self, denoiser=replace(self.denoiser, inner_model=inner, upsampling_factor=self.factor))


_LEAST = 6  # pixels: the side of the smallest frames that dynamics are fitted to


class SmallFrames(EpisodeStore):
    """A store as the dynamics of two stages see it: the same episodes with small frames, made when they are read.

    Args:
        folder: The store's.
        size: Height and width of the small frames; `about` goes on to tell of the large ones.
    """

    def __init__(self, folder: str | os.PathLike[str], size: Size) -> None:
        self._size = size
        super().__init__(folder)

    def frames(self, episode: npt.NDArray[np.int64], t: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Frames `t` of `episode`, both (...): uint8 (..., C, h, w)."""
        return shrink_planes(super().frames(episode, t), self._size)


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's table for a run's settings; what changes nothing is None in it, as for older runs."""
    upsampler, without = config["upsampler"], config["without_rewards"]
    return {
        **config,
        "upsampler": None if upsampler["factor"] is None else upsampler,
        "without_rewards": without or None,
    }
