"""One sitting of a training: steps until a limit or an interruption, with checkpoints, metrics and pictures."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from torch import Tensor

from diamond_gym.trainers.metrics import Means, check_finite
from diamond_gym.trainers.processes import Processes
from diamond_gym.trainers.run_folder import RunFolder


class Fitting(Protocol):
    """What is trained in a sitting: a world model (`Fit`), or an agent (`AgentFit`, `SB3Fit`)."""

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
class Sitting:
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


def sit(
    fit: Fitting,
    run: RunFolder | None,
    minutes: float | None = None,
    rhythm: Rhythm | None = None,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_picture: Callable[[int], None] | None = None,
) -> Sitting:
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
    return Sitting(reason, fit.step - first_step, time.monotonic() - began)


def _log(
    fit: Fitting,
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
