"""The training loop: steps, metrics, checkpoints, pictures and interruption, on one process or on several.

torchrun starts several, and Lightning Fabric joins them and averages their gradients (DistributedDataParallel). Each
draws rows of its own for every batch: a training on several is one on a single process in distribution, not in bits.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import torch
from torch import Tensor, nn

from diamond_gym.errors import BadArgument
from diamond_gym.trainers.run import Means, RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class _OneProcess:
    """What is used of Lightning Fabric, for a single process and without importing it."""

    global_rank, world_size, is_global_zero = 0, 1, True
    device: torch.device | None = None  # the user's choice
    rank_zero_first = nullcontext

    def setup_module(self, module: nn.Module) -> nn.Module:
        return module

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_gradients(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float, error_if_nonfinite: bool
    ) -> Tensor:
        return nn.utils.clip_grad_norm_(module.parameters(), max_norm, error_if_nonfinite=error_if_nonfinite)

    def all_reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        return tensor


Processes: TypeAlias = "Fabric | _OneProcess"
ALONE = _OneProcess()


class Objective(nn.Module):
    """A network's loss as a call of the module, as DistributedDataParallel has to see it.

    Args:
        network: Whose parameters the loss depends on.
        loss: Computes it, and whatever else is wanted.
    """

    def __init__(self, network: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.forward = network, loss


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
        raise BadArgument(f"with torchrun, --device must be auto, cuda or cpu, not {device}: each process has its own")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if device == "cuda" and torch.cuda.device_count() < local:
        raise BadArgument(f"{local} processes need as many GPUs, but there are {torch.cuda.device_count()}")
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
    return bool(fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum"))


def mean_of_processes(fabric: Processes, values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the processes, which all have to ask."""
    if fabric.world_size == 1 or not values:
        return values
    tensor = torch.tensor(list(values.values()), dtype=torch.float32, device=fabric.device)
    return dict(zip(values, torch.as_tensor(fabric.all_reduce(tensor, reduce_op="mean")).tolist(), strict=True))


class Trainer(Protocol):
    """What the loop trains: a world model (`WorldModelTrainer`), or an agent (`ActorCriticTrainer`, `SB3Trainer`)."""

    step: int
    total_steps: int

    def train_step(self) -> dict[str, float | Tensor]:
        """Does one step, or several that cannot be parted, and returns its metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        ...


_AGREE_STEPS = 8  # several processes ask each other only so often, as each has to wait for the answer


@dataclass(frozen=True)
class Rhythm:
    """How often, in steps or seconds, the loop logs, saves and draws."""

    log_steps: int = 50
    checkpoint_seconds: float = 120.0
    picture_seconds: float = 300.0


class Loop:
    """Trains step by step; saves and draws now and then, and stops when time is up or somebody asks to.

    As a context manager it lets the first Ctrl-C (or SIGTERM) ask to stop after the step in hand; the second stops at
    once.

    Args:
        save: Writes a checkpoint.
        minutes: Time limit.
        rhythm: How often to log, to save and to draw.
        fabric: The processes, which stop and save together.
        on_picture: Called now and then with the step, to draw what the model dreams by now.

    Attributes:
        stopped: "minutes" or "interrupted" once it has stopped, with a checkpoint; else "".
    """

    def __init__(
        self,
        save: Callable[[], None],
        minutes: float | None = None,
        rhythm: Rhythm | None = None,
        fabric: Processes = ALONE,
        on_picture: Callable[[int], None] | None = None,
    ) -> None:
        self._save, self._minutes, self._fabric, self._on_picture = save, minutes, fabric, on_picture
        self.rhythm, self.stopped = rhythm or Rhythm(), ""
        self._asked, self._looks = False, 0
        self._began = self._saved = self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def run(
        self,
        trainer: Trainer,
        until: int,
        means: Means,
        on_step: Callable[[int], None] | None = None,
        on_log: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Trains up to a step; returns False where it was stopped.

        Args:
            trainer: What to train.
            until: The step to stop before.
            means: Takes in the metrics.
            on_step: Called after each step with its number.
            on_log: Called after every `rhythm.log_steps` and at the end, with the step and the steps since then.

        Raises:
            DiamondGymError: A loss is not finite; the last good checkpoint is kept.
        """
        logged, every = trainer.step, self.rhythm.log_steps
        while trainer.step < until and not self.stopped:
            means.add(trainer.train_step())
            step = trainer.step
            if step // every > logged // every or step >= until:
                means.check(step)
                if on_log is not None:
                    on_log(step, step - logged)
                logged = step
            if on_step is not None:
                on_step(step)
            self.look_up(step, means)
        return not self.stopped

    @property
    def asked(self) -> bool:
        """Whether somebody has asked this process to stop: for work besides the steps, which can be left and redone."""
        return self._asked

    def agree(self) -> bool:
        """Whether to stop, of which it keeps the reason; for the end of such work, where all processes have to ask."""
        late = self._minutes is not None and time.monotonic() - self._began > 60 * self._minutes
        if any_process(self._fabric, self._asked):
            self.stopped = "interrupted"
        elif any_process(self._fabric, late):
            self.stopped = "minutes"
        return bool(self.stopped)

    def look_up(self, step: int, means: Means) -> None:
        """Draws and saves if it is time to, and stops if it is asked to; called after each step."""
        now = time.monotonic()
        if self._on_picture is not None and now - self._drawn > self.rhythm.picture_seconds:
            self._on_picture(step)
            self._drawn = time.monotonic()
        self._looks += 1
        if self._fabric.world_size > 1 and self._looks % _AGREE_STEPS:
            return
        old = now - self._saved > self.rhythm.checkpoint_seconds
        if any_process(self._fabric, self.agree() or old):
            means.check(step)
            self._save()
            self._saved = time.monotonic()


def train(
    trainer: Trainer,
    run: RunFolder,
    minutes: float | None = None,
    rhythm: Rhythm | None = None,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_picture: Callable[[int], None] | None = None,
    fabric: Processes = ALONE,
) -> str:
    """Trains until all steps are done, the time is up, or somebody asks to stop; ends with a checkpoint.

    Args:
        trainer: Restored from the run's checkpoint, if there is one.
        run: Where checkpoints and metrics go.
        minutes: Time limit.
        rhythm: How often to log, to save and to draw.
        on_log: Called with the step and the means since the last time.
        on_picture: Called now and then with the step, to draw what the model dreams by now.
        fabric: The processes that train together.

    Returns:
        Why it ended: "steps" when all are done, "minutes" when time was up, "interrupted" after Ctrl-C.

    Raises:
        DiamondGymError: A loss is not finite; the last good checkpoint is kept.
    """
    first_step, means, logged = trainer.step, Means(), time.perf_counter()

    def save() -> None:
        run.save(trainer.state_dict())

    def log(step: int, steps: int) -> None:
        nonlocal logged
        values = mean_of_processes(fabric, means.take(step))
        seconds, logged = time.perf_counter() - logged, time.perf_counter()
        values["speed/steps_per_second"] = steps / seconds
        run.log(step, values)
        if on_log is not None:
            on_log(step, values)

    with Loop(save, minutes, rhythm, fabric, on_picture) as loop:
        if loop.run(trainer, trainer.total_steps, means, on_log=log) and trainer.step > first_step:
            save()  # where it was stopped the loop has
            loop.agree()  # a replay buffer of 2 GB takes a while
    return loop.stopped or "steps"
