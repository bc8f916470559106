"""Human-normalised scores over games and seeds, summed up as Agarwal et al. 2021 recommend.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021
(arXiv 2108.13264), whose definitions these are: a few runs per game say little by their mean alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import game

_Floats = npt.NDArray[np.float64]
Statistic = Callable[[_Floats], _Floats]
_CHUNK = 1000  # resamples at a time, so that a hundred thousand of them need no gigabytes


def mean(scores: _Floats) -> _Floats:
    """The mean over games and runs, of scores (..., games, runs)."""
    return np.asarray(scores.mean(axis=(-2, -1)))


def median(scores: _Floats) -> _Floats:
    """The median over games of each game's mean over its runs, of scores (..., games, runs)."""
    return np.asarray(np.median(scores.mean(axis=-1), axis=-1))


def interquartile_mean(scores: _Floats) -> _Floats:
    """The mean of the middle half of all runs of all games together, of scores (..., games, runs).

    Of n runs, floor(n / 4) are left out at either end.
    """
    runs = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = runs.shape[-1] // 4
    return np.asarray(runs[..., cut : runs.shape[-1] - cut].mean(axis=-1))


def optimality_gap(scores: _Floats) -> _Floats:
    """How far below 1 runs stay on average: mean of 1 - min(x, 1), of scores (..., games, runs)."""
    return np.asarray((1 - np.minimum(scores, 1)).mean(axis=(-2, -1)))


STATISTICS: dict[str, Statistic] = {
    "mean": mean,
    "median": median,
    "iqm": interquartile_mean,
    "optimality_gap": optimality_gap,
}


@dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregates:
    """What runs on several games come to.

    Attributes:
        games: The games' names, sorted.
        runs: Runs per game.
        normalised: Each game's mean human-normalised score.
        estimates: By the names in `STATISTICS`.
        at_least_human: How many games' means are 1 or more.
    """

    games: tuple[str, ...]
    runs: int
    normalised: dict[str, float]
    estimates: dict[str, Estimate]
    at_least_human: int


def human_normalised(scores: Mapping[str, Sequence[float]]) -> _Floats:
    """Scores (games, runs) where random play is 0 and a human player is 1, games in alphabetical order.

    Args:
        scores: For each game of Atari 100k, the mean score of each run (one run is one seed).

    Raises:
        BadArgument: A game is unknown, or the games differ in their number of runs.
    """
    counts = {name: len(runs) for name, runs in scores.items()}
    if not counts or min(counts.values()) == 0:
        raise BadArgument("there are no scores to aggregate")
    fewest, most = min(counts, key=lambda k: counts[k]), max(counts, key=lambda k: counts[k])
    if counts[fewest] != counts[most]:
        raise BadArgument(
            f"the games need equally many runs, but {fewest} has {counts[fewest]} and {most} has {counts[most]}"
        )
    return np.array([[game(name).human_normalised(score) for score in scores[name]] for name in sorted(scores)])


def bootstrap(scores: _Floats, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> dict[str, Estimate]:
    """Every statistic with a stratified percentile bootstrap interval.

    Stratified: a resample draws the runs of each game anew, with replacement and independently of the other
    games', so that it has the same games and as many runs of each.

    Args:
        scores: float64 (games, runs).
        resamples: How many.
        level: The interval's nominal coverage.
        seed: Of the resampling.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[_Floats]] = {name: [] for name in STATISTICS}
    for first in range(0, resamples, _CHUNK):
        index = rng.integers(scores.shape[1], size=(min(_CHUNK, resamples - first), *scores.shape))
        resampled = np.take_along_axis(scores[None], index, axis=2)
        for name, statistic in STATISTICS.items():
            drawn[name].append(statistic(resampled))
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {name: np.quantile(np.concatenate(parts), tails) for name, parts in drawn.items()}
    return {
        name: Estimate(float(statistic(scores)), float(intervals[name][0]), float(intervals[name][1]))
        for name, statistic in STATISTICS.items()
    }


def aggregate(scores: Mapping[str, Sequence[float]], resamples: int = 10_000, seed: int = 0) -> Aggregates:
    """Sums up unclipped scores over games and runs.

    Args:
        scores: For each game of Atari 100k, the mean score of each run.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        BadArgument: A game is unknown, or the games differ in their number of runs.
    """
    matrix = human_normalised(scores)
    means = dict(zip(sorted(scores), matrix.mean(axis=1).tolist(), strict=True))
    return Aggregates(
        tuple(means), matrix.shape[1], means, bootstrap(matrix, resamples, seed=seed), int((matrix.mean(1) >= 1).sum())
    )
