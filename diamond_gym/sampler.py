"""Sampling a frame: Karras' noise schedule and the Euler and Heun steps of EDM.

Karras et al. 2022 (arXiv 2206.00364), eq. 5 and algorithm 2, with two habits of the released DIAMOND models kept:
the start noise has unit variance instead of sigma_max's, and the denoiser is told sigma, not sigma_hat.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diamond_gym.errors import BadConfig
from diamond_gym.schema import SAMPLER, check_config


@dataclass(frozen=True)
class SamplerConfig:
    """How a frame is sampled; the defaults are the paper's for Atari (three Euler steps)."""

    num_denoising_steps: int = 3
    sigma_min: float = 2e-3
    sigma_max: float = 5.0
    rho: float = 7.0
    order: int = 1
    """1: Euler. 2: Heun, two denoiser calls a step except the last."""
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0
    s_cond: float = 0.0
    """Noise level put on the conditioning frames before each step (CS:GO's dynamics: 0.005)."""
    eta: float = 0.0
    """Ancestral sampling, 0 to 1: this part of the next level's noise is drawn anew (1: as much as keeps it a sample of
    that level, the DDPM's way; 0: none, EDM's and the paper's). Few deterministic steps drown what may or may not
    happen, as where a ball is served, in the mean of both."""

    def __post_init__(self) -> None:
        """Refuses what cannot be sampled."""
        check_config(self, SAMPLER)
        if self.sigma_min > self.sigma_max:
            raise BadConfig(f"sigma_min must not be more than sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if self.eta and self.order == 2:
            raise BadConfig(f"eta must be 0 with order 2, got {self.eta}")


QUALITIES: dict[str, SamplerConfig] = {
    "fast": SamplerConfig(num_denoising_steps=1),
    "paper": SamplerConfig(),
    "fine": SamplerConfig(num_denoising_steps=5, order=2),
}


class Denoises(Protocol):
    """What sample needs of a denoiser."""

    def denoise(
        self, noisy: Tensor, sigma: Tensor, obs: Tensor, act: Tensor | None, sigma_cond: Tensor | None = None
    ) -> Tensor:
        """See `diamond_gym.networks.denoiser.Denoiser.denoise`."""
        ...


class Frame(Protocol):
    """A frame being sampled, as `Prepares` gives it."""

    def denoise(self, noisy: Tensor, step: int) -> Tensor:
        """Denoises at the step's noise level; see `diamond_gym.networks.inference.FoldedFrame.denoise`."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A denoiser that computes what the denoising steps of a frame share only once."""

    def prepare(self, obs: Tensor, act: Tensor | None, sigmas: Tensor, sigma_cond: Tensor | None = None) -> Frame:
        """See `diamond_gym.networks.inference.FoldedDenoiser.prepare`."""
        ...


def _begin(
    denoiser: Denoises | Prepares, obs: Tensor, act: Tensor | None, sigmas: Tensor, sigma_cond: Tensor | None
) -> Callable[[Tensor, int], Tensor]:
    """What denoises an image at the i-th of the noise levels, given these past frames."""
    if isinstance(denoiser, Prepares):
        return denoiser.prepare(obs, act, sigmas, sigma_cond).denoise
    return lambda noisy, i: denoiser.denoise(noisy, sigmas[i], obs, act, sigma_cond)


def karras_sigmas(config: SamplerConfig, device: torch.device | str = "cpu") -> Tensor:
    """The noise levels from sigma_max down to sigma_min and a final 0, float32 (n + 1,) (EDM eq. 5)."""
    n, inv_rho = config.num_denoising_steps, 1 / config.rho
    ramp = torch.linspace(0, 1, n, dtype=torch.float32, device=device)
    max_inv_rho, min_inv_rho = config.sigma_max**inv_rho, config.sigma_min**inv_rho
    sigmas = (max_inv_rho + ramp * (min_inv_rho - max_inv_rho)) ** config.rho
    return torch.cat((sigmas, sigmas.new_zeros(1)))


def gammas(config: SamplerConfig) -> list[float]:
    """The churn of each step, as Python numbers so that the sampler's control flow asks no device."""
    churn = min(config.s_churn / config.num_denoising_steps, math.sqrt(2) - 1)
    sigmas = karras_sigmas(config).tolist()[:-1]
    return [churn if config.s_tmin <= sigma <= config.s_tmax else 0.0 for sigma in sigmas]


def ancestral(sigma: Tensor, next_sigma: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """How far down a step goes, and how much noise is then drawn anew to come to the next level.

    As DDPM's posterior has it between two levels of the same variance-exploding process (Song et al. 2021,
    arXiv 2011.13456, ancestral sampling): down² + up² = next_sigma².

    Returns:
        down and up, scalars.
    """
    up = torch.minimum(next_sigma, eta * next_sigma * (sigma**2 - next_sigma**2).clamp(min=0).sqrt() / sigma)
    return (next_sigma**2 - up**2).sqrt(), up


def sample(
    denoiser: Denoises | Prepares,
    obs: Tensor,
    act: Tensor | None,
    initial_noise: Tensor,
    config: SamplerConfig,
    noise: Callable[[tuple[int, ...]], Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Samples the next frame (EDM algorithm 2; order 1 is its Euler half).

    Args:
        denoiser: Anything with the denoise method of `diamond_gym.networks.denoiser.Denoiser`, or a folded one.
        obs: Past frames in [-1, 1], float32 (B, T, C, H, W), oldest first.
        act: Past actions int64 (B, T), multi-hot (B, T, A), or None.
        initial_noise: Standard normal, float32 (B, C, H, W).
        config: The schedule and its churn.
        noise: Gives standard normal noise of a shape; called only where s_churn, s_cond or eta ask for noise, the
            conditioning frames' (B, T*C, H, W) before the image's (B, C, H, W) of each step; eta's comes after them,
            in all steps but the last.

    Returns:
        The frame, float32 (B, C, H, W), on 8-bit levels in [-1, 1], and the trajectory of num_denoising_steps + 1
        images from the initial noise to the frame.
    """
    if noise is None and (config.s_cond > 0 or config.eta > 0 or any(gammas(config))):
        raise ValueError("this sampler has s_churn, s_cond or eta: it needs a source of noise")
    sigmas = karras_sigmas(config, initial_noise.device)
    last = config.num_denoising_steps - 1
    x, trajectory = initial_noise, [initial_noise]
    b, t, c, h, w = obs.shape
    denoise = _begin(denoiser, obs, act, sigmas[:-1], None) if config.s_cond == 0 else None
    for i, gamma in enumerate(gammas(config)):
        sigma, next_sigma = sigmas[i], sigmas[i + 1]
        if config.s_cond > 0:
            assert noise is not None
            # on top of the earlier steps' noise, as the released models are sampled
            obs = obs + config.s_cond * noise((b, t * c, h, w)).reshape(obs.shape)
            denoise = _begin(denoiser, obs, act, sigmas[:-1], torch.full_like(sigma, config.s_cond))
        assert denoise is not None
        sigma_hat = sigma * (gamma + 1)
        if gamma > 0:
            assert noise is not None
            x = x + config.s_noise * noise((b, c, h, w)) * (sigma_hat**2 - sigma**2).sqrt()
        denoised = denoise(x, i)
        d = (x - denoised) / sigma_hat
        dt = next_sigma - sigma_hat
        if config.eta > 0 and i < last:
            assert noise is not None
            down, up = ancestral(sigma_hat, next_sigma, config.eta)
            x = x + d * (down - sigma_hat) + up * noise((b, c, h, w))
        elif config.order == 1 or i == last:
            x = x + d * dt  # Euler
        else:
            x_2 = x + d * dt
            d_2 = (x_2 - denoise(x_2, i + 1)) / next_sigma
            x = x + (d + d_2) / 2 * dt  # Heun: the mean of the slopes at both ends
        trajectory.append(x)
    return x, trajectory
