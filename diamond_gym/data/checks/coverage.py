"""Which parts of held-out play have no neighbour in the training play.

Where a world model has seen nothing like the present it makes things up, and a few recordings of just those
situations help more than many of the others (arXiv 2606.27326).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diamond_gym.data.episode_files import Episode

Floats = npt.NDArray[np.float32]

_SIDE = 12  # pixels of the longer side of what is compared
_MOST = 4000  # training frames that are compared with
_USUAL = 0.95  # quantile of the distances between training episodes that counts as near
_STRETCH, _WORST = 16, 5  # frames of a stretch that is named, and how many are


@dataclass(frozen=True)
class Coverage:
    """How well training play covers held-out play.

    Attributes:
        covered: Part of the held-out frames that have a neighbour in the training play, 0 to 1.
        radius: Distance up to which a frame is a neighbour: 95 % of the training frames have one in another training
            episode as near as that. Root mean square over coarse pixels of two frames in a row, in levels.
        worst: The five stretches of 16 held-out frames farthest from all training play: episode, first step, distance.
    """

    covered: float
    radius: float
    worst: list[tuple[int, int, float]]


def coverage(train: Sequence[Episode], test: Sequence[Episode]) -> Coverage:
    """Compares held-out with training play.

    Args:
        train: Training episodes, at least two.
        test: Held-out episodes.

    Raises:
        ValueError: There are fewer than two training episodes, or no held-out one.
    """
    if len(train) < 2 or not test:
        raise ValueError("coverage compares held-out episodes with at least two training episodes")
    known = [_coarse(episode) for episode in train]
    owner = np.repeat(np.arange(len(known)), [len(part) for part in known])
    frames = np.concatenate(known)
    if len(frames) > _MOST:
        keep = np.sort(np.random.default_rng(0).choice(len(frames), _MOST, replace=False))
        frames, owner = frames[keep], owner[keep]
    radius = float(np.quantile(_nearest(frames, frames, owner[:, None] == owner[None]), _USUAL))
    distances = [_nearest(_coarse(episode), frames) for episode in test]
    near = np.concatenate(distances) <= radius
    stretches = [
        (number, t, float(part[t : t + _STRETCH].mean()))
        for number, part in enumerate(distances)
        for t in range(0, len(part), _STRETCH)
    ]
    far = sorted((stretch for stretch in stretches if stretch[2] > radius), key=lambda stretch: -stretch[2])
    return Coverage(float(near.mean()), radius, far[:_WORST])


def _coarse(episode: Episode) -> Floats:
    """Each frame and its change from the one before, at a few pixels; float32 (N, D)."""
    n, h, w, c = episode.obs.shape
    block = max(1, -(-max(h, w) // _SIDE))
    h, w = h // block * block, w // block * block
    blocks = episode.obs[:, :h, :w].reshape(n, h // block, block, w // block, block, c)
    small = blocks.mean((2, 4), dtype=np.float32).reshape(n, -1)
    both = np.concatenate((small, np.diff(small, axis=0, prepend=small[:1])), 1)
    return np.asarray(both / np.sqrt(both.shape[1] / 2), np.float32)


def _nearest(points: Floats, others: Floats, apart: npt.NDArray[np.bool_] | None = None) -> Floats:
    """The distance of each point to the nearest other, leaving out the pairs in a mask; float32 (N,)."""
    found = np.empty(len(points), np.float32)
    squares = (others**2).sum(1)
    for i in range(0, len(points), 512):
        part = slice(i, i + 512)
        square = (points[part] ** 2).sum(1)[:, None] + squares - 2 * points[part] @ others.T
        if apart is not None:
            square[apart[part]] = np.inf
        found[part] = np.sqrt(square.min(1).clip(0))
    return found
