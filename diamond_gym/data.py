"""Experience on disk: episodes in a folder that is cheap to read, only ever grows, and survives a crash.

A store is a folder of four files:

- `store.json`: what the store holds (game, frame shape, actions, versions), written once.
- `frames.bin`: raw uint8 frames, (C, H, W) each as the networks want them, memory-mapped for reading.
- `steps.bin`: raw step records, see `STEP`.
- `index.jsonl`: one line per piece of an episode, appended after frames and steps are safely on the disk.

Only what the index names exists: whatever lies beyond its last complete line was interrupted, is ignored by
readers and cut off by the next writer. An episode of N steps owns N + 1 frames: what was seen before each step,
and what the last step led to. 100,000 Atari steps take 1.23 GB, and 12 kB more per episode.
"""

import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from diamond_gym.errors import DiamondGymError
from diamond_gym.files import atomic_write, disk_space_for, flush_folder

FORMAT = 1
STEP = np.dtype([("act", "<i4"), ("rew", "<f4"), ("end", "?"), ("trunc", "?")])  # packed: 10 bytes a step
_PARTS = ("frames.bin", "steps.bin", "index.jsonl")
_Extents = tuple[tuple[int, int], ...]  # (first, count) in a file of equal records


@dataclass(frozen=True)
class Episode:
    """N consecutive steps of one episode, or of the part of it that was seen so far.

    Attributes:
        obs: Frames, uint8 (N+1, H, W, C): before every step, and after the last (the true final frame).
        act: Actions, int64 (N,); `act[t]` was taken after seeing `obs[t]`.
        rew: Rewards, float32 (N,), unclipped.
        end: The episode ended with this step, bool (N,). With `trunc` false too on the last step, the episode is
            cut: the game went on, but unseen (or not yet seen).
        trunc: A time limit ended the episode with this step, bool (N,).
        info: Plain data about the whole episode, for instance `{"first": true}` at the beginning of a game.
    """

    obs: npt.NDArray[np.uint8]
    act: npt.NDArray[np.int64]
    rew: npt.NDArray[np.float32]
    end: npt.NDArray[np.bool_]
    trunc: npt.NDArray[np.bool_]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses arrays that do not belong together."""
        n = len(self.act)
        shapes = [a.shape for a in (self.act, self.rew, self.end, self.trunc)]
        if n == 0 or shapes != [(n,)] * 4 or len(self.obs) != n + 1:
            raise ValueError(f"an episode of N > 0 steps has N+1 frames and N of the rest, not {self.obs.shape}, {shapes}")
        if self.obs.dtype != np.uint8 or self.obs.ndim != 4:
            raise ValueError(f"frames are uint8 (N+1, H, W, C), not {self.obs.dtype} {self.obs.shape}")
        if (self.end | self.trunc)[:-1].any():
            raise ValueError("only an episode's last step can end it")

    def __len__(self) -> int:
        return len(self.act)


@dataclass(frozen=True)
class About:
    """What a store holds; two collections fit into one store if `game`, shape and actions agree."""

    game: str
    frame_shape: tuple[int, int, int]  # (H, W, C)
    num_actions: int
    action_meanings: tuple[str, ...] = ()
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def check_same(self, other: "About", folder: Path) -> None:
        """Raises DiamondGymError if experience of `other` does not belong into this store."""
        for name in ("game", "frame_shape", "num_actions"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                what = name.replace("_", " ")
                raise DiamondGymError(f"{folder} holds experience with {what} {mine}, not {theirs}; use another folder")


@dataclass(frozen=True)
class _Record:
    frames: _Extents
    steps: _Extents
    end: bool
    trunc: bool
    info: Mapping[str, Any]

    @property
    def num_steps(self) -> int:
        return sum(count for _, count in self.steps)


class EpisodeStore:
    """Episodes in a folder, in the order in which they began; see the module for the files.

    >>> with EpisodeStore("breakout", "a", About("Breakout", (64, 64, 3), 4)) as store:
    ...     number = store.append(episode)        # on the disk when this returns
    ...     store.extend(number, more)            # only for an episode that has not ended
    >>> EpisodeStore("breakout")[number].obs.shape
    (46, 64, 64, 3)

    Args:
        folder: Where the store is.
        mode: "r" to read (any number of readers, also while somebody writes: see `refresh`), "a" to append
            (one writer at a time).
        about: For "a": what is going to be written. A new store is made of it, an old one must agree with it.

    Raises:
        DiamondGymError: There is no store, it is of another kind, damaged, or somebody else is writing to it.
    """

    def __init__(
        self, folder: str | os.PathLike[str], mode: Literal["r", "a"] = "r", about: About | None = None
    ) -> None:
        if mode not in ("r", "a"):
            raise ValueError(f"mode is 'r' or 'a', not {mode!r}")
        self.folder = Path(folder)
        self._open = ExitStack()
        self._files: list[BinaryIO] = []
        with ExitStack() as undo:
            undo.callback(self._open.close)
            if mode == "a":
                if about is not None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                self._lock()
                if about is not None and not (self.folder / "store.json").exists():
                    _create(self.folder, about)
            self.about = _read_about(self.folder)
            if about is not None:
                self.about.check_same(about, self.folder)
            self._frame_bytes = int(np.prod(self.about.frame_shape))
            self._forget()
            self.refresh()
            if mode == "a":
                self._files = [self._open.enter_context(open(self.folder / p, "r+b", buffering=0)) for p in _PARTS]
                self._cut_back()
            undo.pop_all()

    # Reading

    def refresh(self) -> bool:
        """Takes in what has been written since; returns whether there was anything."""
        path = self.folder / "index.jsonl"
        if path.stat().st_size < self._ends[2]:  # a writer took back what did not fit onto the disk
            self._forget()
        with open(path, "rb") as file:
            file.seek(self._ends[2])
            lines = file.read().splitlines(keepends=True)
        room = [(self.folder / p).stat().st_size // n for p, n in zip(_PARTS, (self._frame_bytes, STEP.itemsize))]
        taken = 0
        for line in lines:
            if not line.endswith(b"\n"):
                break  # interrupted, or being written just now
            try:
                number, record = _parse(line)
            except (ValueError, KeyError, TypeError) as error:
                raise DiamondGymError(f"{path} is damaged at byte {self._ends[2]}: not an index line") from error
            if _end(record.frames) > room[0] or _end(record.steps) > room[1]:
                message = f"{self.folder} is incomplete (frames.bin or steps.bin is shorter than the index says); "
                warnings.warn(message + f"using the first {self.num_episodes} episodes", stacklevel=2)
                break
            self._take(number, record, len(line))
            taken += 1
        return taken > 0

    @property
    def num_episodes(self) -> int:
        """How many episodes there are, unfinished ones included."""
        return len(self._records)

    @property
    def num_steps(self) -> int:
        """How many steps there are in all episodes together."""
        return self._num_steps

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Steps per episode, (num_episodes,)."""
        self._map()
        return self._lengths

    @property
    def version(self) -> int:
        """Grows whenever episodes are added or extended."""
        return self._version

    def __len__(self) -> int:
        return self.num_episodes

    def __getitem__(self, number: int) -> Episode:
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} episodes")
        number %= len(self)
        n = self._records[number].num_steps
        steps = self.steps(np.full(n, number), np.arange(n))
        frames = self.frames(np.full(n + 1, number), np.arange(n + 1))
        return Episode(
            frames.transpose(0, 2, 3, 1),
            steps["act"].astype(np.int64),
            steps["rew"].copy(),
            steps["end"].copy(),
            steps["trunc"].copy(),
            self._records[number].info,
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[number] for number in range(len(self)))

    def info(self, number: int) -> Mapping[str, Any]:
        """What was noted about an episode."""
        return self._records[number].info

    def frames(self, episode: npt.NDArray[np.int64], t: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Frames `t` of `episode`, elementwise: (...) and (...), 0 <= t <= length, to uint8 (..., C, H, W)."""
        self._map()
        at = self._frame_at[self._frame_offset[episode] + t]
        h, w, c = self.about.frame_shape
        return self._frames.take(at.ravel(), axis=0).reshape(*at.shape, c, h, w)

    def steps(self, episode: npt.NDArray[np.int64], t: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        """Steps `t` of `episode`, elementwise: (...) and (...), 0 <= t < length, to records (...) of `STEP`."""
        self._map()
        return self._steps[self._step_at[self._step_offset[episode] + t]]

    # Writing

    def append(self, episode: Episode) -> int:
        """Adds an episode; it is safely on the disk when this returns its number."""
        return self.write([(None, episode)])[0]

    def extend(self, number: int, more: Episode) -> None:
        """Continues episode `number`, which has not ended; `more.obs[0]` is the last frame that it has."""
        self.write([(number, more)])

    def write(self, pieces: Sequence[tuple[int | None, Episode]]) -> list[int]:
        """Adds new episodes (None) and continues unfinished ones (their number), all or none of them.

        Returns:
            The episodes' numbers.

        Raises:
            DiamondGymError: The disk is full; the store is as it was before.
        """
        if not self._files:
            raise DiamondGymError(f"{self.folder} is open for reading only")
        frames, steps, index = list[bytes](), list[bytes](), list[tuple[int, _Record, bytes]]()
        first_frame, first_step = self._ends[0] // self._frame_bytes, self._ends[1] // STEP.itemsize
        grown: dict[int, _Record] = {}
        for number, piece in pieces:
            if piece.obs.shape[1:] != self.about.frame_shape:
                raise ValueError(f"frames are {self.about.frame_shape} here, not {piece.obs.shape[1:]}")
            if not 0 <= piece.act.min() <= piece.act.max() < self.about.num_actions:
                raise ValueError(f"actions lie in 0..{self.about.num_actions - 1} here")
            old, obs = _Record((), (), False, False, {}), piece.obs
            if number is None:
                number = self.num_episodes + sum(n >= self.num_episodes for n in grown)
            else:
                old, obs = grown.get(number) or self._records[number], piece.obs[1:]
                if old.end or old.trunc:
                    raise ValueError(f"episode {number} has ended")
            record = _Record(
                _grow(old.frames, first_frame, len(obs)),
                _grow(old.steps, first_step, len(piece)),
                bool(piece.end[-1]),
                bool(piece.trunc[-1]),
                {**old.info, **piece.info},
            )
            grown[number] = record
            index.append((number, record, _line(number, record)))
            frames.append(np.ascontiguousarray(obs.transpose(0, 3, 1, 2)).tobytes())
            steps.append(_pack(piece).tobytes())
            first_frame, first_step = first_frame + len(obs), first_step + len(piece)
        try:
            with disk_space_for(self.folder):
                # The index last, and only when what it speaks of cannot be lost any more.
                for file, end, parts in zip(self._files, self._ends, (frames, steps, [x[2] for x in index])):
                    file.seek(end)
                    for part in parts:
                        _write_all(file, part)
                    if file is not self._files[0]:
                        os.fsync(file.fileno())
                    if file is self._files[1]:
                        os.fsync(self._files[0].fileno())
        except BaseException:  # Ctrl-C too
            self._cut_back()
            raise
        self._ends[:2] = [first_frame * self._frame_bytes, first_step * STEP.itemsize]
        for number, record, line in index:
            self._take(number, record, len(line))
        return [number for number, _, _ in index]

    def close(self) -> None:
        """Lets another writer in; reading goes on to work."""
        self._files = []
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _lock(self) -> None:
        if not self.folder.is_dir():
            raise DiamondGymError(f"no experience at {self.folder}; diamond-gym collect --out makes some")
        try:
            self._open.enter_context(FileLock(self.folder / "writer.lock", timeout=0))
        except Timeout:
            raise DiamondGymError(f"somebody else is writing to {self.folder}; wait, or use another folder") from None

    def _forget(self) -> None:
        self._records: list[_Record] = []
        self._num_steps, self._version, self._mapped = 0, getattr(self, "_version", 0) + 1, -1
        self._ends = [0, 0, 0]  # bytes in use of each part

    def _take(self, number: int, record: _Record, line_bytes: int) -> None:
        """Makes an index line's content known."""
        if number > len(self._records):
            raise DiamondGymError(f"{self.folder / 'index.jsonl'} is damaged: episode {len(self._records)} is missing")
        if number == len(self._records):
            self._records.append(record)
        else:
            self._num_steps -= self._records[number].num_steps
            self._records[number] = record
        self._num_steps += record.num_steps
        self._version += 1
        self._ends[0] = max(self._ends[0], _end(record.frames) * self._frame_bytes)
        self._ends[1] = max(self._ends[1], _end(record.steps) * STEP.itemsize)
        self._ends[2] += line_bytes

    def _cut_back(self) -> None:
        """Removes what the index does not know."""
        for file, end in zip(self._files, self._ends):
            file.truncate(end)

    def _map(self) -> None:
        """Maps the files, and each episode's frames and steps to their places in them."""
        if self._mapped == self._version:
            return
        frames, steps = (_map_file(self.folder / p, end) for p, end in zip(_PARTS[:2], self._ends))
        self._frames, self._steps = frames.reshape(-1, self._frame_bytes), steps.view(STEP)
        self._frame_at = _spread([record.frames for record in self._records])
        self._step_at = _spread([record.steps for record in self._records])
        self._lengths = np.array([record.num_steps for record in self._records], np.int64)
        self._step_offset = np.cumsum(self._lengths) - self._lengths
        self._frame_offset = self._step_offset + np.arange(len(self._records))
        self._mapped = self._version


def _create(folder: Path, about: About) -> None:
    index = folder / "index.jsonl"
    if index.exists() and index.stat().st_size:
        raise DiamondGymError(f"{folder} has an index but no store.json; restore it, or use another folder")
    with disk_space_for(folder):
        for part in _PARTS:
            (folder / part).write_bytes(b"")
        flush_folder(folder)
        versions = {"python": platform.python_version(), "numpy": np.__version__, **about.versions}
        about = replace(about, created=datetime.now(UTC).isoformat(timespec="seconds"), versions=versions)
        with atomic_write(folder / "store.json", "w") as file:
            json.dump({"format": FORMAT, **asdict(about)}, file, indent=2)


def _read_about(folder: Path) -> About:
    try:
        content = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        written = content.pop("format")
        if written != FORMAT:
            raise DiamondGymError(f"{folder} has format {written}; this version of diamond-gym reads format {FORMAT}")
        content["frame_shape"] = tuple(content["frame_shape"])
        content["action_meanings"] = tuple(content["action_meanings"])
        about = About(**content)
    except FileNotFoundError:
        raise DiamondGymError(f"no experience at {folder}; diamond-gym collect --out makes some") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DiamondGymError(f"{folder / 'store.json'} is damaged: {error}") from error
    for part in _PARTS:
        if not (folder / part).is_file():
            raise DiamondGymError(f"{folder / part} is missing")
    return about


def _parse(line: bytes) -> tuple[int, _Record]:
    content = json.loads(line)
    frames, steps = (tuple((int(a), int(n)) for a, n in content[key]) for key in ("frames", "steps"))
    return content["id"], _Record(frames, steps, content["end"], content["trunc"], content["info"])


def _line(number: int, record: _Record) -> bytes:
    return json.dumps({"id": number, **asdict(record)}, separators=(",", ":")).encode() + b"\n"


def _grow(extents: _Extents, first: int, count: int) -> _Extents:
    if extents and sum(extents[-1]) == first:  # it ends where the new piece begins
        return (*extents[:-1], (extents[-1][0], extents[-1][1] + count))
    return (*extents, (first, count))


def _end(extents: _Extents) -> int:
    return max((first + count for first, count in extents), default=0)


def _spread(extents: Sequence[_Extents]) -> npt.NDArray[np.int64]:
    """The places in all the extents, one after the other."""
    parts = [np.arange(first, first + count) for each in extents for first, count in each]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _pack(piece: Episode) -> npt.NDArray[np.void]:
    packed = np.empty(len(piece), STEP)
    packed["act"], packed["rew"], packed["end"], packed["trunc"] = piece.act, piece.rew, piece.end, piece.trunc
    return packed


def _write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered file may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _map_file(path: Path, size: int) -> npt.NDArray[np.uint8]:
    if size == 0:  # an empty file cannot be mapped
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r", shape=(size,)))
