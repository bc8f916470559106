"""Recordings of other formats: what each importer yields, and which importer reads a source.

A new format is a name in `FORMATS` and a module of that name in this folder, which has `LOOKS_FOR` (what it recognises,
in words), `recognises(source)`, which says whether a path is of this format, and `read(source, camera)`, which gives
the recordings in an order that is always the same.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import BadArgument, DiamondGymError, one_line
from diamond_gym.schema import MOST_ACTIONS

FORMATS = ("store", "csgo", "minari", "lerobot", "npz", "video", "images")
"""The modules' names, in the order in which they are asked."""

Frame = npt.NDArray[np.uint8]
VIDEOS = (".mp4", ".mkv", ".avi", ".webm", ".mov")
PICTURES = (".png", ".jpg", ".jpeg")


class UnreadableRecording(DiamondGymError):
    """A recording that cannot be imported as it is; the message names it and says why."""


@dataclass(frozen=True)
class Steps:
    """Actions, rewards and end of a recording: all but the frames.

    Attributes:
        act: (N, ...) of any type; `act[t]` was taken after frame `t`.
        rew: float32 (N,), or None where not known.
        end: Whether the last step ended the episode, or (N,) of every step; None where not known.
        trunc: Whether a time limit did, likewise.
    """

    act: npt.NDArray[Any]
    rew: npt.NDArray[np.float32] | None = None
    end: bool | npt.NDArray[Any] | None = None
    trunc: bool | npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Recording:
    """An episode of a source, read when it is asked for: N actions, and N or N + 1 frames.

    Attributes:
        key: What it is called within the source: the same whenever the source is read.
        steps: Reads its steps.
        frames: Yields its frames from a number on, uint8 (H, W, C) with one or three channels (RGB).
        num_frames: How many there are, as far as that is known beforehand: for the progress alone.
        info: Plain data about it.
    """

    key: str
    steps: Callable[[], Steps]
    frames: Callable[[int], Iterator[Frame]]
    num_frames: int
    info: Mapping[str, Any] = field(default_factory=lambda: {"first": True})


@dataclass(frozen=True)
class Source:
    """What an importer found.

    Attributes:
        recordings: In order.
        num_actions: Actions are 0..num_actions-1; 0 where they are anything else, None where it does not say.
        action_meanings: A word for each action, or none.
        fps: Frames per second, where the format knows.
        actions: What kind of actions they are where they are no numbers, as `About.actions`; empty where it does not
            say.
        origin: Where it lies, for messages and to know it again; filled in.
        env: What was played, as `About.env`; "" where it does not say.
    """

    recordings: Iterable[Recording]
    num_actions: int | None = None
    action_meanings: tuple[str, ...] = ()
    fps: float | None = None
    origin: str = ""
    actions: Mapping[str, Any] = field(default_factory=dict)
    env: str = ""


def importer(source: Path, wanted: str | None = None) -> ModuleType:
    """The module that reads a source.

    Args:
        source: A file or a folder, or the id of a data set in Minari's cache.
        wanted: A name of `FORMATS`; None to find out.

    Raises:
        BadArgument: There is no such format, or none recognises the source.
    """
    if wanted is not None and wanted not in FORMATS:
        raise BadArgument(f"there is no format {wanted!r}: --format is one of {', '.join(FORMATS)}")
    modules = [import_module(f"{__name__}.{name}") for name in ([wanted] if wanted else FORMATS)]
    for module in modules:
        if wanted or module.recognises(source):
            return module
    if not source.exists():
        raise BadArgument(f"there is nothing at {source}")
    sought = "; ".join(module.LOOKS_FOR for module in modules)
    raise BadArgument(f"{source} has no format known here. Looked for: {sought}. Choose one with --format NAME")


def files_in(source: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The source itself, or the files in it that end so, frame 9 before frame 10; what is hidden is left out."""

    def order(path: Path) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", path.relative_to(source).as_posix())
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    found = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    found = [p for p in found if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    return sorted(found, key=order)


def read_json(path: Path) -> Any:
    """A JSON file's content; a damaged one is an `UnreadableRecording`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableRecording(f"{path} cannot be read: {one_line(error)}") from error


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is read into an `UnreadableRecording` that names it.

    The libraries of the formats raise errors of many kinds where a file is damaged, so all kinds count; what is not
    installed and what does not fit into the memory are no fault of the file.
    """
    try:
        yield
    except (DiamondGymError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise UnreadableRecording(f"{path} is damaged or cut off: {one_line(error)}") from error


def checked_steps(recording: Recording) -> Steps:
    """A recording's steps as stores have them: int64 numbers, or bool, int64 or float32 vectors; ends as one flag."""
    steps = recording.steps()
    act = np.asarray(steps.act)
    if act.dtype.kind not in "biuf" or act.ndim < 1:
        raise UnreadableRecording(f"{recording.key}: actions are {act.dtype} {act.shape}, not numbers")
    if act.dtype.kind == "f":
        act = act.astype(np.float32) if act.ndim > 1 else act.astype(np.float32)[:, None]
        if not np.isfinite(act).all():
            raise UnreadableRecording(f"{recording.key}: an action is not finite")
    elif act.ndim == 1 or act.dtype.kind != "b":
        act = act.astype(np.int64)
    if act.ndim == 1 and not (possible := (act >= 0) & (act < MOST_ACTIONS)).all():
        at = int(possible.argmin())
        raise UnreadableRecording(f"{recording.key}: action {act[at]} of step {at} is not from 0 to {MOST_ACTIONS - 1}")
    if steps.rew is not None and len(steps.rew) != len(act):
        raise UnreadableRecording(f"{recording.key}: {len(steps.rew)} rewards for {len(act)} actions")
    if steps.rew is not None and not np.isfinite(steps.rew).all():
        at = int(np.isfinite(steps.rew).argmin())
        raise UnreadableRecording(f"{recording.key}: the reward of step {at} is not finite")
    end, trunc = (_at_last(flags, len(act), recording.key) for flags in (steps.end, steps.trunc))
    return replace(steps, act=act, end=end, trunc=trunc)


def _at_last(flags: bool | npt.NDArray[Any] | None, steps: int, key: str) -> bool | None:
    """Whether an episode's last step has a flag; refuses one before, as the frame that such an end led to is lost."""
    if flags is None or np.size(flags) == 1:
        return None if flags is None else bool(np.ravel(flags)[0])
    given = np.ravel(flags).astype(np.bool_)
    if len(given) != steps:
        raise UnreadableRecording(f"{key}: {len(given)} ends for {steps} actions")
    if given[:-1].any():
        at = int(given.argmax())
        raise UnreadableRecording(
            f"{key}: step {at} of {steps} ends the episode: what follows is another episode, in a file of its own"
        )
    return bool(given[-1])


def merged(sources: Iterable[Source]) -> Source:
    """Several sources as one, with keys that say which one a recording is from, and games numbered anew."""
    found, recordings, games = list(sources), list[Recording](), dict[tuple[int, Any], int]()
    for i, source in enumerate(found):
        for recording in source.recordings:
            info = dict(recording.info)
            if "game" in info:
                info["game"] = games.setdefault((i, info["game"]), len(games))
            recordings.append(replace(recording, key=f"{i}/{recording.key}", info=info))
    env = found[0].env if len({source.env for source in found}) == 1 else ""
    return replace(found[0], recordings=recordings, origin=" + ".join(source.origin for source in found), env=env)
