"""`diamond-gym info NAME`: one model's card, and whether its files are those of the card."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from diamond_gym.errors import ModelNotFound
from diamond_gym.registry import Card, resolve, verify
from diamond_gym.registry.human_card import flat_rows
from diamond_gym.registry.published import Published, published


@dataclass(frozen=True)
class Info:
    """Tells all that is known of one world model, and verifies its files; or of one that could be pulled."""

    name: tyro.conf.Positional[str]
    """A model's name, a game's name, or the folder of a model."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""

    def run(self) -> int:
        """Verifies the files and prints the card; of a damaged model, what is wrong is told instead."""
        try:
            entry = verify(resolve(self.name))
        except ModelNotFound:
            model = _published(self.name)
            if model is None:
                raise
            card, where = model.card(), {"path": None, "bundled": False, "pull": f"diamond-gym pull {model.game}"}
            told = {"from": f"the hub: `{where['pull']}` fetches it", "files": f"about {model.bytes / 1e6:,.0f} MB"}
        else:
            card, where = entry.card, {"path": str(entry.path), "bundled": entry.bundled}
            told = {
                "from": "the package" if entry.bundled else "you",
                "card": str(entry.path),
                "files": f"{len(card.files)} verified, {entry.bytes / 1e6:.1f} MB",
            }
            if not entry.bundled:
                told["id"] = f"DiamondDream-{entry.name}-v0"
        if self.as_json:
            print(json.dumps({**asdict(card), **where}, indent=2))
        else:
            _print(card, told)
        return 0


def _published(name: str) -> Published | None:
    """The authors' model of that name, or of that game, which is not here."""
    return next((model for model in published().values() if name.lower() in (model.name, model.game.lower())), None)


def _print(card: Card, told: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    console.print(f"{card.name}: {card.summary}" if card.summary else card.name, style="bold")
    general = {
        "game": card.game,
        "created": card.created,
        "license": card.license,
        "source": card.source,
        **told,
    }
    tables: dict[str, Mapping[str, Any] | None] = {
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
