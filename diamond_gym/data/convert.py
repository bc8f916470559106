"""Data folders of earlier versions, in which three files grew: read once, and written as a store of today."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.about import FORMAT_BEFORE, About, read_about, write_about
from diamond_gym.data.episode_files import SUFFIX, Episode, Link, encode, new_path, write_files
from diamond_gym.errors import DiamondGymError
from diamond_gym.files import disk_space_for

_FRAMES, _STEPS, _INDEX = "frames.bin", "steps.bin", "index.jsonl"
_STEP = np.dtype([("act", "<i4"), ("rew", "<f4"), ("end", "?"), ("trunc", "?")])


def convert(old: Path, new: Path | None = None) -> tuple[int, int]:
    """Converts a folder of `frames.bin`, `steps.bin` and `index.jsonl`, which stay as they are.

    Every piece of an episode becomes a file, numbered by the index's bytes up to its line: what a training noted in its
    checkpoint about the old folder is as true of the new one. The folder becomes a store with the last file written;
    until then, the same call again begins anew.

    Args:
        old: The folder.
        new: Where the store goes; None to make the old folder one.

    Returns:
        How many episodes and steps there are.

    Raises:
        DiamondGymError: There is nothing to convert, it is damaged, or `new` is in use.
    """
    about, new = read_about(old, FORMAT_BEFORE), new or old
    if new != old and new.exists() and any(new.iterdir()):
        raise DiamondGymError(f"{new} is not empty: name another folder")
    with disk_space_for(new):
        new.mkdir(parents=True, exist_ok=True)
        for path in [*new.glob(f"*{SUFFIX}"), *new.glob(f".*.tmp{SUFFIX}")]:  # of a conversion that was interrupted
            path.unlink()
        latest: dict[int, tuple[Link | None, int]] = {}  # of each episode: its last file, and its steps so far
        steps = 0
        for number, sequence, episode in _pieces(old, about):
            path, (before, first_step) = new_path(new, sequence), latest.get(number, (None, 0))
            link = Link.of(path, episode, before, first_step)
            write_files([(path, encode(episode, link, about))])
            latest[number] = link, first_step + len(episode)
            steps += len(episode)
        write_about(new, about)
    return len(latest), steps


def _pieces(folder: Path, about: About) -> Iterator[tuple[int, int, Episode]]:
    """Each line's number of an episode, the bytes up to its end, and the steps that the lines before do not have."""
    h, w, c = about.frame_shape
    try:
        frames = _mapped(folder / _FRAMES, np.dtype((np.uint8, (c, h, w))))
        records = _mapped(folder / _STEPS, _STEP)
        lines = (folder / _INDEX).read_bytes().splitlines(keepends=True)
    except FileNotFoundError as error:
        raise DiamondGymError(f"{folder} is damaged: {Path(error.filename).name} is missing") from None
    known: dict[int, int] = {}  # steps of each episode so far
    end = 0
    for line in lines:
        if not line.endswith(b"\n"):
            break  # interrupted while it was written
        end += len(line)
        try:
            content = json.loads(line)
            number, have = int(content["id"]), known.get(int(content["id"]), 0)
            if not 0 <= number <= len(known):
                raise ValueError(f"episode {number} after {len(known) - 1}")
            at, of_steps = (_places(content[name])[have:] for name in ("frames", "steps"))
            if at.max() >= len(frames) or of_steps.max() >= len(records):
                warnings.warn(f"{folder} is incomplete: what is there, {len(known)} episodes, is taken", stacklevel=4)
                return
            obs, steps = frames[at], records[of_steps]
            act, rew = steps["act"].astype(np.int64), steps["rew"].copy()
            last = np.arange(len(steps)) == len(steps) - 1
            ends = last & bool(content["end"]), last & bool(content["trunc"])
            episode = Episode(obs.transpose(0, 2, 3, 1), act, rew, *ends, content["info"])
            about.check_fits(episode)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise DiamondGymError(f"{folder / _INDEX} is damaged before byte {end} ({error})") from error
        known[number] = have + len(steps)
        yield number, end, episode


def _mapped(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A file's whole records, mapped into memory."""
    count = path.stat().st_size // dtype.itemsize
    if not count:
        return np.zeros(0, dtype)
    base, shape = dtype.base, (count, *dtype.shape)
    return np.asarray(np.memmap(path, base, "r", shape=shape))


def _places(extents: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """The places of extents (first, count), one after the other."""
    return np.concatenate([np.arange(first, first + count) for first, count in extents])
