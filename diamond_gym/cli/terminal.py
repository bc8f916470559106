"""What is shown while something runs: a bar on a terminal, a line a minute in a log file, and the table of epochs.

All of it fits into 80 columns.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from diamond_gym.trainers.diamond import DiamondConfig
    from diamond_gym.trainers.loop import Trainer


console = Console(stderr=True, highlight=False)
LINE_SECONDS = 60.0
RATE_WINDOW = 20
# beside the losses
_SHOWN = {"agent/return", "agent/lambda_return", "agent/policy_entropy", "agent/reward_per_step"}


class Advance(Protocol):
    """Takes how far something has come: in all, or by how much more."""

    def __call__(self, done: int, more: bool = False) -> None:
        """Moves the bar to `done`, or by `done` if `more`."""
        ...


class Show(Protocol):
    """Takes how many are done, and what to say beside the bar."""

    def __call__(self, done: int, message: str, line: str | None = None) -> None:
        """Moves the bar; where there is no terminal, prints the line (default: all of it) once a minute."""
        ...


class Report(Protocol):
    """Takes the step and the mean metrics since the last time."""

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Shows the losses, the rate and the time left."""
        ...


@contextmanager
def showing(what: str, total: int, done: int = 0) -> Iterator[Show]:
    """Shows a bar on a terminal, and a line a minute elsewhere."""
    printed = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TextColumn("{task.fields[message]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, completed=done, message="")

        def show(done: int, message: str, line: str | None = None) -> None:
            nonlocal printed
            bar.update(task, completed=done, message=message)
            if not console.is_terminal and time.monotonic() - printed > LINE_SECONDS:
                console.print(line or f"{what}: {done:,} of {total:,}, {message}", soft_wrap=True)
                printed = time.monotonic()

        yield show


@contextmanager
def counting(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Shows rate and time left of a task of `total` units; a line at the end says the rate."""
    began, done_so_far = time.monotonic(), 0
    with showing(what, total) as show:

        def advance(done: int, more: bool = False) -> None:
            nonlocal done_so_far
            done_so_far = done_so_far + done if more else done
            rate = done_so_far / max(1e-6, time.monotonic() - began)
            left = clock((total - done_so_far) / rate) if rate else "?"
            show(done_so_far, f"{_per_second(rate, unit)}, {left} left")

        yield advance
    seconds = time.monotonic() - began
    console.print(
        f"{what}: {done_so_far:,} {unit} in {clock(seconds)} ({_per_second(done_so_far / max(seconds, 1e-6), unit)})"
    )


@contextmanager
def fitting(trainer: "Trainer", minutes: float | None) -> Iterator[Report]:
    """Shows a training's losses, its rate over the last logs, and the time to its end or to the limit of minutes."""
    began = time.monotonic()
    recent = deque([(began, trainer.step)], maxlen=RATE_WINDOW)
    with showing("training", trainer.total_steps, trainer.step) as show:

        def report(step: int, values: dict[str, float]) -> None:
            now = time.monotonic()
            recent.append((now, step))
            rate = (step - recent[0][1]) / max(1e-6, now - recent[0][0])
            left = (trainer.total_steps - step) / max(rate, 1e-9)
            speed = f"{rate:.3g} steps/s, {clock(left)} left"
            if minutes is not None and left > (until := 60 * minutes - (now - began)):
                speed += f", stops in {clock(max(0, until))}"
            shown = {name.split("/")[1]: v for name, v in values.items() if "loss" in name or name in _SHOWN}
            losses = " ".join(f"{name.removeprefix('loss_')} {value:.3g}" for name, value in shown.items())
            show(step, f"{speed}\n{losses}", f"step {step:,}/{trainer.total_steps:,}  {losses}  {speed}")

        yield report


def _per_second(rate: float, unit: str) -> str:
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(min(seconds, 8.64e6))))


_AGAIN = 20  # rows after which the header is repeated
# heading, width, and the metric of a column; the others stand in the run's metrics.jsonl and TensorBoard
_COLUMNS = (
    ("real steps", 10, "real/steps"),
    ("score", 7, "real/score"),
    ("test", 7, "test/score"),
    ("denoiser", 8, "denoiser/loss"),
    ("reward", 7, "reward_end/loss_rew"),
    ("end", 7, "reward_end/loss_end"),
    ("λ-return", 8, "agent/lambda_return"),
)


class EpochTable:
    """Rows of equal widths, with a header now and then, in 80 columns."""

    def __init__(self) -> None:
        self._rows = 0
        self._tests: dict[str, float] = {}

    def line(self, epoch: int, figures: Mapping[str, float], left: str) -> str:
        """The row of an epoch.

        Args:
            epoch: Its number.
            figures: Its metrics; those of test collections stay until the next one.
            left: How long the rest will take.
        """
        self._tests |= {name: value for name, value in figures.items() if name.startswith("test/")}
        known = {**self._tests, **figures}
        cells = [f"{_number(known[name]) if name in known else '':>{width}}" for _, width, name in _COLUMNS]
        row = " ".join([f"{epoch:>6,}", *cells, f"{left:>11}"])
        header = " ".join([" epoch", *(f"{title:>{width}}" for title, width, _ in _COLUMNS), f"{'left':>11}"])
        self._rows += 1
        return f"{header}\n{row}" if self._rows % _AGAIN == 1 else row


class Rates:
    """What an update takes here, measured since the command began, and what is left to do.

    Args:
        config: The training.
        epoch: Epochs done before.
    """

    def __init__(self, config: "DiamondConfig", epoch: int) -> None:
        self._config, self._epoch = config, epoch
        self._seconds = {"world model": 0.0, "agent": 0.0}
        self._timed = {"world model": 0, "agent": 0}
        self._done = {"world model": 0, "agent": 0}
        self._other, self._epochs = 0.0, 0
        self._began = self._last = time.perf_counter()
        self._before = 0.0, 0

    def begin(self) -> None:
        """An epoch begins."""
        self._began = self._last = time.perf_counter()
        self._done = dict.fromkeys(self._done, 0)
        self._before = self._seconds["agent"], self._timed["agent"]

    def progress(self, kind: str, step: int) -> None:
        """An update is done, the `step`-th of its kind in this epoch."""
        now = time.perf_counter()
        if kind not in self._done:  # playing: its time is part of the rest of an epoch
            return
        if step > 1:  # before the first, games were played, or dreams begun
            self._seconds[kind] += now - self._last
            self._timed[kind] += 1
        self._last, self._done[kind] = now, step

    def end(self) -> dict[str, float]:
        """An epoch is over: its speeds, as metrics."""
        took = time.perf_counter() - self._began
        updates = sum(self._done[kind] * self._per_update(kind) for kind in self._done)
        self._other += max(0.0, took - updates)
        self._epochs += 1
        self._epoch += 1
        self._done = dict.fromkeys(self._done, 0)
        figures = {"speed/epoch_seconds": took}
        seconds, windows = self._seconds["agent"] - self._before[0], self._timed["agent"] - self._before[1]
        if windows and seconds:
            agent = self._config.agent
            frames = windows * agent.optimizer.batch_size * agent.horizon
            figures["speed/dreamed_frames_per_second"] = frames / seconds
        return figures

    def left(self) -> str:
        """The time to the end of the training, as far as it has been measured."""
        done, total = self._config.updates(self._epoch), self._config.updates(self._config.epochs)
        seconds = (self._config.epochs - self._epoch) * self._other / max(1, self._epochs)
        for i, kind in enumerate(("world model", "agent")):
            remaining = total[i] - done[i] - self._done[kind]
            if remaining and not self._timed[kind]:
                return "?"
            seconds += remaining * self._per_update(kind)
        return str(timedelta(seconds=round(min(seconds, 8.64e8))))

    def _per_update(self, kind: str) -> float:
        return self._seconds[kind] / max(1, self._timed[kind])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
