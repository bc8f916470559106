"""Floating-point operations of a training's parts, counted by torch on shapes alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.diamond import DiamondConfig
from diamond_gym.trainers.world_model import WorldModelConfig


@dataclass(frozen=True)
class Flop:
    """Floating-point operations, a multiplication and an addition counted as two, as `torch.utils.flop_counter` does.

    Attributes:
        denoiser_call: Denoising one frame once.
        denoiser_row: Training the denoiser on one segment.
        reward_end_row: Training the reward/end model on one segment.
        dreamed_frame: One step of one dream, with the agent's training on it.
    """

    denoiser_call: float
    denoiser_row: float
    reward_end_row: float
    dreamed_frame: float


def denoiser_calls(sampler: SamplerConfig) -> int:
    """Denoiser calls per dreamed frame: Heun's steps take two, but for the last, which goes to 0."""
    n = sampler.num_denoising_steps
    return n if sampler.order == 1 else 2 * n - 1


def count_fit(fit: WorldModelConfig, shape: tuple[int, int, int]) -> tuple[float, float, float, float]:
    """FLOP of a denoiser call, of training it on a segment, of a reward/end call, and of training that on a segment.

    Args:
        fit: With the number of actions filled in.
        shape: (H, W, C) of the frames.
    """
    h, w, c = shape
    denoiser, reward_end = Denoiser(fit.denoiser), RewardEnd(fit.reward_end)
    t, length = denoiser.num_steps_conditioning, fit.reward_end_length - 1

    def denoise() -> torch.Tensor:
        cs = denoiser.precondition(torch.ones(1, device="meta"))
        act = torch.zeros(1, t, dtype=torch.int64, device="meta")
        return denoiser.model_output(_meta(1, c, h, w), cs, _meta(1, t, c, h, w), act)

    def score(steps: int) -> torch.Tensor:
        frames = _meta(1, steps, c, h, w)
        rew, end, _ = reward_end(frames, torch.zeros(1, steps, dtype=torch.int64, device="meta"), frames)
        return rew.sum() + end.sum()  # type: ignore[no-any-return]

    call, training = flop_of(denoiser, denoise)
    score_call, _ = flop_of(reward_end, lambda: score(1))
    _, score_training = flop_of(reward_end, lambda: score(length))
    return call, int(training * predictions(fit)), score_call, score_training


def predictions(fit: WorldModelConfig) -> float:
    """How many frames a segment of the denoiser's training predicts, on average over the fitting."""
    return 1 + fit.num_autoregressive_steps * (1 - fit.autoregressive_from)


def count(config: DiamondConfig, shape: tuple[int, int, int]) -> Flop:
    """FLOP of the parts of a training; `config` with the game filled in, `shape` (H, W, C) of its frames."""
    h, w, c = shape
    call, training, score_call, score_training = count_fit(config.fit, shape)
    agent = ActorCritic(config.agent.network)

    def act() -> torch.Tensor:
        state = _meta(1, config.agent.network.lstm_dim), _meta(1, config.agent.network.lstm_dim)
        logits, value, _ = agent(_meta(1, c, h, w), state)
        return logits.sum() + value.sum()  # type: ignore[no-any-return]

    _, acting = flop_of(agent, act)
    return Flop(call, training, score_training, denoiser_calls(config.sampler) * call + score_call + acting)


def _meta(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, device="meta")


def flop_of(network: nn.Module, run: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """FLOP of a call, and of a call with its gradient; nothing is computed, only shapes."""
    network.to("meta")
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        run()
    with FlopCounterMode(display=False) as both:
        run().sum().backward()
    return float(forward.get_total_flops()), float(both.get_total_flops())
