"""Runs on several games summed up on a terminal: a part of `diamond-gym evaluate`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import BadArgument

if TYPE_CHECKING:
    from diamond_gym.trainers.aggregate import Aggregates, Runs

PUBLISHED = "DIAMOND (published)"


def gather(paths: tuple[Path, ...], with_published: bool) -> "dict[str, Runs]":
    """The runs in each folder or file, by a name for it; beside them the published ones on the same games.

    Raises:
        DiamondGymError: A path holds no scores.
    """
    from diamond_gym.registry.published import published
    from diamond_gym.trainers.aggregate import read_runs

    names = {path: path.resolve().stem if path.is_file() else path.resolve().name for path in paths}
    if len(set(names.values())) < len(names):
        names = {path: str(path) for path in paths}
    if len(names) < len(paths):
        raise BadArgument("--runs names the same place twice")
    methods = {name: read_runs(path) for path, name in names.items()}
    if with_published:
        scores: Runs = {name: list(model.scores) for name, model in published().items() if model.scores}
        wanted = {game for runs in methods.values() for game in runs} & set(scores) if methods else set(scores)
        methods[PUBLISHED] = {game: runs for game, runs in scores.items() if game in wanted}
    return methods


def as_table(aggregates: "Mapping[str, Aggregates]") -> dict[str, Any]:
    """Aggregates as plain data, by method."""
    return {
        name: {
            "games": len(found.games),
            "runs": found.runs,
            **{statistic: asdict(estimate) for statistic, estimate in found.estimates.items()},
            "at_least_human": found.at_least_human,
            "human_normalised": found.normalised,
        }
        for name, found in aggregates.items()
    }


def print_aggregates(methods: "Mapping[str, Runs]", aggregates: "Mapping[str, Aggregates]") -> None:
    """Prints a table of the games and one of the statistics with their intervals."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from diamond_gym.registry.games import game

    console = Console()
    each = Table(title="mean scores and, in brackets, human-normalised ones")
    each.add_column("game", no_wrap=True)
    for name in ("random", "human", *methods):
        each.add_column(name, justify="right", overflow="fold")
    for title in sorted({title for runs in methods.values() for title in runs}):
        row = game(title)
        cells = [
            f"{np.mean(runs[title]):,.1f} ({aggregates[name].normalised[title]:.3f})" if title in runs else ""
            for name, runs in methods.items()
        ]
        each.add_row(title, f"{row.random:,.1f}", f"{row.human:,.1f}", *cells)
    console.print(each)
    table = Table(title="human-normalised, with 95 % stratified bootstrap intervals")
    table.add_column("", no_wrap=True)
    for name in methods:
        table.add_column(name, justify="right", overflow="fold")
    table.add_row("games × runs", *(f"{len(found.games)} × {found.runs}" for found in aggregates.values()))
    for statistic in next(iter(aggregates.values())).estimates:
        estimates = [found.estimates[statistic] for found in aggregates.values()]
        table.add_row(statistic.replace("_", " "), *(f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in estimates))
    counts = (f"{found.at_least_human} of {len(found.games)}" for found in aggregates.values())
    table.add_row("games at or above human", *counts)
    console.print(table)
    alone = [name for name, found in aggregates.items() if found.runs == 1]
    if alone:
        console.print(f"one run of each game leaves the intervals nothing to resample: {', '.join(alone)}")


def aggregate_runs(
    paths: tuple[Path, ...], with_published: bool, seed: int, as_json: bool, out: Path | None, plot: Path | None
) -> None:
    """Sums up runs: prints, and writes the numbers and the picture if asked.

    Raises:
        DiamondGymError: A path holds no scores, or games or numbers of runs do not fit together.
    """
    from diamond_gym.files import atomic_write
    from diamond_gym.trainers.aggregate import aggregate

    if plot is not None:
        import matplotlib  # noqa: F401  # told now, before the work
    methods = gather(paths, with_published)
    aggregates = {}
    for name, runs in methods.items():
        try:
            aggregates[name] = aggregate(runs, seed=seed)
        except BadArgument as error:
            raise BadArgument(f"{name}: {error}") from None
    text = json.dumps(as_table(aggregates), indent=2)
    if as_json:
        print(text)
    else:
        print_aggregates(methods, aggregates)
    if out is not None:
        with atomic_write(out, "w") as file:
            file.write(text)
    if plot is not None:
        from diamond_gym.trainers.plots import draw_scores

        draw_scores(plot, methods, aggregates)
