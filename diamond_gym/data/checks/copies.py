"""Episodes that hold the same play twice, as a recording imported two times or cut into overlapping pieces does."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.checks.motion import grey
from diamond_gym.data.episode_files import Episode

_STEPS, _CHANGES = 24, 4  # steps of the same actions, with so many changes, that are no accident
_ALIKE = 4.0  # levels by which re-encoded frames may differ in the mean


def copies(known: Sequence[Episode] | Any, others: Iterable[Episode]) -> Iterator[tuple[int, int]]:
    """The pairs of an episode in `others` and one in `known` that share 24 steps of play.

    Actions must be the same, frames nearly so: the same recording in another encoding counts. An episode is no copy of
    the one at its own place where both are the same store.

    Args:
        known: Episodes, by index: a list or a store.
        others: Episodes to look for them in.

    Yields:
        The places of both, that in `others` first.
    """
    places = {digest: (i, t) for i in range(len(known)) for t, digest in _stretches(known[i].act)}
    for number, episode in enumerate(others):
        found = set[int]()
        for t, digest in _stretches(episode.act):
            i, there = places.get(digest, (-1, 0))
            if i < 0 or i in found or (i == number and known is others):
                continue
            theirs = known[i].obs[there : there + _STEPS + 1]
            if _alike(episode.obs[t : t + _STEPS + 1], theirs):
                found.add(i)
                yield number, i


def _alike(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> bool:
    return bool(np.abs(grey(one, side=16) - grey(other, side=16)).mean() < _ALIKE)


def _stretches(act: npt.NDArray[Any]) -> Iterator[tuple[int, bytes]]:
    """Where each eventful stretch of actions begins, and its hash."""
    flat = np.ascontiguousarray(act.reshape(len(act), -1))
    changes = np.concatenate(([0], np.cumsum((flat[1:] != flat[:-1]).any(1))))
    for t in range(len(flat) - _STEPS + 1):
        if changes[t + _STEPS - 1] - changes[t] >= _CHANGES:
            yield t, hashlib.blake2b(flat[t : t + _STEPS].tobytes(), digest_size=8).digest()
