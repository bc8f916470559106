"""`diamond-gym export NAME FOLDER`: a model's files, to keep or to hand on."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from diamond_gym.registry import resolve


@dataclass(frozen=True)
class Export:
    """Copies a model's card, weights and start states into a folder, verified before and after."""

    name: tyro.conf.Positional[str]
    """A model's name, a game's name, or the folder of a model."""
    folder: tyro.conf.Positional[Path]
    """Where to; it is made if there is none."""

    def run(self) -> int:
        """Copies."""
        from diamond_gym.registry.saving import export

        entry = export(resolve(self.name), self.folder)
        print(entry.folder)
        return 0
