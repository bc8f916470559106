"""Progress of what runs: a bar on a terminal, a line a minute in a log file, and the table of epochs.

All of that fits into 80 columns. Tables of results are as wide as they need to be.
"""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskProgressColumn
from rich.table import Table

if TYPE_CHECKING:
    from diamond_gym.trainers.diamond import Phase
    from diamond_gym.trainers.diamond_config import DiamondConfig
    from diamond_gym.trainers.loop import Trainer


console = Console(stderr=True, highlight=False)
LINE_SECONDS = 60.0
RATE_WINDOW = 20
# beside the losses
_SHOWN = {"agent/return", "agent/lambda_return", "agent/policy_entropy", "agent/reward_per_step"}


_ENDLESS = 1 << 16


def room() -> int:
    """How many characters a line of the standard output has: a terminal's width, and elsewhere as many as it takes."""
    return Console().width if sys.stdout.isatty() else _ENDLESS


def print_table(table: Table) -> None:
    """Prints a table to the standard output, and all of it: what a terminal is too narrow for goes on below.

    The names in the first column stay in one piece, unless it has overflow="fold". Left alone, rich ends cells with "…"
    that do not fit, and takes a file or a pipe for 80 columns wide.
    """
    for column in table.columns:
        column.no_wrap |= column is table.columns[0] and column.overflow != "fold"
        column.overflow = "fold"
    out = Console(markup=False, highlight=False)
    needed = Measurement.get(out, out.options.update(width=_ENDLESS), table)
    out.width = max(min(room(), needed.maximum), needed.minimum)
    out.print(table, crop=False)


@contextmanager
def showing(what: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Shows a bar on a terminal, and a line a minute elsewhere.

    Yields:
        `show(done, message, line=None)`: moves the bar and says the message beside it; where there is no terminal,
        prints the line (default: all of it).
    """
    printed = time.monotonic()
    columns = ("{task.description}", BarColumn(bar_width=12), TaskProgressColumn(), "{task.fields[message]}")
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
def counting(what: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """Shows rate and time left of a task of `total` units; a line at the end says the rate.

    Yields:
        `advance(done, skipped=0, more=False)`: so many are done, in all or `more` than before. What an earlier run has
            done of them, `skipped`, does not count for the rate.
    """
    began, done_so_far, done_before = time.monotonic(), 0, 0

    def rate() -> float:
        return (done_so_far - done_before) / max(1e-6, time.monotonic() - began)

    with showing(what, total) as show:

        def advance(done: int, skipped: int = 0, more: bool = False) -> None:
            nonlocal done_so_far, done_before
            done_so_far, done_before = done_so_far + done if more else done, skipped
            left = clock((total - done_so_far) / rate()) if rate() else "?"
            show(done_so_far, f"{_per_second(rate(), unit)}, {left} left")

        yield advance
    took = clock(time.monotonic() - began)
    console.print(f"{what}: {done_so_far:,} {unit} in {took} ({_per_second(rate(), unit)})")


@contextmanager
def fitting(trainer: "Trainer", minutes: float | None) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Shows a training's losses, its rate over the last logs, and the time to its end or to the limit of minutes.

    Yields:
        `report(step, values)`: the step, and the mean metrics since the last report.
    """
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
    """A time in at most 11 characters: "1:02:03", or "12 d 3 h" from two days on."""
    if seconds < 2 * 86_400:
        return str(timedelta(seconds=round(seconds))).replace("1 day, ", "1 d ")
    days, rest = divmod(min(seconds, 8.64e8), 86_400)
    return f"{days:.0f} d {rest // 3600:.0f} h"


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


def progress_line(epoch: int, epochs: int, what: str, left: str) -> str:
    """The phase of an epoch and the time left of the training, in 80 columns."""
    return f"epoch {epoch:,}/{epochs:,}: {what}" + ("" if left == "?" else f"; {left} to the end")


_PHASES = "playing", "world model", "agent"


class Rates:
    """How long each part of the epochs takes here, measured since the command began, and what is left to do.

    Args:
        config: The training.
        epoch: Epochs done before.
        done: Real steps, updates of the world model and windows of the agent, done before.
    """

    def __init__(self, config: "DiamondConfig", epoch: int, done: tuple[int, int, int]) -> None:
        played = min(config.real_steps, config.first_steps + (config.epochs - 1) * config.steps_per_epoch)
        self._totals = dict(zip(_PHASES, (played, *config.updates(config.epochs)), strict=True))
        self._done = dict(zip(_PHASES, done, strict=True))
        self._seconds, self._timed = dict.fromkeys(_PHASES, 0.0), dict.fromkeys(_PHASES, 0)
        self._config, self._other, self._epochs, self._epochs_left = config, 0.0, 0, config.epochs - epoch
        self.begin()

    def begin(self) -> None:
        """An epoch begins."""
        self._began, self._before = time.perf_counter(), (dict(self._seconds), dict(self._timed))
        self._last: tuple[str, float] = ("", 0.0)

    def progress(self, phase: "Phase", done: int) -> str:
        """So much of a phase is done by now; returns what is going on, and how long the phase will take yet."""
        name, now = phase.name, time.perf_counter()
        what = f"{name} {done - phase.begun:,}/{phase.target - phase.begun:,}"
        if name not in _PHASES:
            return what
        if name == self._last[0]:  # else networks have been compiled, or dreams begun
            self._seconds[name] += now - self._last[1]
            self._timed[name] += done - self._done[name]
        self._last, self._done[name] = (name, now), done
        return f"{what}, {clock((phase.target - done) * self._each(name))} left" if self._timed[name] else what

    def end(self) -> dict[str, float]:
        """An epoch is over: its speeds, as metrics."""
        took, (seconds, timed) = time.perf_counter() - self._began, self._before
        spent = {name: self._seconds[name] - seconds[name] for name in _PHASES}
        self._other += max(0.0, took - sum(spent.values()))
        self._epochs, self._epochs_left = self._epochs + 1, self._epochs_left - 1
        figures, windows = {"speed/epoch_seconds": took}, self._timed["agent"] - timed["agent"]
        if windows and spent["agent"]:
            agent = self._config.agent
            frames = windows * agent.optimizer.batch_size * agent.horizon
            figures["speed/dreamed_frames_per_second"] = frames / spent["agent"]
        return figures

    def left(self) -> str:
        """The time to the end of the training; "?" until a bit of all that it takes has been measured."""
        left = {name: max(0, self._totals[name] - self._done[name]) for name in _PHASES}
        if any(left[name] and not self._timed[name] for name in _PHASES):
            return "?"
        seconds = self._epochs_left * self._other / max(1, self._epochs)
        return clock(seconds + sum(left[name] * self._each(name) for name in _PHASES))

    def _each(self, name: str) -> float:
        return self._seconds[name] / max(1, self._timed[name])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def print_json(value: Any) -> None:
    """Prints plain data as JSON."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """JSON of plain data, with null in place of NaN and infinities, which JSON does not have."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
