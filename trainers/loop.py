"""The training loop: steps, metrics, checkpoints, pictures and interruption."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from diamond_gym.errors import DiamondGymError
from diamond_gym.trainers.fabric import ALONE, Processes, any_process, mean_of_processes
from diamond_gym.trainers.run import RunFolder


def check_finite(metrics: dict[str, float], step: int) -> None:
    """Stops a training that has diverged.

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
        self._sums: dict[str, tuple[float, int]] = {}
        self._new: dict[str, list[float | Tensor]] = {}
        self.since = time.perf_counter()

    def add(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Takes in one step's metrics."""
        for name, value in metrics.items():
            self._new.setdefault(name, []).append(value)

    def peek(self) -> dict[str, float]:
        """The means since the last time."""
        return {name: total / count for name, (total, count) in self.state_dict().items()}

    def take(self, fabric: Processes = ALONE) -> dict[str, float]:
        """The means since the last time over all processes, which all have to ask, and a fresh start."""
        means = self.peek()
        means = dict(zip(means, mean_of_processes(fabric, list(means.values())), strict=True))
        self._sums, self.since = {}, time.perf_counter()
        return means

    def state_dict(self) -> dict[str, tuple[float, int]]:
        """Sum and count of each metric, as plain data."""
        for name, values in self._new.items():
            total, count = self._sums.get(name, (0.0, 0))
            new = torch.stack([torch.as_tensor(value, dtype=torch.float32) for value in values])
            self._sums[name] = total + float(new.cpu().double().sum()), count + len(values)
        self._new = {}
        return dict(self._sums)

    def load_state_dict(self, state: Mapping[str, tuple[float, int]]) -> None:
        """Goes back to a state."""
        self._sums, self._new = dict(state), {}


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


@dataclass(frozen=True)
class Outcome:
    """How a training went.

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
    """Lets the first Ctrl-C (or SIGTERM) ask to stop after the step in hand, and the second stop at once."""
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


class Loop:
    """Trains step by step; saves and draws now and then, and stops when time is up or somebody asks to.

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
        self._interruption, self._opened, self._looks = Interruption(), ExitStack(), 0
        self._began = self._saved = self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        self._interruption = self._opened.enter_context(interruptible())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

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
                check_finite(means.peek(), step)
                if on_log is not None:
                    on_log(step, step - logged)
                logged = step
            if on_step is not None:
                on_step(step)
            self.look_up(step, means)
        return not self.stopped

    def look_up(self, step: int, means: Means) -> None:
        """Draws and saves if it is time to, and stops if it is asked to; called after each step."""
        now = time.monotonic()
        if self._on_picture is not None and now - self._drawn > self.rhythm.picture_seconds:
            self._on_picture(step)
            self._drawn = time.monotonic()
        self._looks += 1
        if self._fabric.world_size > 1 and self._looks % _AGREE_STEPS:
            return
        late = self._minutes is not None and now - self._began > 60 * self._minutes
        if any_process(self._fabric, self._interruption.asked):
            self.stopped = "interrupted"
        elif any_process(self._fabric, late):
            self.stopped = "minutes"
        old = now - self._saved > self.rhythm.checkpoint_seconds
        if any_process(self._fabric, bool(self.stopped) or old):
            check_finite(means.peek(), step)
            self._save()
            self._saved = time.monotonic()


def train(
    trainer: Trainer,
    run: RunFolder | None,
    minutes: float | None = None,
    rhythm: Rhythm | None = None,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_picture: Callable[[int], None] | None = None,
    fabric: Processes = ALONE,
) -> Outcome:
    """Trains until all steps are done, the time is up, or somebody asks to stop; ends with a checkpoint.

    Args:
        trainer: Restored from the run's checkpoint, if there is one.
        run: Where checkpoints and metrics go; None keeps neither.
        minutes: Time limit.
        rhythm: How often to log, to save and to draw.
        on_log: Called with the step and the means since the last time.
        on_picture: Called now and then with the step, to draw what the model dreams by now.
        fabric: The processes that train together.

    Raises:
        DiamondGymError: A loss is not finite; the last good checkpoint is kept.
    """
    began, first_step, means = time.monotonic(), trainer.step, Means()

    def save() -> None:
        if run is not None:
            run.save(trainer.state_dict())

    def log(step: int, steps: int) -> None:
        seconds = time.perf_counter() - means.since
        values = means.take(fabric)
        values["speed/steps_per_second"] = steps / seconds
        if run is not None:
            run.log(step, values)
        if on_log is not None:
            on_log(step, values)

    with Loop(save, minutes, rhythm, fabric, on_picture) as loop:
        if loop.run(trainer, trainer.total_steps, means, on_log=log) and trainer.step > first_step:
            save()  # where it was stopped the loop has
    return Outcome(loop.stopped or "steps", trainer.step - first_step, time.monotonic() - began)
