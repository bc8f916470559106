"""Several processes that train the same networks, each on its share of a joint batch.

Lightning Fabric starts them (under torchrun) and carries the sums. Every process draws the random numbers of the
whole joint batch and takes its own rows, so that how many processes there are makes no difference but for rounding;
gradients are summed between the backward pass and the optimizer, which then takes the same step everywhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import TrainingNoise


class Processes:
    """One process, or one of several.

    Attributes:
        rank: This one's number, from 0.
        world: How many there are.
        device: Where this one's networks belong; None leaves it to the user.
    """

    def __init__(self, fabric: Any = None) -> None:
        self._fabric = fabric
        self.rank: int = 0 if fabric is None else fabric.global_rank
        self.world: int = 1 if fabric is None else fabric.world_size
        self.device: torch.device | None = None if fabric is None else fabric.device

    @property
    def main(self) -> bool:
        """Whether this is the one that plays, writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world == 1

    def share(self, joint: int) -> "Share":
        """This one's rows of a joint batch of so many."""
        return Share(self, joint)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, of tensors of one shape, without gradient."""
        if self.alone:
            return tensor
        total: Tensor = self._fabric.all_reduce(tensor.detach().clone(), reduce_op="sum")
        return total

    def any(self, asked: bool) -> bool:
        """Whether it holds in any of them: they must stop together."""
        return (
            asked if self.alone else bool(self.sum(torch.tensor(float(asked), dtype=torch.float32, device=self.device)))
        )

    def wait(self) -> None:
        """Returns when all of them have come here."""
        if not self.alone:
            self._fabric.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Lets the main one through the block while the others wait: what it makes there, they find."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def sum_gradients(self, module: nn.Module, *figures: Tensor) -> tuple[Tensor, ...]:
        """Puts the sum of all processes' gradients in the place of each one's, with one message.

        Args:
            module: After the backward pass.
            figures: Scalars to sum as well.

        Returns:
            The figures' sums.
        """
        if self.alone:
            return figures
        grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        parts = [*grads, *(figure.detach().to(torch.float32).reshape(1) for figure in figures)]
        total = self.sum(torch.cat([part.flatten() for part in parts]))
        summed = total.split([part.numel() for part in parts])
        for grad, part in zip(grads, summed, strict=False):
            grad.copy_(part.view(grad.shape))
        return tuple(part[0] for part in summed[len(grads) :])


ALONE = Processes()


@dataclass(frozen=True)
class Share:
    """The rows of a joint batch that are one process's: the joint ones' order, split as evenly as can be.

    Attributes:
        processes: Who shares.
        joint: Rows in all.
    """

    processes: Processes
    joint: int

    def __post_init__(self) -> None:
        if self.joint < self.processes.world:
            raise BadArgument(
                f"{self.processes.world} processes cannot share a batch of {self.joint}: use fewer, or a larger batch"
            )

    @property
    def rows(self) -> slice:
        """Which rows."""
        rank, world = self.processes.rank, self.processes.world
        return slice(self.joint * rank // world, self.joint * (rank + 1) // world)

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def fraction(self) -> float:
        """Which part of all rows: what a mean over these rows counts in the mean over all."""
        return len(self) / self.joint

    def own(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Its rows of a joint tensor."""
        return tensor.narrow(dim, self.rows.start, len(self))

    def noise(self, noise: TrainingNoise) -> TrainingNoise:
        """Draws for the whole joint batch, of which it gives out these rows."""
        if self.processes.alone:
            return noise
        starts = noise.starts
        return TrainingNoise(
            lambda _: self.own(noise.sigma(self.joint)),
            lambda shape: self.own(noise.normal((self.joint, *shape[1:]))),
            None if starts is None else lambda _: self.own(starts(self.joint)),
        )

    def join(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The joint tensor of everybody's rows, in every process. All of them have to ask."""
        if self.processes.alone:
            return tensor
        shape = list(tensor.shape)
        shape[dim] = self.joint
        whole = tensor.new_zeros(shape)
        self.own(whole, dim).copy_(tensor)
        return self.processes.sum(whole)


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
    return Processes(fabric)
