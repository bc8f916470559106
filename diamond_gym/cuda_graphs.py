"""A function on tensors as one CUDA graph, and torch's random numbers for it, which are drawn before it runs.

A dream's own numbers, which belong to its rows, are in `diamond_gym.randomness`.
"""

from collections.abc import Callable, Sequence
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


class Chance:
    """Random numbers for a recorded function: drawn before each replay, into tensors that stay in place.

    Drawing them inside of the graph is not safe: with several graphs of one generator on streams of their own, torch
    2.11 replayed the same numbers again and again (measured: a world model learnt one batch by heart).

    Args:
        device: Where they are.
        generator: What draws them; None for torch's global generator of the device.
    """

    def __init__(self, device: torch.device, generator: torch.Generator | None) -> None:
        self._device, self._generator = device, generator
        self._drawn: list[tuple[Tensor, Callable[..., Tensor]]] = []
        self._place: int | None = None

    def refill(self) -> None:
        """Draws all of them anew; what is asked for next is the first again."""
        for tensor, draw in self._drawn:
            draw(tensor, generator=self._generator)
        self._place = 0

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float32."""
        return self._next(shape, Tensor.normal_)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers in [0, 1), float32."""
        return self._next(shape, Tensor.uniform_)

    def _next(self, shape: tuple[int, ...], draw: Callable[..., Tensor]) -> Tensor:
        assert self._place is not None, "refill comes first"
        if self._place == len(self._drawn):
            empty = torch.empty(shape, dtype=torch.float32, device=self._device)
            self._drawn.append((draw(empty, generator=self._generator), draw))
        tensor, drawn = self._drawn[self._place]
        assert (tensor.shape, drawn) == (shape, draw), "a function asks for the same numbers at every call"
        self._place += 1
        return tensor


class Draws:
    """Fresh random numbers on a device, float32, or those of a `Chance` as long as it has one.

    Args:
        device: Where they are.
        seed: Of a generator of its own; None for torch's global one of the device.

    Attributes:
        chance: Where numbers come from inside of a graph; None outside.
        generator: Where fresh ones come from; None: torch's global one.
    """

    def __init__(self, device: torch.device, seed: int | None = None) -> None:
        self.chance: Chance | None = None
        self.generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        self._device = device

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers."""
        return self._fresh(torch.randn, shape) if self.chance is None else self.chance.normal(shape)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers in [0, 1)."""
        return self._fresh(torch.rand, shape) if self.chance is None else self.chance.uniform(shape)

    def reseed(self, seed: int) -> None:
        """Begins its own generator anew."""
        assert self.generator is not None
        self.generator.manual_seed(seed)

    def _fresh(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        return draw(shape, generator=self.generator, dtype=torch.float32, device=self._device)


class OutsideRandom:
    """Stands in for a dream's `RowRandom`: numbers drawn by torch, in one kernel in place of a hundred.

    A row's numbers then depend on the batch that it is in, and a state of the dream does not hold them.

    Args:
        rows: Of the dream.
        device: Where it is.
        draws: Where the numbers come from.
    """

    def __init__(self, rows: int, device: torch.device, draws: Draws) -> None:
        self._rows, self._device, self._draws = rows, device, draws

    def normal_and_uniform(self, shape: Sequence[int], stream: int, count: int) -> tuple[Tensor, Tensor]:
        """Standard normal numbers (B, *shape) and uniform ones (B, count)."""
        return self.normal(shape, stream), self._draws.uniform((self._rows, count))

    def normal(self, shape: Sequence[int], stream: int) -> Tensor:
        """Standard normal numbers (B, *shape)."""
        return self._draws.normal((self._rows, *shape))

    def integers(self, high: int, stream: int) -> Tensor:
        """Uniform int64 (B,) in [0, high)."""
        return (self._draws.uniform((self._rows,)) * high).long().clamp_(max=high - 1)

    def further(self, stream: int) -> Callable[[Sequence[int]], Tensor]:
        """Further noise of shapes (B, ...)."""
        return lambda shape: self.normal(shape[1:], stream)

    def advance(self, mask: Tensor | None = None) -> None:
        """Does nothing: there is no counter."""

    def reseed(self, seed: object, mask: Tensor | None = None) -> None:
        """Does nothing: torch is seeded elsewhere."""

    def state_dict(self) -> dict[str, Tensor]:
        """Zeros in the place of the rows' streams, of which there are none."""
        return {name: torch.zeros(self._rows, dtype=torch.int64, device=self._device) for name in ("seed", "draw")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Does nothing: the numbers go on where they are."""
