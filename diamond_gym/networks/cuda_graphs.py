"""A function on tensors as one CUDA graph, which the host starts at once and does not wait for."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_WARM_UP = 3  # calls, in which libraries choose their kernels


class Graph(Generic[T]):
    """Records a function of tensors, and replays it for others of the same shapes.

    What else it reads and writes has to stay in place: parameters, state. Its result is the same tensors at every call,
    overwritten. To record it takes real calls.

    Args:
        function: Never waits for the device.
        inputs: Its arguments, on a GPU.
    """

    def __init__(self, function: Callable[..., T], *inputs: Tensor) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        device = self._inputs[0].device
        stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                function(*self._inputs)
            stream.synchronize()
            with torch.cuda.graph(self._graph, stream=stream):
                self._result = function(*self._inputs)
        current.wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> T:
        """Starts it on the current stream."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._result
