"""A training's plan on a terminal: what `--dry-run` prints."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diamond_gym.trainers.plan import Phase

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def print_plan(phases: "Sequence[Phase]", where: str) -> None:
    """Prints the work, the measured rates and the times, phase by phase and together.

    Args:
        phases: Measured.
        where: The device and the precision.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"the whole training on {where}, nothing of it done")
    table.add_column("", no_wrap=True)
    for column in ("work", "FLOP", "measured here", "time"):
        table.add_column(column, justify="right", overflow="fold")
    for phase in phases:
        further = [f"{count:,} {name}" for name, count in phase.facts.items()]
        rate = f"{phase.per_second:,.3g}/s" + (f"\n{scaled(phase.flop_per_second)}FLOP/s" if phase.flop else "")
        work = "\n".join([f"{phase.amount:,} {phase.unit}", *further])
        table.add_row(phase.name, work, f"{scaled(phase.flop)}FLOP" if phase.flop else "", rate, clock(phase.seconds))
    flop, seconds = sum(phase.flop for phase in phases), sum(phase.seconds for phase in phases)
    table.add_section()
    table.add_row("together", "", f"{scaled(flop)}FLOP", f"{scaled(flop / seconds)}FLOP/s", clock(seconds))
    console.print(table)
    console.print("games played to score the agent come on top; the rates are those of about a minute of this machine")


def scaled(number: float) -> str:
    """A large number with its prefix: `"6.09 G"`."""
    for size, prefix in _PREFIXES:
        if number >= size:
            return f"{number / size:,.3g} {prefix}"
    return f"{number:,.3g} "


def clock(seconds: float) -> str:
    """A time as a person says it: `"2 days, 21:36"`, `"0:05:10"`."""
    if seconds >= 86400:
        days, rest = divmod(round(seconds), 86400)
        return f"{days:,} day{'s' if days > 1 else ''}, {rest // 3600}:{rest % 3600 // 60:02d}"
    return str(timedelta(seconds=round(seconds)))
