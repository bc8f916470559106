"""`diamond-gym info NAME`: one model's card, and whether its files are those of the card."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from diamond_gym.registry import Entry, resolve, verify
from diamond_gym.registry.human_card import flat_rows


@dataclass(frozen=True)
class Info:
    """Tells all that is known of one world model, and verifies its files."""

    name: tyro.conf.Positional[str]
    """A model's name, a game's name, or the folder of a model."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""

    def run(self) -> int:
        """Verifies the files and prints the card; of a damaged model, what is wrong is told instead."""
        entry = verify(resolve(self.name))
        if self.as_json:
            print(json.dumps({**asdict(entry.card), "path": str(entry.path), "bundled": entry.bundled}, indent=2))
        else:
            _print(entry)
        return 0


def _print(entry: Entry) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    console.print(f"{entry.name}: {entry.card.summary}" if entry.card.summary else entry.name, style="bold")
    if not entry.bundled:
        console.print(f"id: DiamondDream-{entry.name}-v0", style="dim")
    general: dict[str, object] = {
        "game": entry.card.game,
        "from": "the package" if entry.bundled else "you",
        "created": entry.card.created,
        "license": entry.card.license,
        "source": entry.card.source,
        "card": str(entry.path),
        "files": f"{len(entry.card.files)} verified, {entry.bytes / 1e6:.1f} MB",
    }
    card = entry.card
    tables = {
        "": general,
        "spaces": card.spaces,
        "denoiser": card.denoiser,
        "reward_end": card.reward_end,
        "actor_critic": card.actor_critic,
        "upsampler": card.upsampler,
        "sampler": card.sampler,
        "training": card.training,
        "figures": card.figures,
    }
    width = max((len(key) for table in tables.values() for key, _ in flat_rows(table or {})), default=0)
    for title, content in tables.items():
        rows = [(key, value) for key, value in flat_rows(content or {}) if value not in ("", None)]
        if not rows:
            continue
        if title:
            console.print(f"\n{title}", style="bold")
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="dim", min_width=width)
        table.add_column(overflow="fold")
        for key, value in rows:
            table.add_row(key, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        console.print(table)
