"""The optimizer of the paper: AdamW without decay on biases, norms and embeddings, linear warm-up; moving averages."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diamond_gym.errors import BadArgument
from diamond_gym.trainers.loop import Processes

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""Gives the loss of tensors, and figures of it without gradient."""

DECAYED_LAYERS = (nn.Conv2d, nn.Linear, nn.LSTM, nn.LSTMCell)


@dataclass(frozen=True)
class OptimizerConfig:
    """How one network is optimised; the defaults are the paper's."""

    lr: float = 1e-4
    """Learning rate; with 0 the network stays as it is, and no time is spent on it."""
    eps: float = 1e-8
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    max_grad_norm: float = 1.0
    batch_size: int = 32
    grad_acc_steps: int | None = None
    """Number of batches whose gradients are averaged for one update, where one large batch does not fit (None: 1)."""

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadArgument(f"an optimizer's {name} must not be negative, got {getattr(self, name)}")
        for name in ("eps", "max_grad_norm", "batch_size"):
            if not getattr(self, name) > 0:
                raise BadArgument(f"an optimizer's {name} must be more than 0, not {getattr(self, name)}")
        if self.grad_acc_steps is not None and self.grad_acc_steps < 1:
            raise BadArgument(f"an optimizer's grad_acc_steps must be at least 1, not {self.grad_acc_steps}")


def can_record(device: torch.device, fabric: Processes, config: OptimizerConfig) -> bool:
    """Whether updates can be CUDA graphs (`trainers.recorded`): on a GPU, in one process, of one batch each."""
    return device.type == "cuda" and fabric.world_size == 1 and (config.grad_acc_steps or 1) == 1


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits parameters for AdamW: the weights of conv, linear and LSTM layers decay, all else does not.

    Returns:
        Two groups, the decayed one first, each with "params" and "weight_decay".
    """
    decayed = {
        id(parameter)
        for layer in module.modules()
        if isinstance(layer, DECAYED_LAYERS)
        for name, parameter in layer.named_parameters(recurse=False)
        if "weight" in name
    }
    parameters = list(module.parameters())
    groups: Iterable[tuple[bool, float]] = ((True, weight_decay), (False, 0.0))
    return [
        {"params": [p for p in parameters if (id(p) in decayed) is decays], "weight_decay": decay}
        for decays, decay in groups
    ]


def adamw(module: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over a network's parameter groups, fused where the device can."""
    groups = parameter_groups(module, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, eps=config.eps, fused=device.type in ("cpu", "cuda"))


_OPTIONS = ("lr", "foreach", "capturable", "fused")


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Takes in a checkpoint's state, which may be of a run on another device: how it computes is as it was made here.

    The learning rate stays as well: it is set at every update.
    """
    own = [{name: group[name] for name in _OPTIONS} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
        for parameter in group["params"]:
            if "step" in (of_parameter := optimizer.state.get(parameter, {})):
                on = parameter.device if group["fused"] or group["capturable"] else "cpu"
                of_parameter["step"] = of_parameter["step"].to(on)


def update(
    name: str,
    fabric: Processes,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    config: OptimizerConfig,
    factor: float,
) -> dict[str, Tensor]:
    """One step of an optimizer at `factor` times its learning rate.

    Args:
        name: Of the network, for its figures.
        fabric: The processes that train together.
        objective: Whose gradient is clipped.
        optimizer: Of its parameters.
        loss: Computes the loss of a new batch, and figures of it; called `config.grad_acc_steps` times.
        config: How to optimise.
        factor: Of the learning rate.

    Returns:
        The means of the figures that `loss` gave, and the norm that the gradient had; tensors that have not been
        waited for.
    """
    for group in optimizer.param_groups:
        group["lr"] = config.lr * factor
    optimizer.zero_grad()
    of_batches, batches = [], config.grad_acc_steps or 1
    for _ in range(batches):
        value, figures = loss()
        fabric.backward(value / batches)
        of_batches.append(figures)
    norm = fabric.clip_gradients(objective, optimizer, max_norm=config.max_grad_norm, error_if_nonfinite=False)
    optimizer.step()
    assert norm is not None
    means = {key: torch.stack([figures[key] for figures in of_batches]).mean() for key in of_batches[0]}
    return {**means, f"{name}/grad_norm": norm}


def lr_factor(update: int, warmup_steps: int, left: float = math.inf, decay_steps: float = 0.0) -> float:
    """What the learning rate is multiplied by: linear warm-up, plateau, cosine decay to a twentieth.

    Args:
        update: Number of the update, from 0.
        warmup_steps: Updates of the warm-up.
        left: Steps to the end of the training.
        decay_steps: Steps of the decay at the end.
    """
    warmup = min(1.0, (update + 1) / max(1, warmup_steps))
    if decay_steps < 1 or left >= decay_steps:
        return warmup
    progress = 1 - max(0.0, left) / decay_steps
    return warmup * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def average(module: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights and buffers, with a shorter memory in the first updates."""

    @torch.no_grad()
    def update(averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        torch._foreach_lerp_(list(averages), list(current), average_weight(decay, int(updates)))

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)


def average_weight(decay: float, updates: int) -> float:
    """The share that new weights have in a moving average after so many updates, one at least."""
    return 1 - min(decay, (1 + updates) / (10 + updates))
