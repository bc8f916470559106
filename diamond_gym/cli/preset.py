"""Which preset a command line means."""

import os
import sys
from collections.abc import Sequence

from diamond_gym.device import pick_device
from diamond_gym.trainers.presets import wanted_preset


def settled_preset(words: Sequence[str]) -> str:
    """The preset that the words name; "auto", as without one, is settled by the machine, and said."""
    preset = wanted_preset(words)
    if preset != "auto":
        return preset
    preset = "paper" if pick_device().type == "cuda" else "nano"
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(f"preset: {preset} (the one that suits this machine)", file=sys.stderr)
    return preset
