"""Scores over games and seeds: their files, and human-normalised mean, median, interquartile mean and optimality gap.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021
(arXiv 2108.13264), whose definitions these are: a few runs per game say little by their mean alone.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.files import atomic_write
from diamond_gym.registry.games import game as find_game
from diamond_gym.trainers.evaluate import Scores

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
    return np.array([[find_game(name).human_normalised(score) for score in scores[name]] for name in sorted(scores)])


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


SCORES = "scores.json"
"""The file's name in a run's folder."""
RANDOM = "random"
"""What the policy of uniform actions is called there."""

Runs = dict[str, list[float]]
"""For each game, the mean score of each run."""


def rows_of(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Scores by policy as plain data, a row for each policy."""
    return [{"policy": policy, "game": row.game, **row.table()} for policy, row in scores.items()]


def write_scores(path: Path, scores: Mapping[str, Scores]) -> None:
    """Writes what `read_runs` reads; in a run's folder its name is `scores.json`."""
    with atomic_write(path, "w") as file:
        json.dump(rows_of(scores), file, indent=2)


def read_runs(path: Path) -> Runs:
    """Gathers runs by game.

    Args:
        path: A JSON file, either `{"Pong": [score of a run, ...], ...}` or what `write_scores` writes; or a folder,
            of which every `scores.json` counts, however deep it lies, as a run of the game it names.

    Raises:
        DiamondGymError: There is nothing, or what is there does not hold scores.
    """
    if path.is_dir():
        files = sorted(path.rglob(SCORES))
        if not files:
            raise BadArgument(f"there is no {SCORES} in {path} or below; training and `evaluate --out` write them")
    elif path.exists():
        files = [path]
    else:
        raise BadArgument(f"there is no {path}: give a folder of runs or a JSON file of scores")
    runs: Runs = {}
    for file in files:
        for game, scores in _read(file).items():
            runs.setdefault(game, []).extend(scores)
    return dict(sorted(runs.items()))


def _read(file: Path) -> Runs:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        runs = _from_rows(table) if isinstance(table, list) else _from_table(table)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        line = " ".join(str(error).split())[:120]
        raise DiamondGymError(
            f'{file} does not hold scores ({line}); they are {{"Pong": [score of each run], ...}} '
            "or what `evaluate --json` prints"
        ) from None
    if not runs:
        raise DiamondGymError(f"{file} holds no scores of an agent")
    return runs


def _from_table(table: Mapping[str, Any]) -> Runs:
    return {
        game: [_score(value) for value in (scores if isinstance(scores, list) else [scores])]
        for game, scores in table.items()
    }


def _from_rows(table: list[dict[str, Any]]) -> Runs:
    """One run for each row, but for those of the random policy."""
    runs: Runs = {}
    for row in table:
        if row["policy"] != RANDOM:
            if not isinstance(row["game"], str):
                raise TypeError(f"{row['game']!r} is no game")
            runs.setdefault(row["game"], []).append(_score(row["mean"]))
    return runs


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no score")
    return float(value)
