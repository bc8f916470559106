"""World models by name: cards, files that are verified before they are used, and the table of games.

Importing this package does not load torch; only `load_world_model` and `save_model` do, when they are called. The code
that writes models is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from diamond_gym.registry.card import Card, FileRecord, now
from diamond_gym.registry.games import Game, game, games
from diamond_gym.registry.loading import load_world_model, verify
from diamond_gym.registry.models import Entry, entries, home_folder, models_folder, resolve, survey

if TYPE_CHECKING:
    from diamond_gym.registry.saving import remove, save_model, update_card, with_agent, with_agent_file

_WRITING = ["remove", "save_model", "update_card", "with_agent", "with_agent_file"]
__all__ = [
    "Card",
    "Entry",
    "FileRecord",
    "Game",
    "entries",
    "game",
    "games",
    "home_folder",
    "load_world_model",
    "models_folder",
    "now",
    "remove",
    "resolve",
    "save_model",
    "survey",
    "update_card",
    "verify",
    "with_agent",
    "with_agent_file",
]


def __getattr__(name: str) -> Any:
    if name in _WRITING:
        from diamond_gym.registry import saving

        return getattr(saving, name)
    raise AttributeError(f"module 'diamond_gym.registry' has no attribute '{name}'")
