"""Checks of recordings before a world model is trained on them."""

import warnings
from pathlib import Path

import numpy as np

from diamond_gym.data.checks import faults
from diamond_gym.data.checks.coverage import coverage
from diamond_gym.data.checks.faults import Finding
from diamond_gym.data.checks.motion import estimate_lag
from diamond_gym.data.episode_files import Episode
from diamond_gym.data.episodes import EpisodeStore

__all__ = ["check_store", "chosen", "coverage", "damaged_files", "estimate_lag"]


def check_store(
    store: EpisodeStore, test: EpisodeStore | None = None, memory: int = 4, max_steps: int = 20_000, seed: int = 0
) -> list[Finding]:
    """Checks a store of episodes.

    Args:
        store: What a world model is to be trained on.
        test: Held-out episodes, for what only the comparison shows.
        memory: Frames that the world model sees, T.
        max_steps: Steps that are looked at, whole episodes chosen at random.
        seed: Of that choice.

    Returns:
        What was found, faults first; nothing wrong is an empty list.
    """
    if not len(store):
        return [Finding("empty", "fault", "there are no episodes", "collect or import some")]
    episodes = chosen(store, max_steps, seed)
    found = [
        *faults.lengths(store, memory),
        *faults.actions(episodes, store),
        *faults.timing(episodes),
        *faults.effects(episodes, store),
        *faults.outcomes(episodes),
        *faults.pictures(episodes, chosen(test, max_steps // 4, seed) if test is not None else []),
    ]
    if test is not None:
        found += faults.copied_play(store, test)
    return sorted(found, key=lambda finding: finding.level != "fault")


def damaged_files(folder: Path) -> list[Finding]:
    """A fault for each file of a store that cannot be read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        EpisodeStore(folder)
    advice = "delete the file, or import the source again"
    return [Finding("damaged-file", "fault", str(warning.message), advice) for warning in caught]


def chosen(store: EpisodeStore, max_steps: int, seed: int = 0) -> list[Episode]:
    """Whole episodes at random, in their order, of at least `max_steps` steps together if there are so many."""
    order = np.random.default_rng(seed).permutation(len(store))
    needed = int(np.searchsorted(np.cumsum(store.lengths[order]), max_steps)) + 1
    return [store[int(number)] for number in np.sort(order[:needed])]
