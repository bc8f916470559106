"""`diamond-gym benchmark`: how fast dreams, fittings and environments are on the machine at hand."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diamond_gym.errors import BadArgument

if TYPE_CHECKING:
    from diamond_gym.benchmark.run import Row

SECTIONS = ("machine", "waiting", "replay", "dream", "environment", "imagine", "error", "fit")


@dataclass(frozen=True)
class Benchmark:
    """Measures dream frames per second, fitting steps and more, beside a plain version of the same networks."""

    quick: bool = False
    """Less of everything: a minute or two instead of about ten, smaller batches and no compiled networks."""
    only: tuple[Literal["machine", "waiting", "replay", "environment", "imagine", "error", "dream", "fit"], ...] = ()
    """Only these parts."""
    sizes: tuple[Literal["nano", "paper"], ...] = ("nano", "paper")
    """Sizes of the networks: nano is a bundled model, paper is the paper's with random weights."""
    batches: tuple[int, ...] = ()
    """Batch sizes of the dreams (default: 1 8 32 on a CPU, to 1024 on a GPU; what would take too long is left out)."""
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Arithmetic of the networks."""
    eager: bool = False
    """Leave out compiled networks, which take a minute or two to compile at first."""
    budget: float = 10.0
    """Seconds for each comparison, roughly; every median is of at least 2 calls."""
    threads: int | None = None
    """Threads on a CPU (default: as many as torch takes, or fewer on an overloaded machine)."""
    processor: bool = False
    """Count processor time, for a machine that is busy with other things; implies one thread."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    out: Path | None = None
    """The JSON file to write; parts that it already holds, of this machine and commit, are not measured again."""
    again: bool = False
    """Measure them again all the same."""

    def __post_init__(self) -> None:
        if min(self.batches, default=1) < 1 or (self.threads is not None and self.threads < 1) or self.budget <= 0:
            raise BadArgument("batches, threads and budget have to be positive")

    def run(self) -> int:
        """Measures, prints the table as it grows, and saves it."""
        import torch

        from diamond_gym.benchmark.run import Run, Settings
        from diamond_gym.benchmark.sections import SECTIONS as MEASURED
        from diamond_gym.device import pick_device

        threads = 1 if self.processor else self.threads
        if threads is not None:
            torch.set_num_threads(threads)
        device = pick_device(self.device)
        if self.processor and device.type != "cpu":
            raise BadArgument("processor time says nothing of a GPU: leave out --processor")
        batches = self.batches or ((1, 8) if self.quick else (1, 8, 32))
        if not self.batches and device.type != "cpu" and not self.quick:
            batches = (1, 8, 32, 128, 512, 1024)
        settings = Settings(
            device, self.quick, not (self.eager or self.quick), self.processor, self.sizes, self.precisions, batches,
            min(self.budget, 2.0) if self.quick else self.budget,
        )  # fmt: skip
        run = Run(settings, self.out)
        run.resume()
        print(", ".join(f"{key} {value}" for key, value in run.about.items() if value is not None), flush=True)
        chosen = [(name, MEASURED[name]) for name in SECTIONS if name in self.only or not self.only]
        heading = None
        with contextlib.closing(iter(run.measure(chosen, self.again))) as rows:  # type: ignore[type-var]
            for row in rows:
                if row.section != heading:
                    heading = row.section
                    print(f"\n{_line(heading, 'figure', 'x plain', 'of ceiling', 'MB')}", flush=True)
                print(told(row), flush=True)
        if self.out is not None:
            print(f"\nsaved in {self.out}")
        return 0


def told(row: "Row") -> str:
    """A row of the table."""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    part = "" if row.of_ceiling is None else f"{100 * row.of_ceiling:.0f} %"
    megabytes = "" if row.megabytes is None else f"{row.megabytes:.0f}"
    return _line(f"{row.size} {row.what}".strip(), f"{row.value:.4g} {row.unit}", ratio, part, megabytes)


def _line(what: str, figure: str, ratio: str, part: str, megabytes: str) -> str:
    return f"{what:<60} {figure:>18} {ratio:>8} {part:>10} {megabytes:>7}".rstrip()
