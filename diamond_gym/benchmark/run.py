"""A run of the benchmark: its settings, its rows, and the file they are kept in."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from diamond_gym.benchmark.clock import Clock
from diamond_gym.benchmark.machine import DTYPES, convolution_ceiling, copy_ceiling, describe
from diamond_gym.errors import BadArgument
from diamond_gym.files import atomic_write


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        section: What kind of figure.
        size: Of the model: "paper" or "nano"; empty where none is involved.
        what: What was measured.
        value: The figure; of times the median of several.
        unit: Its unit.
        ratio: How many times better than the plain baseline, measured in turn with it.
        of_ceiling: The part of the machine's measured convolution ceiling that it is.
        megabytes: The peak of memory meanwhile.
    """

    section: str
    size: str
    what: str
    value: float
    unit: str
    ratio: float | None = None
    of_ceiling: float | None = None
    megabytes: float | None = None


@dataclass(frozen=True)
class Settings:
    """What to measure, and how long.

    Attributes:
        device: Where.
        quick: Less of everything: one or two minutes instead of ten.
        compile: Whether compiled networks are measured too.
        processor: Count processor time instead of the clock's.
        sizes: Of the models.
        precisions: Of the dreams.
        batches: Of the dreams.
        budget: Seconds for one comparison, roughly.
    """

    device: torch.device
    quick: bool = False
    compile: bool = True
    processor: bool = False
    sizes: tuple[str, ...] = ("nano", "paper")
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    batches: tuple[int, ...] = (1, 8, 32)
    budget: float = 10.0

    @cached_property
    def clock(self) -> Clock:
        """Takes the time."""
        return Clock(self.device, self.processor)

    @cached_property
    def convolution(self) -> dict[str, float]:
        """The machine's convolution ceiling by precision, GFLOP/s."""
        return {name: convolution_ceiling(self.clock, DTYPES[name]) for name in self.precisions}

    @cached_property
    def copying(self) -> float:
        """The machine's copy ceiling, GB/s."""
        return copy_ceiling(self.clock)


@dataclass
class Run:
    """The rows so far; what is saved is always whole, and a later run goes on where this one stopped."""

    settings: Settings
    path: Path | None = None
    rows: list[Row] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def resume(self) -> None:
        """Takes up the sections that the file holds, if they were measured on this machine at this commit.

        Raises:
            BadArgument: The file is not one of ours.
        """
        self.about = describe(self.settings.device)
        if self.path is None or not self.path.exists():
            return
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
            known = {key: saved["about"][key] for key in self._fixed}
            rows, done = [Row(**row) for row in saved["rows"]], list(saved["done"])
        except (ValueError, KeyError, TypeError):
            raise BadArgument(f"{self.path} is not a saved benchmark: name another file with --out") from None
        if known == {key: self.about[key] for key in self._fixed}:
            self.rows, self.done = rows, done

    _fixed = ("machine", "cores", "threads", "device", "torch", "commit")

    def measure(
        self, sections: Iterable[tuple[str, Callable[[Settings], Iterable[Row]]]], again: bool
    ) -> Iterable[Row]:
        """Measures the sections that are not there yet, or all `again`; yields their rows, and saves after each."""
        for name, section in sections:
            if name in self.done and not again:
                yield from (row for row in self.rows if row.section == name)
                continue
            self.rows = [row for row in self.rows if row.section != name]
            for row in section(self.settings):
                self.rows.append(row)
                yield row
            self.done = [*(other for other in self.done if other != name), name]
            self.save()

    def save(self) -> None:
        """Writes the file, if there is to be one."""
        if self.path is None:
            return
        settings = {f.name: getattr(self.settings, f.name) for f in fields(Settings)}
        data = {
            "about": self.about,
            "settings": settings | {"device": str(self.settings.device)},
            "done": self.done,
            "rows": [asdict(row) for row in self.rows],
        }
        with atomic_write(self.path, "w") as file:
            json.dump(data, file, indent=1)
