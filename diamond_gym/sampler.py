"""Sampling a frame: noise schedules, and Euler, Heun and ancestral steps as functions of `denoise(x, sigma)`.

Karras et al. 2022 (arXiv 2206.00364), eq. 5 and algorithm 2, with two habits of the released DIAMOND models kept:
the start noise has unit variance instead of sigma_max's, and the denoiser is given sigma, not sigma_hat.

DDPM and rectified flow are sampled by the same steps: what they call x_t is image + sigma * noise times a scale.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from diamond_gym.errors import BadConfig
from diamond_gym.frames import quantise
from diamond_gym.networks.preconditioning import DDPM_TIMESTEPS, PROCESSES, Process
from diamond_gym.schema import OBJECTIVE_SAMPLER, SAMPLER, check_config


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
    """Noise level put on the conditioning frames before each denoiser call (CS:GO's dynamics: 0.005)."""
    eta: float = 0.0
    """Ancestral sampling, 0 to 1: this share of the next level's noise is drawn anew (1: as much as keeps it a sample
    of that level, DDPM's way; 0: none, EDM's and the paper's). With few deterministic steps, what may or may not
    happen, such as where a ball is served, blurs into the mean of both."""

    def __post_init__(self) -> None:
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


def objective_of(denoiser: object) -> str:
    """What a denoiser learnt to predict; one of another class that does not say is sampled as EDM's."""
    return str(getattr(denoiser, "objective", "edm"))


def check_sampler(config: SamplerConfig, objective: str) -> None:
    """Refuses settings that a denoiser of an objective cannot be sampled with.

    Raises:
        BadConfig: A field is EDM's and the objective is another; or DDPM has fewer timesteps than there are steps.
    """
    if objective == "edm":
        return
    for field in fields(config):
        if field.name not in OBJECTIVE_SAMPLER and getattr(config, field.name) != field.default:
            raise BadConfig(
                f"{field.name} is for denoisers of the objective edm; one of {objective} is sampled by "
                f"{' and '.join(OBJECTIVE_SAMPLER)} alone"
            )
    if objective == "ddpm" and config.num_denoising_steps > DDPM_TIMESTEPS:
        raise BadConfig(
            f"num_denoising_steps must be at most {DDPM_TIMESTEPS} with the objective ddpm, "
            f"got {config.num_denoising_steps}"
        )


Denoise = Callable[[Tensor, float], Tensor]
"""x (B, C, H, W) at the noise level sigma -> the image that is expected there, (B, C, H, W)."""
Noise = Callable[[tuple[int, ...]], Tensor]
"""Gives standard normal noise of a shape."""
Churn = Callable[[Tensor, float], tuple[Tensor, float]]
"""Adds noise to x at the level sigma; gives both anew."""


@cache
def karras_sigmas(config: SamplerConfig) -> tuple[float, ...]:
    """The noise levels from sigma_max down to sigma_min and a final 0, n + 1 numbers of float32 (EDM eq. 5)."""
    n, inv_rho = config.num_denoising_steps, 1 / config.rho
    ramp = torch.linspace(0, 1, n, dtype=torch.float32)
    max_inv_rho, min_inv_rho = config.sigma_max**inv_rho, config.sigma_min**inv_rho
    return (*((max_inv_rho + ramp * (min_inv_rho - max_inv_rho)) ** config.rho).tolist(), 0.0)


def gamma(config: SamplerConfig, sigma: float) -> float:
    """The share gamma by which a noise level is raised before its step (EDM algorithm 2)."""
    churn = min(config.s_churn / config.num_denoising_steps, math.sqrt(2) - 1)
    return churn if config.s_tmin <= sigma <= config.s_tmax else 0.0


def churn_of(config: SamplerConfig, noise: Noise) -> Churn:
    """The churn of EDM's stochastic sampler (algorithm 2, lines 4 to 6)."""

    def churn(x: Tensor, sigma: float) -> tuple[Tensor, float]:
        sigma_hat = sigma * (gamma(config, sigma) + 1)
        if sigma_hat == sigma:
            return x, sigma
        return x + config.s_noise * math.sqrt(sigma_hat**2 - sigma**2) * noise(tuple(x.shape)), sigma_hat

    return churn


def no_churn(x: Tensor, sigma: float) -> tuple[Tensor, float]:
    """Leaves x as it is."""
    return x, sigma


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], churn: Churn = no_churn) -> list[Tensor]:
    """Euler's steps along the levels `sigmas`; the images on the way, from x to the last (EDM algorithm 2, order 1)."""
    path = [x]
    for sigma, next_sigma in pairwise(sigmas):
        x, sigma_hat = churn(x, sigma)
        slope = (x - denoise(x, sigma)) / sigma_hat
        x = x + slope * (next_sigma - sigma_hat)
        path.append(x)
    return path


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], churn: Churn = no_churn) -> list[Tensor]:
    """Heun's steps, the mean of the slopes at both ends, and Euler's to level 0 (EDM algorithm 2)."""
    path = [x]
    for sigma, next_sigma in pairwise(sigmas):
        x, sigma_hat = churn(x, sigma)
        slope = (x - denoise(x, sigma)) / sigma_hat
        x_next = x + slope * (next_sigma - sigma_hat)
        if next_sigma > 0:
            next_slope = (x_next - denoise(x_next, next_sigma)) / next_sigma
            x_next = x + (slope + next_slope) / 2 * (next_sigma - sigma_hat)
        x = x_next
        path.append(x)
    return path


def ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0, churn: Churn = no_churn
) -> list[Tensor]:
    """Euler's steps to below each level and noise up to it (Song et al. 2021, arXiv 2011.13456, ancestral sampling)."""
    path = [x]
    for sigma, next_sigma in pairwise(sigmas):
        x, sigma_hat = churn(x, sigma)
        down, up = ancestral_levels(sigma_hat, next_sigma, eta)
        slope = (x - denoise(x, sigma)) / sigma_hat
        x = x + slope * (down - sigma_hat)
        if next_sigma > 0:
            x = x + up * noise(tuple(x.shape))
        path.append(x)
    return path


def ancestral_levels(sigma: float, next_sigma: float, eta: float) -> tuple[float, float]:
    """The level that an ancestral step goes down to, and that of the noise it draws anew: down² + up² = next_sigma².

    As DDPM's posterior has it between two levels of the same variance-exploding process.
    """
    up = min(next_sigma, eta * next_sigma * math.sqrt(max(0.0, sigma**2 - next_sigma**2)) / sigma)
    return math.sqrt(next_sigma**2 - up**2), up


def sample(
    condition: Callable[..., Denoise],
    obs: Tensor,
    act: Tensor | None,
    initial_noise: Tensor,
    config: SamplerConfig,
    noise: Noise | None = None,
    objective: str = "edm",
) -> tuple[Tensor, list[Tensor]]:
    """Samples the next frame.

    Args:
        condition: A denoiser's: (obs, act, sigma_cond, sigmas) -> denoise(x, sigma); see
            `diamond_gym.networks.denoiser.Denoiser.condition`.
        obs: Past frames in [-1, 1], float32 (B, T, C, H, W), oldest first.
        act: Past actions int64 (B, T), multi-hot (B, T, A), or None.
        initial_noise: Standard normal, float32 (B, C, H, W).
        config: The schedule and its churn.
        noise: Called only where s_churn, s_cond or eta ask for noise: the image's (B, C, H, W) of a step's churn before
            the conditioning frames' (B, T*C, H, W), and eta's after them, in all steps but the last, as DDPM's.
        objective: What the denoiser learnt: "edm", "ddpm" or "flow".

    Returns:
        The frame, float32 (B, C, H, W), on 8-bit levels in [-1, 1], and the trajectory of num_denoising_steps + 1
        images from the initial noise to the frame.

    Raises:
        BadConfig: The settings do not fit the objective.
    """
    if objective != "edm":
        check_sampler(config, objective)
        return _sample_process(condition, obs, act, initial_noise, config, noise, PROCESSES[objective])
    sigmas = karras_sigmas(config)
    churn: Churn = no_churn
    if config.s_churn or config.s_cond or config.eta:
        if noise is None:
            raise ValueError("this sampler has s_churn, s_cond or eta: it needs a source of noise")
        churn = churn_of(config, noise)
    if config.s_cond and noise is not None:
        denoise = _noising(condition, obs, act, config.s_cond, sigmas, noise)
    else:
        denoise = condition(obs, act, None, sigmas[:-1])
    if config.eta and noise is not None:
        path = ancestral(denoise, initial_noise, sigmas, noise, config.eta, churn)
    else:
        path = (heun if config.order == 2 else euler)(denoise, initial_noise, sigmas, churn)
    return path[-1], path


def _sample_process(
    condition: Callable[..., Denoise],
    obs: Tensor,
    act: Tensor | None,
    initial_noise: Tensor,
    config: SamplerConfig,
    noise: Noise | None,
    process: Process,
) -> tuple[Tensor, list[Tensor]]:
    """Samples as `sample` does by the steps of a process; only the last image is put on 8-bit levels.

    With eta 1 the ancestral step is the posterior's of DDPM (Ho et al. 2020, eq. 7); with eta 0 Euler's step along
    sigma is Euler's along a flow's time, since both are exact where the denoised image is constant.
    """
    sigmas = process.levels(config.num_denoising_steps)
    denoise = condition(obs, act, None, sigmas[:-1])
    x = initial_noise / process.scale(sigmas[0])
    if process.eta and len(sigmas) > 2:
        if noise is None:
            raise ValueError("this sampler draws noise at each step: it needs a source of noise")
        path = ancestral(denoise, x, sigmas[:-1], noise, process.eta)
    else:
        path = euler(denoise, x, sigmas[:-1])
    frame = quantise(denoise(path[-1], sigmas[-2]))
    on_the_way = [image * process.scale(sigma) for image, sigma in zip(path[1:], sigmas[1:], strict=False)]
    return frame, [initial_noise, *on_the_way, frame]


def _noising(
    condition: Callable[..., Denoise],
    obs: Tensor,
    act: Tensor | None,
    s_cond: float,
    sigmas: tuple[float, ...],
    noise: Noise,
) -> Denoise:
    """Denoises under past frames with noise that grows at each call, as the released CS:GO models are sampled."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal obs
        obs = obs + s_cond * noise(tuple(obs.flatten(1, 2).shape)).reshape(obs.shape)
        return condition(obs, act, s_cond, sigmas[:-1])(x, sigma)

    return denoise
