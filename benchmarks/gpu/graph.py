"""A function on fixed tensors, recorded once as a CUDA graph and replayed; and the random numbers it uses."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Graph(Generic[T]):
    """Calls `function` as one CUDA graph; on a CPU, as it is.

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
        stream: "torch.cuda.Stream | None" = None,
        warmup: int = 3,
        chance: "Chance | None" = None,
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


class Chance:
    """Random numbers for a recorded function: drawn before each replay, into tensors that stay in place.

    Drawing them inside of the graph is not safe: with several graphs of one generator on streams of their own, torch
    2.11 replayed the same numbers again and again (measured: a world model learnt one batch by heart).

    Args:
        device: Where they are.
        seed: Of their own generator.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        self._drawn: list[tuple[Tensor, bool]] = []
        self._place: int | None = None

    def refill(self) -> None:
        """Draws all of them anew; what is asked for next is the first again."""
        for tensor, normal in self._drawn:
            tensor.normal_(generator=self._generator) if normal else tensor.uniform_(generator=self._generator)
        self._place = 0

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float32."""
        return self._next(shape, True)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers in [0, 1), float32."""
        return self._next(shape, False)

    def _next(self, shape: tuple[int, ...], normal: bool) -> Tensor:
        assert self._place is not None, "refill comes first"
        if self._place == len(self._drawn):
            tensor = torch.empty(shape, device=self._device)
            tensor.normal_(generator=self._generator) if normal else tensor.uniform_(generator=self._generator)
            self._drawn.append((tensor, normal))
        tensor, kind = self._drawn[self._place]
        assert tensor.shape == shape, "a function asks for the same numbers at every call"
        assert kind == normal
        self._place += 1
        return tensor


class OutsideRandom:
    """Stands in for a dream's `RowRandom`: numbers drawn by torch, in one kernel in place of a hundred.

    Args:
        rows: Of the dream.
        device: Where it is.

    Attributes:
        chance: Where numbers come from inside of a graph; None outside.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.chance: Chance | None = None
        self._rows, self._device = rows, device

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, device=self._device) if self.chance is None else self.chance.uniform(shape)

    def normal_and_uniform(self, shape: Sequence[int], stream: int, count: int) -> tuple[Tensor, Tensor]:
        """Standard normal numbers (B, *shape) and uniform ones (B, count)."""
        size = (self._rows, *shape)
        normal = torch.randn(size, device=self._device) if self.chance is None else self.chance.normal(size)
        return normal, self._uniform((self._rows, count))

    def integers(self, high: int, stream: int) -> Tensor:
        """Uniform int64 (B,) in [0, high)."""
        return (self._uniform((self._rows,)) * high).long().clamp_(max=high - 1)

    def further(self, stream: int) -> Callable[[Sequence[int]], Tensor]:
        """Further noise of shapes (B, ...)."""
        return lambda shape: self.normal_and_uniform(shape[1:], stream, 0)[0]

    def advance(self, mask: Tensor | None = None) -> None:
        """Does nothing: there is no counter."""

    def reseed(self, seed: object, mask: Tensor | None = None) -> None:
        """Does nothing: torch is seeded elsewhere."""
