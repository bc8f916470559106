"""`diamond-gym list`: the models at hand, and those that can be pulled."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from diamond_gym.registry import Entry, games, survey
from diamond_gym.registry.published import Published, published

_DAY = len("2026-01-31")  # of a time; --json has the whole of it
_LEAST = 16  # characters of a summary


@dataclass(frozen=True)
class ListModels:
    """Lists the world models at hand, your own and those that came with the package, and what can be pulled."""

    games: bool = False
    """List the 26 games of Atari 100k instead, with the model that each one's id means."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the list, damaged models last, with a line to the standard error for each of these."""
        found, problems = survey()
        rows = _games(found) if self.games else [_model(entry) for entry in found]
        rows += [] if self.games else [_damaged(name, why) for name, why in problems.items()]
        here = {entry.name for entry in found} | set(problems)
        to_pull = [] if self.games else [model for model in published().values() if model.name not in here]
        if self.as_json:
            print(json.dumps(rows + [_available(model) for model in to_pull], indent=2))
        else:
            _print(rows, self.games)
            if to_pull:
                names = ", ".join(model.game for model in to_pull)
                print(f"\nto be had with `diamond-gym pull NAME`, weights by DIAMOND's authors: {names}")
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
    return {
        "name": model.name,
        "game": model.game,
        "from": "hub",
        "created": None,
        "bytes": model.bytes,
        "agent": bool(model.scores),
        "summary": model.summary,
        "license": model.license,
        "path": None,
        "source": model.source,
        "parameters": model.parameters,
        "pull": f"diamond-gym pull {model.game}",
        **model.figures,
    }


def _games(found: list[Entry]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for game in games().values():
        entries = [entry for entry in found if entry.card.game == game.name]
        means = max(entries, key=lambda entry: entry.rank, default=None)
        rows.append(
            {
                "game": game.name,
                "model": means.name if means else None,
                "actions": game.num_actions,
                "random": game.random,
                "human": game.human,
                "diamond": game.diamond,
            }
        )
    return rows


def _print(rows: list[dict[str, object]], games: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print("no world models yet; train one with: diamond-gym train-wm --game Breakout")
        return
    hidden = () if games else ("path", "license", "damaged")
    keys = [key for key in rows[0] if key not in hidden]
    columns = {key: [_cell(key, row[key]) for row in rows] for key in keys}
    console = Console(markup=False, highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    room = console.width
    for key, cells in columns.items():
        if key == "summary":  # the last one, which gets what is left of a line
            cells[:] = [_fitting(cell, max(room, _LEAST)) for cell in cells]
        room -= max(len(key), *map(len, cells)) + 2
        table.add_column(key, no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table, crop=False, no_wrap=True)


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
