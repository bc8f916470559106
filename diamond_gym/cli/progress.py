"""Progress on a terminal, and now and then a line where there is none."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from diamond_gym.trainers.loop import Fitting

console = Console(stderr=True, highlight=False)
LINE_SECONDS = 60.0
RATE_WINDOW = 20
# beside the losses
_SHOWN = {"agent/return", "agent/lambda_return", "agent/policy_entropy", "agent/reward_per_step"}


class Advance(Protocol):
    """Told how far something has come: in all, or by how much more."""

    def __call__(self, done: int, more: bool = False) -> None:
        """Moves the bar to `done`, or by `done` if `more`."""
        ...


def _bar() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True)


@contextmanager
def counting(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Shows a bar with rate and time left for a task of `total` units; a line at the end says the rate."""
    began, done_so_far = time.monotonic(), 0
    with _bar() as bar:
        task = bar.add_task(what, total=total, said="")

        def advance(done: int, more: bool = False) -> None:
            nonlocal done_so_far
            done_so_far = done_so_far + done if more else done
            rate = done_so_far / max(1e-6, time.monotonic() - began)
            left = _clock((total - done_so_far) / rate) if rate else "?"
            bar.update(task, completed=done_so_far, said=f"{_per_second(rate, unit)}, {left} left")

        yield advance
    seconds = time.monotonic() - began
    console.print(
        f"{what}: {done_so_far:,} {unit} in {_clock(seconds)} ({_per_second(done_so_far / max(seconds, 1e-6), unit)})"
    )


class Report(Protocol):
    """Told the step and the mean metrics since the last time."""

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Shows the losses, the rate and the time left."""
        ...


@contextmanager
def fitting(fit: "Fitting", minutes: float | None) -> Iterator[Report]:
    """Shows a training's losses, its rate over the last logs, and the time to its end or to the sitting's."""
    began, first = time.monotonic(), fit.step
    recent = deque([(began, first)], maxlen=RATE_WINDOW)
    printed = began
    with _bar() as bar:
        task = bar.add_task("training", total=fit.total_steps, completed=fit.step, said="")

        def report(step: int, values: dict[str, float]) -> None:
            nonlocal printed
            now = time.monotonic()
            recent.append((now, step))
            rate = (step - recent[0][1]) / max(1e-6, now - recent[0][0])
            left = (fit.total_steps - step) / max(rate, 1e-9)
            shown = {name.split("/")[1]: v for name, v in values.items() if "loss" in name or name in _SHOWN}
            losses = " ".join(f"{name} {v:.4f}" for name, v in shown.items())
            said = f"{losses}  {rate:.2f} steps/s, {_clock(left)} left"
            if minutes is not None and left > (sitting := 60 * minutes - (now - began)):
                said += f", this sitting {_clock(max(0, sitting))}"
            bar.update(task, completed=step, said=said)
            if not console.is_terminal and now - printed > LINE_SECONDS:
                console.print(f"step {step:,}/{fit.total_steps:,}  {said}", soft_wrap=True)
                printed = now

        yield report


class Tell(Protocol):
    """Told how many are done, and what to say beside the bar."""

    def __call__(self, done: int, said: str) -> None:
        """Moves the bar."""
        ...


@contextmanager
def training_bar(total: int, done: int) -> Iterator[Tell]:
    """Shows how many epochs are done, and what is being done; now and then a line where there is no terminal."""
    printed = time.monotonic()
    with _bar() as bar:
        task = bar.add_task("epochs", total=total, completed=done, said="")

        def tell(done: int, said: str) -> None:
            nonlocal printed
            bar.update(task, completed=done, said=said)
            if not console.is_terminal and time.monotonic() - printed > LINE_SECONDS:
                console.print(said, soft_wrap=True)
                printed = time.monotonic()

        yield tell


def _per_second(rate: float, unit: str) -> str:
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(min(seconds, 8.64e6))))
