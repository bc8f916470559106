"""Scores on disk: what an evaluation writes, and the runs of several games and seeds gathered from it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.files import atomic_write
from diamond_gym.trainers.scores import Scores

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
