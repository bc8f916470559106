"""Noise levels: how a denoiser scales its network's input and output at each, and which it is trained at.

Another preconditioning (DDPM's, flow matching's) is another function from sigma to `Scalings`; `Denoiser.precondition`
holds the one in use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from diamond_gym.errors import BadConfig
from diamond_gym.schema import TRAINING_SIGMA, check_config


class Scalings(NamedTuple):
    """D(x) = c_skip * x + c_out * F(c_in * x, c_noise): c_noise (n,), the others (n, 1, 1, 1), of n noise levels."""

    c_in: Tensor
    c_out: Tensor
    c_skip: Tensor
    c_noise: Tensor


def edm(sigma: Tensor, sigma_data: float, sigma_offset_noise: float = 0.0) -> Scalings:
    """Karras et al. 2022 (arXiv 2206.00364), table 1, of sigma (n,), with sigma'^2 = sigma^2 + sigma_offset_noise^2."""
    sigma = (sigma**2 + sigma_offset_noise**2).sqrt()
    c_in = 1 / (sigma**2 + sigma_data**2).sqrt()
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * c_skip.sqrt()
    image = (slice(None), None, None, None)
    return Scalings(c_in[image], c_out[image], c_skip[image], c_noise(sigma))


def c_noise(sigma: Tensor) -> Tensor:
    """How EDM's networks are told a noise level."""
    return sigma.log() / 4


@dataclass(frozen=True)
class SigmaDistribution:
    """Log-normal noise levels of training, clipped (EDM table 1, P_mean and P_std)."""

    loc: float = -0.4
    scale: float = 1.2
    sigma_min: float = 2e-3
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        """Refuses what are no noise levels."""
        check_config(self, TRAINING_SIGMA)
        if self.sigma_min > self.sigma_max:
            raise BadConfig(f"sigma_min must not be more than sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def levels(self, normal: Tensor) -> Tensor:
        """Noise levels, float32 (n,), of standard normal numbers (n,)."""
        return (normal * self.scale + self.loc).exp().clip(self.sigma_min, self.sigma_max)


@dataclass(frozen=True)
class TrainingNoise:
    """Where a loss takes its random numbers from, so that a test can hand in known ones."""

    sigma: Callable[[int], Tensor]
    normal: Callable[[tuple[int, ...]], Tensor]
    past: Callable[[int], Tensor] | None = None
    """Noise levels of the past frames of n rows, float32 (n,), 0 where they stay as they are; all of them if None."""

    @classmethod
    def of(
        cls,
        distribution: SigmaDistribution,
        normal: Callable[[tuple[int, ...]], Tensor],
        uniform: Callable[[tuple[int, ...]], Tensor],
        past_noise: float = 0.0,
    ) -> "TrainingNoise":
        """Noise made of random numbers from outside.

        Args:
            distribution: Of the noise levels.
            normal: Gives standard normal numbers of a shape.
            uniform: Gives numbers in [0, 1).
            past_noise: Highest noise level of past frames. Half of the rows stay as they are, as frames of a dream do;
                the levels of the others are uniform.
        """
        return cls(
            lambda n: distribution.levels(normal((n,))),
            normal,
            (lambda n: past_noise * (2 * uniform((n,)) - 1).clamp(min=0)) if past_noise else None,
        )

    @classmethod
    def on(
        cls, device: torch.device | str, distribution: SigmaDistribution, past_noise: float = 0.0
    ) -> "TrainingNoise":
        """The same of fresh numbers from torch's global generator of a device."""
        normal, uniform = (partial(draw, dtype=torch.float32, device=device) for draw in (torch.randn, torch.rand))
        return cls.of(distribution, normal, uniform, past_noise)
