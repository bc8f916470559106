"""Updates on one GPU as CUDA graphs: loss, gradient, optimizer and moving average started at once, and not waited for.

Launched one by one, the thousands of small kernels of an update take the host longer than they take the device. What
cannot be recorded is done one by one: several processes (their gradients are averaged on the way), several batches to
an update, dreams of two stages and upsamplers, and networks from elsewhere, which may wait for the device.
"""

import gc
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diamond_gym.cuda_graphs import WARM_UP, Chance, Draws, Graph
from diamond_gym.trainers.optim import Loss, OptimizerConfig, average_weight

T = TypeVar("T")


def to_be_copied(arrays: Iterable[npt.NDArray[np.generic]], device: torch.device) -> list[Tensor]:
    """Arrays as tensors of the host, from which a GPU copies while the host goes on."""
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return [tensor.pin_memory() for tensor in tensors] if device.type == "cuda" else tensors


class Recorded(Generic[T]):
    """A function of tensors that is recorded as a CUDA graph after its first calls, which are made as they are.

    Every call is a real one, so that a training takes as many steps as it would without. On a CPU all calls are made
    as they are, which is how tests reach what is here.

    Args:
        function: Never waits for the device; what it reads and writes stays in place. Its result is the same tensors
            at every call, overwritten.
        draws: Where it takes its random numbers from; they are drawn before each call.
        device: Where it runs.
    """

    def __init__(self, function: Callable[..., T], draws: Draws, device: torch.device) -> None:
        self._function, self._draws, self._device = function, draws, device
        self._chance, self._calls = Chance(device, draws.generator), 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._graph: Graph[T] | None = None

    def __call__(self, *inputs: Tensor) -> T:
        """Starts it with inputs of the shapes that it had at first, which may lie in the host's pinned memory."""
        self._chance.refill()
        self._draws.chance = self._chance
        try:
            return self._run(*inputs)
        finally:
            self._draws.chance = None

    def _run(self, *inputs: Tensor) -> T:
        if self._stream is None:
            return self._function(*inputs)
        if self._graph is not None:
            return self._graph(*inputs)
        given = [tensor.to(self._device, non_blocking=True) for tensor in inputs]
        if self._calls >= WARM_UP:
            gc.collect()  # lest a graph that nobody has any more is taken down while this one is recorded
            self._graph = Graph(self._function, *given, stream=self._stream, warm_up=0)
            return self._graph(*given)
        self._calls += 1
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):  # the one on which it will be recorded, for the libraries' sake
            result = self._function(*given)
        current.wait_stream(self._stream)
        return result


class RecordedUpdates:
    """The updates of one network, recorded anew for each loss and shape of a batch; the last of these is kept.

    Args:
        name: Of the network, for its figures.
        network: In training.
        config: How to optimise.
        draws: Where the loss takes its random numbers from.
        groups: Of its parameters, for the optimizer; all in one by default.
        averaged: The moving average of the network, and its decay, if it has one.

    Attributes:
        optimizer: Its state is a checkpoint's; after taking one in, `forget`.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        config: OptimizerConfig,
        draws: Draws,
        groups: list[dict[str, Any]] | None = None,
        averaged: tuple[AveragedModel, float] | None = None,
    ) -> None:
        self._name, self._network, self._parameters = name, network, list(network.parameters())
        self._config, self._draws, self._averaged = config, draws, averaged
        self._lr = torch.tensor(config.lr, dtype=torch.float32, device=self._parameters[0].device)
        self._weight = torch.ones_like(self._lr)  # of the new weights in the average
        how: dict[str, Any] = {"eps": config.eps, "weight_decay": config.weight_decay, "fused": True}
        # it reads the learning rate where it lies at every update
        self.optimizer = torch.optim.AdamW(groups or self._parameters, self._lr, capturable=self._lr.is_cuda, **how)
        self._recorded: tuple[object, Recorded[dict[str, Tensor]]] | None = None

    def __call__(self, loss: Loss, factor: float, *inputs: Tensor) -> dict[str, Tensor]:
        """Updates the network on a batch.

        Args:
            loss: Of the batch; the same callable again and again.
            factor: Of the learning rate.
            inputs: The batch, all that changes from call to call but for random numbers.

        Returns:
            The figures that `loss` gave, and the norm that the gradient had; tensors that have not been waited for.
        """
        self._lr.fill_(self._config.lr * factor)
        if self._averaged is not None:
            averaged, decay = self._averaged
            n = int(averaged.n_averaged)  # lies on the host
            self._weight.fill_(average_weight(decay, n) if n else 1.0)
            averaged.n_averaged += 1
        key = loss, tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if self._recorded is None or self._recorded[0] != key:
            self.forget()  # before the next one is made: each holds the memory of a whole update
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr
            self._recorded = key, Recorded(lambda *batch: self._update(loss, *batch), self._draws, self._lr.device)
        return {name: value.clone() for name, value in self._recorded[1](*inputs).items()}

    def forget(self) -> None:
        """Records anew at the next updates, as when something has not stayed in place."""
        if self._recorded is not None and self._lr.is_cuda:
            torch.cuda.synchronize(self._lr.device)  # the last replay may not be over
        self._recorded = None

    def _update(self, loss: Loss, *inputs: Tensor) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        value, figures = loss(*inputs)
        value.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        self.optimizer.step()
        if self._averaged is not None:
            _move(self._averaged[0].module, self._network, self._weight)
        return {**figures, f"{self._name}/grad_norm": norm}


@torch.no_grad()
def _move(averaged: nn.Module, network: nn.Module, weight: Tensor) -> None:
    """Moves an average towards a network's weights and buffers, by a share that lies on the device."""

    def tensors(module: nn.Module) -> list[Tensor]:
        return [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]

    mine: Any = tensors(averaged)
    change = torch._foreach_sub(tensors(network), mine)
    torch._foreach_mul_(change, weight)
    torch._foreach_add_(mine, change)
