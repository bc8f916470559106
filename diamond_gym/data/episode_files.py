"""What an episode is, and how it lies in a store's files: `diamond_gym.data` puts them together.

- `store.json`: what the store holds (game, frame shape, actions, versions), written once.
- `frames.bin`: raw uint8 frames, (C, H, W) each as the networks want them, memory-mapped for reading.
- `steps.bin`: raw step records, see `STEP`.
- `index.jsonl`: one line per piece of an episode, with its places in the other two. A later line with the
  same id takes the place of an earlier one.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import DiamondGymError
from diamond_gym.files import atomic_write, disk_space_for, flush_folder

FORMAT = 1
STEP = np.dtype([("act", "<i4"), ("rew", "<f4"), ("end", "?"), ("trunc", "?")])  # packed: 10 bytes a step
ABOUT, FRAMES, STEPS, INDEX = "store.json", "frames.bin", "steps.bin", "index.jsonl"
Extents = tuple[tuple[int, int], ...]  # (first, count) in a file of equal records


@dataclass(frozen=True)
class Episode:
    """N consecutive steps of one episode, or of the part of it that was seen so far.

    Attributes:
        obs: Frames, uint8 (N+1, H, W, C): before every step, and after the last (the true final frame).
        act: Actions, int64 (N,); `act[t]` was taken after seeing `obs[t]`.
        rew: Rewards, float32 (N,), unclipped.
        end: The episode ended with this step, bool (N,). With `trunc` false too on the last step, the
            episode is cut: the game went on, but unseen (or not yet seen).
        trunc: A time limit ended the episode with this step, bool (N,).
        info: Plain data about the whole episode: `{"first": true}` at the beginning of a game, and `{"game": 12}`, a
            number that the lives of one game share, each going on from the frame in which the one before ended.

    Raises:
        ValueError: The arrays do not belong together.
    """

    obs: npt.NDArray[np.uint8]
    act: npt.NDArray[np.int64]
    rew: npt.NDArray[np.float32]
    end: npt.NDArray[np.bool_]
    trunc: npt.NDArray[np.bool_]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.act)
        shapes = [a.shape for a in (self.act, self.rew, self.end, self.trunc)]
        if n == 0 or shapes != [(n,)] * 4:
            raise ValueError(f"act, rew, end and trunc are (N,) with N > 0, not {shapes}")
        if self.obs.dtype != np.uint8 or self.obs.ndim != 4 or len(self.obs) != n + 1:
            raise ValueError(f"obs is uint8 ({n + 1}, H, W, C), not {self.obs.dtype} {self.obs.shape}")
        if (self.end | self.trunc)[:-1].any():
            raise ValueError("only an episode's last step can end it")

    def __len__(self) -> int:
        return len(self.act)


@dataclass(frozen=True)
class About:
    """What a store holds; two collections go into one store if `game`, shape and number of actions agree.

    Attributes:
        game: A game's name, or any other word.
        frame_shape: (H, W, C).
        num_actions: Actions are 0..num_actions-1.
        action_meanings: A word for each action, or none.
        created: When the store was made (ISO 8601, UTC); filled in.
        versions: Of the libraries with which it was made.
    """

    game: str
    frame_shape: tuple[int, int, int]
    num_actions: int
    action_meanings: tuple[str, ...] = ()
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def check_same(self, other: "About", folder: Path) -> None:
        """Raises DiamondGymError if experience of `other` does not belong into this store."""
        words = {"game": "game", "frame_shape": "frame shape", "num_actions": "number of actions"}
        for name, word in words.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                message = f"{folder} holds experience with {word} {mine}, not {theirs}: use another folder"
                raise DiamondGymError(message)

    def check_fits(self, piece: Episode) -> None:
        """Raises ValueError if frames or actions are not those of this store."""
        if piece.obs.shape[1:] != self.frame_shape:
            raise ValueError(f"frames are {self.frame_shape} here, not {piece.obs.shape[1:]}")
        if not 0 <= piece.act.min() <= piece.act.max() < self.num_actions:
            raise ValueError(f"actions lie in 0..{self.num_actions - 1} here")


@dataclass(frozen=True)
class Record:
    """One line of the index: where an episode's frames and steps are, and how it stands at its last step."""

    frames: Extents
    steps: Extents
    end: bool
    trunc: bool
    info: Mapping[str, Any]

    @property
    def num_steps(self) -> int:
        """Steps of the episode."""
        return sum(count for _, count in self.steps)

    def grown(self, piece: Episode, frames: tuple[int, int], steps: tuple[int, int]) -> "Record":
        """The record with another piece, whose frames and steps are at (first, count) of the files."""
        stands = bool(piece.end[-1]), bool(piece.trunc[-1])
        return Record(grow(self.frames, *frames), grow(self.steps, *steps), *stands, {**self.info, **piece.info})

    def line(self, number: int) -> bytes:
        """As the index has it."""
        return json.dumps({"id": number, **asdict(self)}, separators=(",", ":")).encode() + b"\n"


def parse_line(line: bytes, known: int) -> tuple[int, Record]:
    """The number and record of one of `known` episodes or the next; ValueError, KeyError or TypeError if damaged."""
    content = json.loads(line)
    if not 0 <= int(content["id"]) <= known:
        raise ValueError(f"episode {content['id']} after {known - 1}")
    frames, steps = (tuple((int(a), int(n)) for a, n in content[key]) for key in ("frames", "steps"))
    return int(content["id"]), Record(frames, steps, content["end"], content["trunc"], content["info"])


def create(folder: Path, about: About) -> None:
    """Makes an empty store; it is one only once `store.json` is there, which is written last."""
    index = folder / INDEX
    if index.exists() and index.stat().st_size:
        raise DiamondGymError(f"{folder} has an index but no {ABOUT}: restore it, or use another folder")
    with disk_space_for(folder):
        for part in (FRAMES, STEPS, INDEX):
            (folder / part).write_bytes(b"")
        flush_folder(folder)
        versions = {"python": platform.python_version(), "numpy": np.__version__, **about.versions}
        about = replace(about, created=datetime.now(UTC).isoformat(timespec="seconds"), versions=versions)
        with atomic_write(folder / ABOUT, "w") as file:
            json.dump({"format": FORMAT, **asdict(about)}, file, indent=2)


def read_about(folder: Path) -> About:
    """What the store in `folder` holds.

    Raises:
        DiamondGymError: There is none, it is of another format, or a file is missing or damaged.
    """
    try:
        content = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        written = content.pop("format")
        if written != FORMAT:
            raise DiamondGymError(f"{folder} has format {written}; this diamond-gym reads format {FORMAT}")
        for name in ("frame_shape", "action_meanings"):
            content[name] = tuple(content[name])
        about = About(**content)
    except (FileNotFoundError, NotADirectoryError):
        raise DiamondGymError(f"no experience at {folder}: diamond-gym collect makes some") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DiamondGymError(f"{folder / ABOUT} is damaged ({error})") from error
    for part in (FRAMES, STEPS, INDEX):
        if not (folder / part).is_file():
            raise DiamondGymError(f"{folder} is damaged: {part} is missing")
    return about


def grow(extents: Extents, first: int, count: int) -> Extents:
    """Adds `count` places from `first` on, to the last extent if they follow it."""
    if extents and sum(extents[-1]) == first:
        return (*extents[:-1], (extents[-1][0], extents[-1][1] + count))
    return (*extents, (first, count))


def end_of(extents: Extents) -> int:
    """The place after the last."""
    return max((first + count for first, count in extents), default=0)


def places(extents: Sequence[Extents]) -> npt.NDArray[np.int64]:
    """The places of all the extents, one after the other."""
    parts = [np.arange(first, first + count) for each in extents for first, count in each]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def lives_before(infos: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
    """For each episode the one that was the life before in the same game, or -1: int64 (N,)."""
    latest: dict[int, int] = {}
    before = np.full(len(infos), -1, np.int64)
    for number, info in enumerate(infos):
        if (game := info.get("game")) is not None:
            before[number] = latest.get(game, -1)
            latest[game] = number
    return before


def pack(piece: Episode) -> npt.NDArray[np.void]:
    """The piece's steps as records of `STEP`, (N,)."""
    packed = np.empty(len(piece), STEP)
    for name in ("act", "rew", "end", "trunc"):
        packed[name] = getattr(piece, name)
    return packed


def write_all(file: BinaryIO, at: int, parts: Sequence[bytes]) -> None:
    """Writes at a place of an unbuffered file, which may take less than it is given."""
    file.seek(at)
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) :]


def map_file(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """The first `size` bytes of a file, mapped into memory for reading."""
    if size == 0:  # an empty file cannot be mapped
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r", shape=(size,)))
