"""A function on fixed tensors, recorded once as a CUDA graph on the stream of one world, and replayed there."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from diamond_gym.chance import Chance

T = TypeVar("T")


class Graph(Generic[T]):
    """Calls `function` as one CUDA graph; on a CPU, as it is.

    Unlike the package's (`diamond_gym.networks.cuda_graphs`), which replays on the current stream, it keeps to its own.
    What it reads and writes has to stay in place: parameters, optimizer state, buffers. Its result is the same
    tensors at every call, overwritten. The first calls (`warmup` of them) are real ones.

    Args:
        function: Without arguments.
        stream: Where it runs; None on a CPU.
        warmup: Eager calls before it is recorded, so that libraries choose their kernels.
        chance: The random numbers that it uses.
    """

    def __init__(
        self,
        function: Callable[[], T],
        stream: torch.cuda.Stream | None = None,
        warmup: int = 3,
        chance: Chance | None = None,
    ) -> None:
        self._function, self._stream, self._chance = function, stream, chance
        self._graph: torch.cuda.CUDAGraph | None = None
        if stream is None:
            return
        torch.cuda.synchronize()  # what it reads may have been written on another stream
        with torch.cuda.stream(stream):
            for _ in range(warmup):
                self._refill()
                function()
            self._refill()
            stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream):
                self._result = function()

    def __call__(self) -> T:
        """Starts it; on a GPU nothing waits."""
        if self._graph is None or self._stream is None:
            self._refill()
            return self._function()
        with torch.cuda.stream(self._stream):
            self._refill()
            self._graph.replay()
        return self._result

    def _refill(self) -> None:
        if self._chance is not None:
            self._chance.refill()
