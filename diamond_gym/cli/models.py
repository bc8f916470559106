"""The commands about models at hand: list, info, verify, export, remove."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from diamond_gym.cli.terminal import print_json
from diamond_gym.errors import BadArgument, DamagedModel
from diamond_gym.registry import Entry, games, remove, resolve, survey, verify
from diamond_gym.registry.human_card import flat_rows
from diamond_gym.registry.published import Published, published
from diamond_gym.schema import NETWORKS

_DAY = len("2026-01-31")  # of a time; --json has the whole of it
_LEAST = len("summary")  # characters of one


@dataclass(frozen=True)
class ListModels:
    """Lists the world models at hand, your own and those that came with the package, and what can be pulled."""

    games: bool = False
    """List the 26 games of Atari 100k instead, with the default model of each."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the list, damaged models last, with a line to the standard error for each of these."""
        result, problems = survey()
        rows = _games(result) if self.games else [_model(entry) for entry in result]
        rows += [] if self.games else [_damaged(name, why) for name, why in problems.items()]
        here = {entry.name for entry in result} | set(problems)
        to_pull = [] if self.games else [model for model in published().values() if model.name not in here]
        if self.as_json:
            print_json(rows + [_available(model) for model in to_pull])
        else:
            _print(rows, self.games)
            if to_pull:
                names = ", ".join(model.game for model in to_pull)
                print(f"\navailable with `diamond-gym pull NAME`, weights by DIAMOND's authors: {names}")
        for problem in problems.values():
            print(problem, file=sys.stderr)
        return 0


def _model(entry: Entry) -> dict[str, object]:
    card = entry.card
    return {
        "name": entry.name,
        "game": card.game,
        "from": "package" if entry.bundled else "you",
        "created": card.created,
        "bytes": entry.bytes,
        "agent": card.has_agent,
        "summary": card.summary,
        "license": card.license,
        "path": str(entry.path),
    }


def _damaged(name: str, why: str) -> dict[str, object]:
    nothing = dict.fromkeys(("game", "from", "created", "bytes", "agent"))
    return {"name": name, **nothing, "summary": "damaged", "license": None, "path": None, "damaged": why}


def _available(model: Published) -> dict[str, object]:
    nothing = dict.fromkeys(("created", "path"))
    row = {"name": model.name, "game": model.game, "from": "hub", "bytes": model.bytes, "agent": bool(model.scores)}
    row |= {"summary": model.summary, "license": model.license, "source": model.source, "parameters": model.parameters}
    return row | nothing | {"pull": f"diamond-gym pull {model.game}"} | model.figures


def _games(result: list[Entry]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for game in games().values():
        entries = [entry for entry in result if entry.card.game == game.name]
        means = max(entries, key=lambda entry: entry.rank, default=None)
        row = {"game": game.name, "model": means.name if means else None, "actions": game.num_actions}
        rows.append(row | {"random": game.random, "human": game.human, "diamond": game.diamond})
    return rows


def _print(rows: list[dict[str, object]], games: bool) -> None:
    from rich.table import Table

    from diamond_gym.cli.terminal import print_table, room

    if not rows:
        print("no world models yet; train one with: diamond-gym train-wm --game Breakout")
        return
    hidden = () if games else ("path", "license", "damaged")
    keys = [key for key in rows[0] if key not in hidden]
    columns = {key: [_cell(key, row[key]) for row in rows] for key in keys}
    if "summary" in columns:  # the last one, which gets what is left of a line
        cells = columns.pop("summary")
        left = room() - sum(max(len(key), *map(len, others)) + 2 for key, others in columns.items())
        if left >= _LEAST:
            columns["summary"] = [_fitting(cell, left) for cell in cells]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for key in columns:
        table.add_column(key, no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    print_table(table)


def _fitting(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 3]}..."


def _cell(key: str, value: object) -> str:
    if value is None or value is False:
        return "-"
    if value is True:
        return "own"
    if key == "bytes" and isinstance(value, int):
        return f"{value / 1e6:.1f} MB"
    return str(value)[:_DAY] if key == "created" else str(value)


@dataclass(frozen=True)
class Info:
    """Shows all that is known of one world model, and verifies its files."""

    name: tyro.conf.Positional[str]
    """A model's name, a game's name, or the folder of a model."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""

    def run(self) -> int:
        """Verifies the files and prints the card; of a damaged model, what is wrong."""
        entry = verify(resolve(self.name))
        if self.as_json:
            print_json({**asdict(entry.card), "path": str(entry.path), "bundled": entry.bundled})
        else:
            _print_info(entry)
        return 0


def _print_info(entry: Entry) -> None:
    from rich.console import Console
    from rich.table import Table

    from diamond_gym.cli.terminal import print_table

    card, console = entry.card, Console(markup=False, highlight=False)
    console.print(f"{card.name}: {card.summary}" if card.summary else card.name, style="bold")
    first = {key: getattr(card, key) for key in ("game", "created", "license", "source")} | {
        "from": "the package" if entry.bundled else "you",
        "card": str(entry.path),
        "files": f"{len(card.files)} verified, {entry.bytes / 1e6:.1f} MB",
        "id": None if entry.bundled else f"DiamondDream-{entry.name}-v0",
    }
    tables: dict[str, Mapping[str, Any] | None] = {"": first}
    tables |= {key: getattr(card, key) for key in ("spaces", *NETWORKS, "sampler", "training", "figures")}
    width = max((len(key) for table in tables.values() for key, _ in flat_rows(table or {})), default=0)
    for title, content in tables.items():
        rows = [(key, value) for key, value in flat_rows(content or {}) if value not in ("", None)]
        if not rows:
            continue
        if title:
            console.print(f"\n{title}", style="bold")
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="dim", min_width=width)
        table.add_column()
        for key, value in rows:
            table.add_row(key, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        print_table(table)


@dataclass(frozen=True)
class Verify:
    """Compares models' files with their cards, byte by byte."""

    name: tyro.conf.Positional[str | None] = None
    """A model's name, a game's name, or the folder of a model."""
    all: bool = False
    """All models at hand."""

    def __post_init__(self) -> None:
        if (self.name is None) != self.all:
            raise BadArgument("which? Name a model, or say --all")

    def run(self) -> int:
        """Verifies; prints a line for each model, and returns 1 if any is damaged."""
        result, problems = ([resolve(self.name)], {}) if self.name is not None else survey()
        for entry in result:
            try:
                verify(entry)
            except DamagedModel as error:
                problems[entry.name] = " ".join(str(error).split())
            else:
                print(f"{entry.name}: {len(entry.card.files)} files, as its card says")
        for problem in problems.values():
            print(problem, file=sys.stderr)
        return 1 if problems else 0


@dataclass(frozen=True)
class Export:
    """Copies a model's card, weights and start states into a folder, verified before and after."""

    name: tyro.conf.Positional[str]
    """A model's name, a game's name, or the folder of a model."""
    folder: tyro.conf.Positional[Path]
    """Where to; it is created if it does not exist."""

    def run(self) -> int:
        """Copies."""
        from diamond_gym.registry.saving import export

        entry = export(resolve(self.name), self.folder)
        print(entry.folder)
        return 0


@dataclass(frozen=True)
class Remove:
    """Removes a model from your own registry, with all its files."""

    name: tyro.conf.Positional[str]
    """The model's name (not a game's)."""

    def run(self) -> int:
        """Removes."""
        remove(self.name)
        print(f"removed {self.name}")
        return 0
