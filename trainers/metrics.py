"""Metrics of a training: means that are fetched from the device only when asked for, and a guard against divergence."""

import math
import time
from collections.abc import Iterable

import torch
from torch import Tensor

from diamond_gym.errors import DiamondGymError


def check_finite(metrics: dict[str, float], step: int) -> None:
    """Stops a fitting that has diverged.

    Raises:
        DiamondGymError: A value is NaN or infinite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DiamondGymError(
                f"{name} became {value} by step {step}; the last good checkpoint is kept: "
                "lower the learning rate and repeat the command with another --run"
            )


class Means:
    """Running means of metrics, fetched from the device only when asked for."""

    def __init__(self) -> None:
        self._values: dict[str, list[float | Tensor]] = {}
        self.since = time.perf_counter()

    def add(self, metrics: dict[str, float | Tensor]) -> None:
        """Takes in one step's metrics."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def peek(self) -> dict[str, float]:
        """The means since the last time."""
        return {name: _mean(values) for name, values in self._values.items()}

    def take(self) -> dict[str, float]:
        """The means since the last time, and a fresh start."""
        means = self.peek()
        self._values, self.since = {}, time.perf_counter()
        return means


def _mean(values: Iterable[float | Tensor]) -> float:
    return torch.stack([torch.as_tensor(v, dtype=torch.float32).cpu() for v in values]).mean().item()
