"""The training loop: steps, metrics, checkpoints, interruption, several processes.

Lightning Fabric starts them (under torchrun) and carries the sums. Every process draws the random numbers of the
whole joint batch and takes its own rows, so that how many processes there are makes no difference but for rounding;
gradients are summed between the backward pass and the optimizer, which then takes the same step everywhere.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.networks.preconditioning import TrainingNoise
from diamond_gym.trainers.run import RunFolder


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


class Trainer(Protocol):
    """What the loop trains: a world model (`WorldModelTrainer`), or an agent (`ActorCriticTrainer`, `SB3Trainer`)."""

    step: int
    total_steps: int
    processes: Processes

    def train_step(self) -> dict[str, float | Tensor]:
        """Does one step, or several that cannot be parted, and returns its metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        ...


_AGREE_STEPS = 8  # several processes ask each other only so often, as each has to wait for the answer


@dataclass(frozen=True)
class Rhythm:
    """How often, in seconds or steps, a sitting looks up from its work."""

    log_steps: int = 50
    checkpoint_seconds: float = 120.0
    picture_seconds: float = 300.0


@dataclass(frozen=True)
class Outcome:
    """How a sitting went.

    Attributes:
        reason: "steps" when all are done, "minutes" when time was up, "interrupted" after Ctrl-C.
        steps: Steps done in it.
        seconds: How long it took.
    """

    reason: str
    steps: int
    seconds: float


class Interruption:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turns the first Ctrl-C (or SIGTERM) into a wish to stop after the step in hand; the second stops at once."""
    interruption = Interruption()

    def ask(number: int, frame: FrameType | None) -> None:
        if interruption.asked:
            raise KeyboardInterrupt
        interruption.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def train(
    fit: Trainer,
    run: RunFolder | None,
    minutes: float | None = None,
    rhythm: Rhythm | None = None,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_picture: Callable[[int], None] | None = None,
) -> Outcome:
    """Trains until all steps are done, the time is up, or somebody asks to stop; ends with a checkpoint.

    Args:
        fit: Restored from the run's checkpoint, if there is one.
        run: Where checkpoints and metrics go; None keeps neither.
        minutes: Time limit of this sitting.
        rhythm: How often to log, to save and to draw.
        on_log: Called with the step and the means since the last time.
        on_picture: Called now and then with the step, to draw what the model dreams by now.

    Raises:
        DiamondGymError: A loss is not finite; the last good checkpoint is kept.
    """
    rhythm = rhythm or Rhythm()
    began = saved = drawn = time.monotonic()
    first_step = logged = fit.step
    means, reason = Means(), "steps"
    with interruptible() as interruption:
        while fit.step < fit.total_steps:
            means.add(fit.train_step())
            now = time.monotonic()
            if fit.step // rhythm.log_steps > logged // rhythm.log_steps or fit.step >= fit.total_steps:
                _log(fit, run, means, fit.step - logged, on_log)
                logged = fit.step
            # Several processes save and stop together, or wait for each other for ever.
            ask = fit.processes.alone or fit.step % _AGREE_STEPS == 0
            save = ask and fit.processes.any(now - saved > rhythm.checkpoint_seconds)
            if save and run is not None:
                check_finite(means.peek(), fit.step)
                run.save(fit.state_dict())
                saved = time.monotonic()
            if on_picture is not None and now - drawn > rhythm.picture_seconds:
                on_picture(fit.step)
                drawn = time.monotonic()
            late = minutes is not None and now - began > 60 * minutes
            if ask and fit.processes.any(interruption.asked or late):
                reason = "minutes" if late and not interruption.asked else "interrupted"
                break
        check_finite(means.peek(), fit.step)
        if run is not None and fit.step > first_step:
            run.save(fit.state_dict())
    return Outcome(reason, fit.step - first_step, time.monotonic() - began)


def _log(
    fit: Trainer,
    run: RunFolder | None,
    means: Means,
    steps: int,
    on_log: Callable[[int, dict[str, float]], None] | None,
) -> None:
    """Tells the means of the last so many steps."""
    seconds = time.perf_counter() - means.since
    values = means.take()
    check_finite(values, fit.step)
    values["speed/steps_per_second"] = steps / seconds
    if run is not None:
        run.log(fit.step, values)
    if on_log is not None:
        on_log(fit.step, values)
