"""Timing things in turn, so that whatever else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


class Clock:
    """Takes the time of functions on a device.

    Args:
        device: Where they compute; it is waited for.
        processor: Count processor time instead of the wall clock's: fair on a machine that is busy with other things,
            as long as one thread computes.
    """

    def __init__(self, device: torch.device, processor: bool = False) -> None:
        self.device = device
        self.now = time.process_time if processor else time.perf_counter

    def seconds(self, function: Callable[[], object]) -> float:
        """How long one call takes."""
        self._wait()
        began = self.now()
        function()
        self._wait()
        return self.now() - began

    def medians(
        self, functions: Mapping[str, Callable[[], object]], budget: float, least: int = 3, most: int = 15
    ) -> dict[str, float]:
        """Median seconds per call of each function.

        After one call of each that does not count, they are called in turn, at least `least` and at most `most`
        times each, as often as fits into the budget.

        Args:
            functions: What to time, by name.
            budget: Seconds for all of them together, roughly; the calls that do not count are extra.
            least: Calls of each at least.
            most: Calls of each at most.
        """
        for function in functions.values():
            self.seconds(function)
        taken: dict[str, list[float]] = {name: [] for name in functions}
        began = time.perf_counter()
        for i in range(most):
            if i >= least and (time.perf_counter() - began) * (i + 1) / i > budget:
                break
            for name, function in functions.items():
                taken[name].append(self.seconds(function))
        return {name: statistics.median(values) for name, values in taken.items()}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
