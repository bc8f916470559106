"""`diamond-gym remove NAME`: a model of yours, gone."""

from dataclasses import dataclass

import tyro

from diamond_gym.registry import remove


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
