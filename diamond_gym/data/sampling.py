"""Segments drawn from stored episodes in batches, newer play more often."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.episode_files import sequence_of
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import Batch, cut
from diamond_gym.errors import DiamondGymError

_Int = npt.NDArray[np.int64]


class SegmentSampler:
    """Draws training segments: a step by its age, and an offset of the segment around it.

    An episode is drawn with `weights` for the four quarters of episodes by age, oldest first, uniformly within a
    quarter (in proportion to its length as long as there are fewer than four, or one class), and then a uniform step t
    of it. That is the paper's rule, for one game at a time. With `by_step` the quarters are those of all steps in the
    order of play, and t is any step of one: of games side by side the newest episodes may be the longest or have a few
    steps, as they all begin together.

    A uniform offset u in 0..L-1 follows: with `beyond_end` the segment starts at t - u, and may reach over both ends of
    the episode; without, it stops after min(steps, t + 1 + u) steps of the episode, and may reach over its beginning
    only. With `final` the frame that followed the last step counts as one more: the paper's denoiser never learns to
    predict it, and in games whose rewards come with their ends it is the one that matters.

    >>> sampler = SegmentSampler(store, 6, 32, False, np.random.default_rng(0))  # doctest: +SKIP
    >>> sampler.sample().obs.shape  # doctest: +SKIP
    (32, 6, 3, 64, 64)

    Args:
        store: Where the episodes are; what is added to it later (`refresh` for a reader) is drawn from too.
        length: Steps per segment, L.
        batch_size: Segments per batch, B.
        beyond_end: Whether segments may reach over the episode's end (the reward/end model's do).
        rng: The only source of random numbers; `state_dict` holds its state.
        weights: One per class of age, oldest first; they sum to 1.
        across_lives: Whether a segment that reaches over its episode's beginning shows the life before instead of
            padding.
        by_step: Whether the classes are of steps, not of episodes.
        final: Whether segments hold the frame after an episode's last step (`segments.cut`).
        frames_of: Stands in for the store's `frames`.
    """

    def __init__(
        self,
        store: EpisodeStore,
        length: int,
        batch_size: int,
        beyond_end: bool,
        rng: np.random.Generator,
        weights: Sequence[float] = (0.1, 0.1, 0.1, 0.7),
        across_lives: bool = False,
        by_step: bool = False,
        final: bool = False,
        frames_of: Callable[[_Int, _Int], npt.NDArray[Any]] | None = None,
    ) -> None:
        if length < 1 or batch_size < 1:
            raise ValueError(f"length and batch size must be at least 1, not {length} and {batch_size}")
        if min(weights) < 0 or not np.isclose(sum(weights), 1):
            raise ValueError(f"weights must not be negative and must sum to 1, unlike {tuple(weights)}")
        self.store, self.length, self.batch_size, self.beyond_end = store, length, batch_size, beyond_end
        self.weights, self.across_lives, self.final = tuple(weights), across_lives, final
        self._by_step, self._rng, self._frames_of = by_step, rng, frames_of
        self._version = -1

    def sample(self) -> Batch:
        """Draws one batch."""
        episode, t = self._draw()
        u = self._rng.integers(0, self.length, size=self.batch_size)
        start = t - u if self.beyond_end else np.minimum(self.frames_of(episode), t + 1 + u) - self.length
        return self.cut(episode, start)

    def frames_of(self, episode: _Int) -> _Int:
        """How many frames of these episodes a segment may hold, int64 (N,)."""
        return np.asarray(self.store.lengths[episode] + self.final)

    def cut(self, episode: _Int, start: _Int) -> Batch:
        """Segments that begin at chosen steps of episodes, as many of them as are given."""
        return cut(self.store, episode, start, self.length, self.across_lives, self.final, self._frames_of)

    def chances(self, episode: _Int, t: _Int) -> npt.NDArray[np.float64]:
        """The chance of each of these steps to be a segment's t, float64 (N,)."""
        self._look()
        if not self._by_step:
            return np.asarray(np.diff(self._cumulative, prepend=0.0)[episode] / self.store.lengths[episode])
        first = np.cumsum(self.store.lengths) - self.store.lengths  # of each episode, with one after the other
        place = np.empty(len(self._played[0]), np.int64)
        place[first[self._played[0]] + self._played[1]] = np.arange(len(place))
        classes = len(self.weights)
        chance = np.array(self.weights) * classes / len(place)
        return np.asarray(chance[place[first[episode] + t] * classes // len(place)])

    def state_dict(self) -> dict[str, Any]:
        """The random generator's state, as plain data: with the same store, the same batches follow."""
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state of `state_dict`."""
        self._rng.bit_generator.state = state["rng"]

    def _draw(self) -> tuple[_Int, _Int]:
        self._look()
        if not self._by_step:
            episode = np.searchsorted(self._cumulative, self._rng.random(self.batch_size), side="right")
            return episode, self._rng.integers(0, self.store.lengths[episode])
        n = self.store.num_steps
        edges = np.cumsum([0.0, *self.weights]) / sum(self.weights)
        place = np.interp(self._rng.random(self.batch_size), edges, np.linspace(0, n, len(edges)))
        place = np.minimum(place.astype(np.int64), n - 1)
        return self._played[0][place], self._played[1][place]

    def _look(self) -> None:
        """Finds out what there is to draw from, when the store has grown."""
        if self._version == self.store.version:
            return
        if len(self.store) == 0:
            raise DiamondGymError(f"no episodes yet in {self.store.folder}; diamond-gym collect makes some")
        if self._by_step:
            self._played = order_of_play(self.store)
        else:
            self._cumulative = self._distribution()
        self._version = self.store.version

    def _distribution(self) -> npt.NDArray[np.float64]:
        """The episodes' cumulated probabilities."""
        n, classes = len(self.store), len(self.weights)
        if n < classes or classes == 1:
            chance = self.store.lengths / self.store.num_steps
        else:
            sizes = [n // classes] * (classes - 1) + [n - n // classes * (classes - 1)]
            chance = np.repeat(np.array(self.weights) / sizes, sizes)
        cumulative = np.cumsum(chance)
        return np.asarray(cumulative / cumulative[-1])


def order_of_play(store: EpisodeStore) -> tuple[_Int, _Int]:
    """All steps in the order in which they were stored: their episodes and their numbers in them, int64 (N,) each.

    Of games side by side, whose steps are stored in turns, that is the order in which they were played.
    """
    pieces = [
        (sequence_of(Path(piece.path).name), number, piece.link.first_step, piece.num_steps)
        for number in range(len(store))
        for piece in store.pieces(number)
    ]
    _, number, first, size = np.array(sorted(pieces), np.int64).reshape(-1, 4).T
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    return np.repeat(number, size), np.repeat(first, size) + within
