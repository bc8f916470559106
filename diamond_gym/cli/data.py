"""data: folders of experience."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Data:
    """Converts a folder of experience that an earlier version collected."""

    action: Annotated[Literal["convert"], tyro.conf.Positional]
    """What to do: convert writes a store of today, and leaves the old files as they are."""
    old: Annotated[Path, tyro.conf.Positional]
    """The folder."""
    new: Annotated[Path | None, tyro.conf.Positional] = None
    """Where the store goes (default: into the same folder, beside the old files)."""

    def run(self) -> int:
        """Converts, and says what there is."""
        from diamond_gym.data.convert import convert

        episodes, steps = convert(self.old, self.new)
        print(f"{self.new or self.old}: {steps:,} steps in {episodes:,} episodes")
        if self.new is None:
            print("the old frames.bin, steps.bin and index.jsonl are no longer read")
        return 0
