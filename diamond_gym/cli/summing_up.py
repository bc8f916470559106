"""Runs of agents summed up by `diamond-gym evaluate --runs` and `--published`: tables, a JSON file and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from diamond_gym.cli.terminal import json_text, print_table
from diamond_gym.errors import BadArgument
from diamond_gym.files import atomic_write
from diamond_gym.registry import game
from diamond_gym.registry.published import published
from diamond_gym.trainers.aggregate import Aggregates, Runs, aggregate, read_runs

if TYPE_CHECKING:
    from diamond_gym.cli.evaluate import Evaluate

PUBLISHED = "DIAMOND (published)"


def gather(paths: tuple[Path, ...], with_published: bool) -> dict[str, Runs]:
    """The runs in each folder or file, by a name for it; beside them the published ones on the same games."""
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


def print_aggregates(methods: Mapping[str, Runs], aggregates: Mapping[str, Aggregates]) -> None:
    """Prints a table of the games and one of the statistics with their intervals."""
    each = Table(title="mean scores and, in brackets, human-normalised ones")
    each.add_column("game")
    for name in ("random", "human", *methods):
        each.add_column(name, justify="right")
    for title in sorted({title for runs in methods.values() for title in runs}):
        row = game(title)
        cells = [
            f"{np.mean(runs[title]):,.1f} ({aggregates[name].normalised[title]:.3f})" if title in runs else ""
            for name, runs in methods.items()
        ]
        each.add_row(title, f"{row.random:,.1f}", f"{row.human:,.1f}", *cells)
    print_table(each)
    table = Table(title="human-normalised, with 95 % stratified bootstrap intervals")
    table.add_column("")
    for name in methods:
        table.add_column(name, justify="right")
    table.add_row("games × runs", *(f"{len(result.normalised)} × {result.runs}" for result in aggregates.values()))
    for statistic in next(iter(aggregates.values())).estimates:
        estimates = [result.estimates[statistic] for result in aggregates.values()]
        table.add_row(statistic.replace("_", " "), *(f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in estimates))
    counts = (f"{result.at_least_human} of {len(result.normalised)}" for result in aggregates.values())
    table.add_row("games at or above human", *counts)
    print_table(table)
    alone = [name for name, result in aggregates.items() if result.runs == 1]
    if alone:
        Console().print(f"with one run of each game, the intervals have nothing to resample: {', '.join(alone)}")


def sum_up(args: "Evaluate") -> None:
    """Sums up runs: prints, and writes the numbers and the picture if asked."""
    if args.plot is not None:
        import matplotlib  # noqa: F401  # said now if it is missing, before the work
    methods = gather(args.runs, args.published)
    aggregates = {}
    for name, runs in methods.items():
        try:
            aggregates[name] = aggregate(runs, seed=args.seed)
        except BadArgument as error:
            raise BadArgument(f"{name}: {error}") from None
    text = json_text({name: result.table() for name, result in aggregates.items()})
    if args.as_json:
        print(text)
    else:
        print_aggregates(methods, aggregates)
    if args.out is not None:
        with atomic_write(args.out, "w") as file:
            file.write(text)
    if args.plot is not None:
        from diamond_gym.trainers.plots import draw_scores

        draw_scores(args.plot, methods, aggregates)
