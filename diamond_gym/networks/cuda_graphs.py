"""A function on tensors as one CUDA graph, which the host starts at once and does not wait for."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
WARM_UP = 3
"""Calls in which libraries choose their kernels."""


class Graph(Generic[T]):
    """Records a function of tensors, and replays it for others of the same shapes.

    What else it reads and writes has to stay in place: parameters, state. Its result is the same tensors at every call,
    overwritten. To record it takes real calls.

    Args:
        function: Never waits for the device.
        inputs: Its arguments, on a GPU.
        stream: Where it is recorded; a new one by default.
        warm_up: Calls before that, in which libraries choose their kernels; 0 where there have been some on the stream.
    """

    def __init__(
        self,
        function: Callable[..., T],
        *inputs: Tensor,
        stream: torch.cuda.Stream | None = None,
        warm_up: int = WARM_UP,
    ) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        stream = stream or torch.cuda.Stream(self._inputs[0].device)
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(warm_up):
                function(*self._inputs)
            stream.synchronize()
            with torch.cuda.graph(self._graph, stream=stream):
                self._result = function(*self._inputs)
        current.wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> T:
        """Starts it on the current stream; inputs may lie in the host's pinned memory."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result
