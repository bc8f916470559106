"""World models by name: cards, files that are verified before they are used, and the games' table.

Importing this package loads no torch; only `load_world_model` and `save_model` do, when they are called.
"""

from diamond_gym.registry.card import Card, FileRecord, now
from diamond_gym.registry.games import Game, game, games
from diamond_gym.registry.human_card import human_card
from diamond_gym.registry.loading import load_world_model, verify
from diamond_gym.registry.models import Entry, entries, home_folder, models_folder, resolve, survey
from diamond_gym.registry.saving import remove, save_model, update_card, with_agent, with_agent_file

__all__ = [
    "Card",
    "Entry",
    "FileRecord",
    "Game",
    "entries",
    "game",
    "games",
    "home_folder",
    "human_card",
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
