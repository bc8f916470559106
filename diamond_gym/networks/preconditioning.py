"""Noise levels: how a denoiser scales its network's input and output at each, and which it is trained and sampled at.

What a network learns to predict, its objective, is a function from sigma to `Scalings`: `edm`, `ddpm` and `flow`;
`Denoiser.precondition` holds the one in use. Images are written as image + sigma * noise in all three, which is what
the objective calls x_t up to a scale, so that one loss and one sampler serve them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from diamond_gym.errors import BadConfig
from diamond_gym.schema import TRAINING_SIGMA, check_config

DDPM_TIMESTEPS = 1000
_DDPM_BETAS = 1e-4, 0.02
_FLOW_FIRST = 1 - 1e-3  # at time 1 itself sigma is infinite


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
    return _scalings(c_in, c_out, c_skip, c_noise(sigma))


def ddpm(sigma: Tensor) -> Scalings:
    """Ho et al. 2020 (arXiv 2006.11239) without preconditioning, of sigma (n,): F predicts the noise of x_t.

    With x_t = sqrt(a_t) * (image + sigma * noise) and sigma^2 = (1 - a_t) / a_t the image is x - sigma * F(x_t, c), for
    c = (t + 1) / 1000 of the timestep whose level is nearest (EDM table 1 has the like for iDDPM).
    """
    c_in = 1 / (1 + sigma**2).sqrt()
    levels = _ddpm_levels(sigma.device)
    above = torch.searchsorted(levels, sigma.contiguous()).clamp(1, DDPM_TIMESTEPS - 1)
    t = torch.where(sigma - levels[above - 1] < levels[above] - sigma, above - 1, above)
    return _scalings(c_in, -sigma, torch.ones_like(sigma), (t + 1).to(sigma.dtype) / DDPM_TIMESTEPS)


def flow(sigma: Tensor) -> Scalings:
    """Rectified flow (Liu et al. 2022, arXiv 2209.03003), of sigma (n,): F predicts the velocity noise - image.

    With x_t = (1 - t) * image + t * noise and t = sigma / (1 + sigma) the image is x_t - t * F(x_t, t).
    """
    t = sigma / (1 + sigma)
    return _scalings(1 - t, -t, 1 - t, t)


def preconditioner(objective: str, sigma_data: float, sigma_offset_noise: float) -> Callable[[Tensor], Scalings]:
    """The scalings of noise levels (n,) of an objective by its name; the two numbers are EDM's."""
    if objective == "edm":
        return partial(edm, sigma_data=sigma_data, sigma_offset_noise=sigma_offset_noise)
    return {"ddpm": ddpm, "flow": flow}[objective]


def _scalings(c_in: Tensor, c_out: Tensor, c_skip: Tensor, c_noise: Tensor) -> Scalings:
    """All four of n noise levels, (n,) each."""
    image = (slice(None), None, None, None)
    return Scalings(c_in[image], c_out[image], c_skip[image], c_noise)


@cache
def _ddpm_levels(device: torch.device) -> Tensor:
    """DDPM's noise levels on a device, float32 (1000,), rising."""
    return torch.tensor(ddpm_sigmas(), dtype=torch.float32, device=device)


def c_noise(sigma: Tensor) -> Tensor:
    """EDM's conditioning on a noise level, ln(sigma) / 4 (Karras et al. 2022, table 1)."""
    return sigma.log() / 4


class Process(NamedTuple):
    """The noise process of an objective other than EDM's, as a sampler sees it."""

    levels: Callable[[int], tuple[float, ...]]
    """The levels sigma of n steps and a final 0."""
    scale: Callable[[float], float]
    """x_t over image + sigma * noise, at the level sigma."""
    eta: float
    """As `SamplerConfig.eta`: 1 draws the noise anew at each step, 0 is deterministic."""


@cache
def ddpm_sigmas() -> tuple[float, ...]:
    """The 1,000 noise levels of DDPM, sqrt((1 - a_t) / a_t), a_t the product of 1 - beta_s over s = 0..t.

    Ho et al. 2020 (arXiv 2006.11239) §4: betas rise linearly from 1e-4 to 0.02.
    """
    kept = (1 - torch.linspace(*_DDPM_BETAS, DDPM_TIMESTEPS, dtype=torch.float64)).cumprod(0)
    return tuple(((1 - kept) / kept).sqrt().tolist())


def ddpm_timesteps(n: int) -> list[int]:
    """The timesteps of n steps, falling: multiples of 1000 // n; of a single step, 500.

    At high timesteps the network has learnt to hand its input on, which is nearly the noise that it is to predict, and
    an image cannot be had from that in one step: the authors of DIAMOND found the middle to be best.
    """
    stride = DDPM_TIMESTEPS // n
    return [DDPM_TIMESTEPS // 2] if n == 1 else [stride * i for i in reversed(range(n))]


def ddpm_levels(n: int) -> tuple[float, ...]:
    """The noise levels of n steps of DDPM, from high to low, and a final 0."""
    return (*(ddpm_sigmas()[t] for t in ddpm_timesteps(n)), 0.0)


def flow_levels(n: int) -> tuple[float, ...]:
    """The noise levels t / (1 - t) of n even steps of a rectified flow from t = 1 to 0, and a final 0."""
    times = (min(1 - i / n, _FLOW_FIRST) for i in range(n))
    return (*(t / (1 - t) for t in times), 0.0)


PROCESSES: dict[str, Process] = {
    "ddpm": Process(ddpm_levels, lambda sigma: 1 / math.sqrt(1 + sigma**2), eta=1.0),
    "flow": Process(flow_levels, lambda sigma: 1 / (1 + sigma), eta=0.0),
}


Draw = Callable[[tuple[int, ...]], Tensor]
"""Gives random numbers of a shape."""


@dataclass(frozen=True)
class SigmaDistribution:
    """Log-normal noise levels of training, clipped (EDM table 1, P_mean and P_std)."""

    loc: float = -0.4
    scale: float = 1.2
    sigma_min: float = 2e-3
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        check_config(self, TRAINING_SIGMA)
        if self.sigma_min > self.sigma_max:
            raise BadConfig(f"sigma_min must not be more than sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def __call__(self, n: int, normal: Draw, uniform: Draw) -> Tensor:
        """n noise levels, float32 (n,)."""
        return (normal((n,)) * self.scale + self.loc).exp().clip(self.sigma_min, self.sigma_max)


Levels = Callable[[int, Draw, Draw], Tensor]
"""Gives n noise levels of training, float32 (n,), of standard normal numbers or of those in [0, 1)."""


def ddpm_training_levels(n: int, normal: Draw, uniform: Draw) -> Tensor:
    """n of the levels of DDPM's 1,000 timesteps, float32 (n,), each as likely."""
    t = uniform((n,)) * DDPM_TIMESTEPS
    return _ddpm_levels(t.device)[t.long().clamp(max=DDPM_TIMESTEPS - 1)]


def flow_training_levels(n: int, normal: Draw, uniform: Draw) -> Tensor:
    """n levels t / (1 - t), float32 (n,), of uniform times of a rectified flow, at least 1e-4 from both ends.

    Logit-normal times (Esser et al. 2024, arXiv 2403.03206, §3.1) are log-normal levels: a `SigmaDistribution`.
    """
    t = uniform((n,)).clamp(1e-4, 1 - 1e-4)
    return t / (1 - t)


def training_levels(objective: str, sigma: SigmaDistribution, uniform_times: bool = True) -> Levels:
    """The noise levels that an objective is trained at.

    Args:
        objective: Its name.
        sigma: EDM's distribution, and that of a rectified flow with logit-normal times, log(sigma) being logit(t).
        uniform_times: Whether a rectified flow's times are uniform instead.
    """
    if objective == "ddpm":
        return ddpm_training_levels
    return flow_training_levels if objective == "flow" and uniform_times else sigma


@dataclass(frozen=True)
class TrainingNoise:
    """Where a loss takes its random numbers from, so that a test can hand in known ones."""

    sigma: Callable[[int], Tensor]
    normal: Draw
    past: Callable[[int], Tensor] | None = None
    """Noise levels of the past frames of n rows, float32 (n,), 0 where they stay as they are; all of them if None."""

    @classmethod
    def of(cls, levels: Levels, normal: Draw, uniform: Draw, past_noise: float = 0.0) -> "TrainingNoise":
        """Noise made of random numbers from outside.

        Args:
            levels: Gives the noise levels.
            normal: Gives standard normal numbers of a shape.
            uniform: Gives numbers in [0, 1).
            past_noise: Highest noise level of past frames. Half of the rows stay as they are, as frames of a dream do;
                the levels of the others are uniform.
        """
        return cls(
            lambda n: levels(n, normal, uniform),
            normal,
            (lambda n: past_noise * (2 * uniform((n,)) - 1).clamp(min=0)) if past_noise else None,
        )

    @classmethod
    def on(cls, device: torch.device | str, levels: Levels) -> "TrainingNoise":
        """Noise of fresh numbers from torch's global generator of a device."""
        normal, uniform = (partial(draw, dtype=torch.float32, device=device) for draw in (torch.randn, torch.rand))
        return cls.of(levels, normal, uniform)
