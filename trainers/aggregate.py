"""Scores over games and seeds: their files, and human-normalised mean, median, interquartile mean and optimality gap.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021
(arXiv 2108.13264), whose definitions these are: a few runs per game say little by their mean alone.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import BadArgument, DiamondGymError, one_line
from diamond_gym.files import atomic_write
from diamond_gym.registry.games import game as find_game
from diamond_gym.trainers.evaluate import Scores

_Floats = npt.NDArray[np.float64]
Runs = dict[str, list[float]]  # for each game, the mean score of each run

SCORES = "scores.json"  # the file's name in a run's folder
RANDOM = "random"  # what the policy of uniform actions is called there
_CHUNK = 1000  # resamples at a time, so that a hundred thousand of them need no gigabytes


def _interquartile_mean(scores: _Floats) -> _Floats:
    """The mean of the middle half of all runs of all games together, of scores (..., games, runs)."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1))


# Of scores (..., games, runs): the median is that of the games' means, the gap how far below 1 runs stay on average.
STATISTICS: dict[str, Callable[[_Floats], _Floats]] = {
    "mean": lambda scores: np.asarray(scores.mean(axis=(-2, -1))),
    "median": lambda scores: np.asarray(np.median(scores.mean(axis=-1), axis=-1)),
    "iqm": _interquartile_mean,
    "optimality_gap": lambda scores: np.asarray((1 - np.minimum(scores, 1)).mean(axis=(-2, -1))),
}


class Estimate(NamedTuple):
    """A statistic with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregates:
    """Runs on several games, summed up.

    Attributes:
        runs: Runs per game.
        normalised: Each game's mean human-normalised score, games in alphabetical order.
        estimates: By the names in `STATISTICS`.
        at_least_human: How many games' means are 1 or more.
    """

    runs: int
    normalised: dict[str, float]
    estimates: dict[str, Estimate]
    at_least_human: int

    def table(self) -> dict[str, Any]:
        """All of it as plain data."""
        estimates = {name: estimate._asdict() for name, estimate in self.estimates.items()}
        counts = {"games": len(self.normalised), "runs": self.runs}
        return counts | estimates | {"at_least_human": self.at_least_human, "human_normalised": self.normalised}


def human_normalised(scores: Mapping[str, Sequence[float]]) -> _Floats:
    """Scores (games, runs) where random play is 0 and a human player is 1, games in alphabetical order.

    Raises:
        BadArgument: A game is unknown, or the games differ in their number of runs.
    """
    counts = {name: len(runs) for name, runs in scores.items()}
    if not counts or min(counts.values()) == 0:
        raise BadArgument("there are no scores to aggregate")
    fewest, most = min(counts, key=lambda k: counts[k]), max(counts, key=lambda k: counts[k])
    if counts[fewest] != counts[most]:
        raise BadArgument(
            f"the games need the same number of runs, but {fewest} has {counts[fewest]} and {most} has {counts[most]}"
        )
    return np.array([[find_game(name).human_normalised(score) for score in scores[name]] for name in sorted(scores)])


def bootstrap(scores: _Floats, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> dict[str, Estimate]:
    """Every statistic of scores (games, runs) with a stratified percentile bootstrap interval.

    A resample draws the runs of each game anew, with replacement and independently of the other games'.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[_Floats]] = {name: [] for name in STATISTICS}
    for first in range(0, resamples, _CHUNK):
        index = rng.integers(scores.shape[1], size=(min(_CHUNK, resamples - first), *scores.shape))
        resampled = np.take_along_axis(scores[None], index, axis=2)
        for name, statistic in STATISTICS.items():
            drawn[name].append(statistic(resampled))
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: Estimate(float(statistic(scores)), *map(float, np.quantile(np.concatenate(drawn[name]), tails)))
        for name, statistic in STATISTICS.items()
    }


def aggregate(scores: Mapping[str, Sequence[float]], resamples: int = 10_000, seed: int = 0) -> Aggregates:
    """Sums up unclipped scores over games and runs, a run's score being its mean; errors as `human_normalised`'s."""
    matrix = human_normalised(scores)
    means = dict(zip(sorted(scores), matrix.mean(axis=1).tolist(), strict=True))
    at_least_human = sum(value >= 1 for value in means.values())
    return Aggregates(matrix.shape[1], means, bootstrap(matrix, resamples, seed=seed), at_least_human)


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
    files = sorted(path.rglob(SCORES)) if path.is_dir() else [path]
    if not path.exists():
        raise BadArgument(f"there is no {path}: give a folder of runs or a JSON file of scores")
    if not files:
        raise BadArgument(f"there is no {SCORES} in {path} or below; training and `evaluate --out` write them")
    runs: Runs = {}
    for file in files:
        try:
            pairs = _read(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = f" ({one_line(error)})" if isinstance(error, ValueError) else ""  # others speak of Python's types
            raise DiamondGymError(
                f'{file} does not hold scores{why}; they are {{"Pong": [score of each run], ...}} '
                "or what `evaluate --json` prints"
            ) from None
        if not pairs:
            raise DiamondGymError(f"{file} holds no scores of an agent")
        for game, scores in pairs:
            runs.setdefault(game, []).extend(scores)
    return dict(sorted(runs.items()))


def _is_score(value: Any) -> bool:
    """Whether it is a finite number that a float can hold, which whole numbers in JSON need not be."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _read(content: Any) -> list[tuple[str, list[float]]]:
    """Games and scores of runs, from a table or from rows; one run for each row, but for those of the random policy."""
    if isinstance(content, list):
        pairs = [(row["game"], [row["mean"]]) for row in content if row["policy"] != RANDOM]
    else:
        pairs = [(game, scores if isinstance(scores, list) else [scores]) for game, scores in content.items()]
    for game, scores in pairs:
        if not isinstance(game, str):
            raise ValueError(f"{game!r} is not a game")
        if wrong := [score for score in scores if not _is_score(score)]:
            raise ValueError(f"{wrong[0]!r:.60} is not a score")
    return [(game, [float(score) for score in scores]) for game, scores in pairs]
