"""Actions beside a video or beside pictures: CSV or JSON lines, a row for each step.

A row has the action, as a column `action` (a number or a word) or as one column a number, and where they are known
`reward`, `end` and `truncated`; columns that count (`frame`, `step`, `time`) are left out.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.importers import Frame, Recording, Source, Steps, UnreadableRecording
from diamond_gym.errors import one_line

SUFFIXES = (".csv", ".jsonl")
_REWARD, _END, _TRUNC = ("reward", "rew", "rewards"), ("end", "terminated", "done"), ("truncated", "trunc")
_COUNTS = ("", "frame", "step", "time", "timestamp", "index", "t")
_FALSE = ("", "0", "0.0", "false", "no")


@dataclass(frozen=True)
class Film:
    """Frames with a table of actions beside them.

    Attributes:
        key: What the recording is called.
        table: The CSV or JSONL file.
        frames: Yields the frames from a number on.
    """

    key: str
    table: Path
    frames: Callable[[int], Iterator[Frame]]


def source_of(films: Sequence[Film], fps: float | None = None) -> Source:
    """A recording for each film, with the actions of its table."""
    steps, num_actions, words = read_actions([film.table for film in films])

    def recording(film: Film, its: Steps) -> Recording:
        return Recording(film.key, lambda: its, film.frames, len(its.act))

    return Source(list(map(recording, films, steps)), num_actions, words, fps)


def read_actions(paths: Sequence[Path]) -> tuple[list[Steps], int, tuple[str, ...]]:
    """The steps of each file, as arrays of one type, how many actions there are (0: not numbered), and their words."""
    tables = [_table(path) for path in paths]
    names = [name for name in tables[0] if name not in {*_REWARD, *_END, *_TRUNC, *_COUNTS}]
    for path, table in zip(paths, tables, strict=True):
        if missing := [name for name in names if name not in table] or ([] if names else ["action"]):
            raise UnreadableRecording(f"{path} has no column {missing[0]!r}")
    columns = [[list(table[name]) for name in names] for table in tables]
    words: tuple[str, ...] = ()
    try:
        arrays = [np.array(each, np.float64).T if each[0] else np.zeros((0, len(names))) for each in columns]
    except ValueError:
        if len(names) > 1:
            raise UnreadableRecording(f"{paths[0]}: several columns of actions are numbers, here {names}") from None
        words = tuple(sorted({str(value) for each in columns for value in each[0]}))
        arrays = [np.array([[words.index(str(value))] for value in each[0]], np.float64) for each in columns]
    acts, num_actions = _of_one_type(arrays)
    found = []
    for path, table, act in zip(paths, tables, acts, strict=True):
        if not np.isfinite(act).all():
            raise UnreadableRecording(f"{path}: an action is not a number")
        reward = next((table[name] for name in _REWARD if name in table), None)
        flags = [next((table[name] for name in names_ if name in table), None) for names_ in (_END, _TRUNC)]
        ends = [None if flag is None else [str(value).lower() not in _FALSE for value in flag] for flag in flags]
        if early := [flag.index(True) for flag in ends if flag and any(flag[:-1])]:
            raise UnreadableRecording(
                f"{path}: step {early[0]} ends the episode, as only the last row can; write one file per episode"
            )
        try:
            rew = None if reward is None else np.array(reward, np.float32)
        except ValueError as error:
            raise UnreadableRecording(f"{path}: a reward is not a number ({one_line(error)})") from None
        last = [None if flag is None else bool(flag and flag[-1]) for flag in ends]
        found.append(Steps(act, rew, *last))
    return found, num_actions, words


def _of_one_type(arrays: list[npt.NDArray[Any]]) -> tuple[list[npt.NDArray[Any]], int]:
    """Numbers in the smallest of the types that the store's readers know: one whole number, yes and no, or floats."""
    whole = all((a == np.round(a)).all() for a in arrays)
    if arrays[0].ndim == 2 and arrays[0].shape[1] == 1 and whole:
        acts = [a[:, 0].astype(np.int64) for a in arrays]
        return acts, 1 + max((int(a.max()) for a in acts if a.size), default=0)
    if whole:
        binary = all(np.isin(a, (0, 1)).all() for a in arrays)
        return [a.astype(np.bool_ if binary else np.int64) for a in arrays], 0
    return [a.astype(np.float32) for a in arrays], 0


def _table(path: Path) -> dict[str, list[Any]]:
    """The columns of a file; a list in a JSON line is several."""
    rows: list[dict[str, Any]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    if None in row or None in row.values():
                        raise ValueError(f"line {reader.line_num} has another number of columns than the first")
                    rows.append({name.strip().lower(): value for name, value in row.items()})
            else:
                for line in filter(str.strip, file):
                    row = json.loads(line)
                    action = row.pop("action", row.pop("act", None))
                    many = action if isinstance(action, list) else None
                    parts = {"action": action} if many is None else {f"action{i}": v for i, v in enumerate(many)}
                    rows.append({**{name.lower(): value for name, value in row.items()}, **parts})
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        raise UnreadableRecording(f"{path} cannot be read: {one_line(error)}") from None
    if not rows:
        raise UnreadableRecording(f"{path} holds no actions")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise UnreadableRecording(f"{path}: every line has the same names, unlike here")
    return {name: [row[name] for row in rows] for name in rows[0]}
