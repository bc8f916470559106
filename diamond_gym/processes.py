"""The noise processes of DDPM and of rectified flow: their noise levels, and how what they call x_t is scaled.

Both are written as EDM writes its own, image + sigma * noise, which is x_t up to a scale: the steps of
`diamond_gym.sampler` and the scalings of `diamond_gym.networks.preconditioning` then serve all three.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

DDPM_TIMESTEPS = 1000
_DDPM_BETAS = 1e-4, 0.02
_FLOW_FIRST = 1 - 1e-3  # at time 1 itself sigma is infinite


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
