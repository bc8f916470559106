"""The processes that train together: one, or those that torchrun has started, joined by Lightning Fabric.

Fabric averages their gradients (DistributedDataParallel). Each draws rows of its own for every batch: a training on
several is one on a single process in distribution, not in bits.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from diamond_gym.errors import BadArgument

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class OneProcess:
    """What is used of Lightning Fabric, for a single process and without importing it."""

    global_rank, world_size, is_global_zero = 0, 1, True
    device: torch.device | None = None  # the user's choice

    def setup_module(self, module: nn.Module) -> nn.Module:
        """Returns the module as it is."""
        return module

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients."""
        loss.backward()

    def clip_gradients(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float, error_if_nonfinite: bool
    ) -> Tensor:
        """Scales the gradients down to a norm; returns the norm that they had."""
        return nn.utils.clip_grad_norm_(module.parameters(), max_norm, error_if_nonfinite=error_if_nonfinite)

    def all_reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        """Returns the tensor as it is."""
        return tensor

    def rank_zero_first(self) -> AbstractContextManager[None]:
        """Waits for nobody."""
        return nullcontext()

    def barrier(self) -> None:
        """Waits for nobody."""


Processes: TypeAlias = "Fabric | OneProcess"
ALONE = OneProcess()


class Objective(nn.Module):
    """A network's loss as a call of the module, as DistributedDataParallel has to see it.

    Args:
        network: Whose parameters the loss depends on.
        loss: Computes it, and whatever else is wanted.
    """

    def __init__(self, network: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, *args: Any) -> Any:
        """What the loss returns."""
        return self._loss(*args)


def launch(device: str = "auto") -> Processes:
    """Joins the processes that torchrun has started; where it has not, there is one.

    Args:
        device: "auto", "cuda" or "cpu": what each process takes one of.

    Raises:
        BadArgument: The device cannot be shared out.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not torch.distributed.is_torchelastic_launched():
        return ALONE
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cuda", "cpu"):
        raise BadArgument(f"under torchrun --device is auto, cuda or cpu, not {device}: each process takes its own")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if device == "cuda" and torch.cuda.device_count() < local:
        raise BadArgument(f"{local} processes need as many GPUs, and there are {torch.cuda.device_count()}")
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device, devices=local, num_nodes=world // local, strategy="ddp")
    fabric.launch()
    return fabric


def own_rows(fabric: Processes, batch_size: int) -> int:
    """How many rows of a batch are this process's.

    Raises:
        BadArgument: There are fewer rows than processes.
    """
    if batch_size < fabric.world_size:
        raise BadArgument(
            f"{fabric.world_size} processes cannot share a batch of {batch_size}: use fewer, or a larger batch"
        )
    return batch_size // fabric.world_size + (fabric.global_rank < batch_size % fabric.world_size)


def any_process(fabric: Processes, flag: bool) -> bool:
    """Whether a flag is set in any of the processes, which all have to ask."""
    if fabric.world_size == 1:
        return flag
    return bool(fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum"))


def mean_of_processes(fabric: Processes, values: list[float]) -> list[float]:
    """The mean of each value over the processes, which all have to ask."""
    if fabric.world_size == 1 or not values:
        return values
    tensor = torch.tensor(values, dtype=torch.float32, device=fabric.device)
    result: list[float] = torch.as_tensor(fabric.all_reduce(tensor, reduce_op="mean")).tolist()
    return result
