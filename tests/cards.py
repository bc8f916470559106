"""A card, weights and starts to try the registry with."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diamond_gym.registry import (
    Card,
)
from diamond_gym.starts import Starts

WEIGHTS = {"denoiser.b": torch.arange(6.0).reshape(2, 3), "denoiser.a": torch.ones(4, dtype=torch.float16)}


def a_card(name: str = "tiny", **changes: Any) -> Card:
    card = Card(
        name=name,
        game="Breakout",
        created="2026-11-22T12:00:00Z",
        spaces={"obs_shape": [64, 64, 3], "num_actions": 2, "action_meanings": ["NOOP", "FIRE"]},
        denoiser={"sigma_data": 0.5, "inner_model": {"channels": [8, 8]}},
    )
    return replace(card, **changes)


def listed(folder: Path) -> list[str]:
    """The names of what is in a folder, in order; those of a model's files without the hash in them."""
    return sorted(re.sub(r"-[0-9a-f]{8}\.", ".", path.name) for path in folder.iterdir())


def some_starts() -> Starts:
    return Starts(np.zeros((2, 4, 64, 64, 3), np.uint8), np.zeros((2, 3), np.int64), np.array([True, False]))
