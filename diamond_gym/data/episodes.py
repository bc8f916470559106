"""Experience on disk: episodes in a folder that is cheap to read, only ever grows, and survives a crash.

Only what the index names exists, and a piece is named after it is safely on the disk: whatever lies beyond
the index's last complete line was interrupted, is ignored by readers and cut off by the next writer. An
episode of N steps owns N + 1 frames: what was seen before each step, and what the last step led to. 100,000
Atari steps take 1.23 GB, and each episode 12 kB more. `diamond_gym.data.episode_files` describes the files.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from diamond_gym.data import episode_files as files
from diamond_gym.data.episode_files import About, Episode, Record
from diamond_gym.errors import DiamondGymError
from diamond_gym.files import disk_space_for

__all__ = ["About", "Episode", "EpisodeStore"]


class EpisodeStore:
    """Episodes in a folder, in the order in which they began.

    >>> with EpisodeStore("breakout", "a", About("Breakout", (64, 64, 3), 4)) as store:  # doctest: +SKIP
    ...     number = store.append(episode)  # on the disk when this returns
    ...     store.extend(number, more)  # only for an episode that has not ended
    >>> EpisodeStore("breakout")[number].obs.shape  # doctest: +SKIP
    (46, 64, 64, 3)

    Args:
        folder: Where the store is.
        mode: "r" to read (any number of readers, also while somebody writes: see `refresh`), "a" to append
            (one writer at a time).
        about: For "a": what is going to be written. A new store is made of it, an old one must agree with it.

    Raises:
        DiamondGymError: There is no store, it is of another kind or damaged, or somebody else is writing.
    """

    def __init__(
        self, folder: str | os.PathLike[str], mode: Literal["r", "a"] = "r", about: About | None = None
    ) -> None:
        if mode not in ("r", "a"):
            raise ValueError(f"mode is 'r' or 'a', not {mode!r}")
        self.folder = Path(folder)
        self._parts = [self.folder / part for part in (files.FRAMES, files.STEPS, files.INDEX)]
        self._files: list[BinaryIO] = []
        self._open = ExitStack()
        self._version = 0
        with ExitStack() as undo:
            undo.callback(self._open.close)
            if mode == "a":
                self._lock(create=about is not None)
                if about is not None and not (self.folder / files.ABOUT).exists():
                    files.create(self.folder, about)
            self.about = files.read_about(self.folder)
            if about is not None:
                self.about.check_same(about, self.folder)
            self._frame_bytes = int(np.prod(self.about.frame_shape))
            self._forget()
            self.refresh()
            if mode == "a":
                self._files = [self._open.enter_context(open(p, "r+b", buffering=0)) for p in self._parts]
                self._cut_back()
            undo.pop_all()

    # Reading

    def refresh(self) -> bool:
        """Takes in what has been written since; returns whether there was anything."""
        index = self._parts[2]
        if index.stat().st_size < self._ends[2]:  # a writer took back what did not fit onto the disk
            self._forget()
        with open(index, "rb") as file:
            file.seek(self._ends[2])
            lines = file.read().splitlines(keepends=True)
        frames = self._parts[0].stat().st_size // self._frame_bytes
        steps = self._parts[1].stat().st_size // files.STEP.itemsize
        before = self._version
        for line in lines:
            if not line.endswith(b"\n"):
                break  # interrupted, or being written just now
            try:
                number, record = files.parse_line(line, len(self._records))
            except (ValueError, KeyError, TypeError) as error:
                raise DiamondGymError(f"{index} is damaged at byte {self._ends[2]} ({error})") from error
            if files.end_of(record.frames) > frames or files.end_of(record.steps) > steps:
                warnings.warn(
                    f"{self.folder} is incomplete: it should hold more frames or steps than it does; "
                    f"using what is there, {self.num_episodes} episodes",
                    stacklevel=2,
                )
                break
            self._take(number, record, len(line))
        return self._version > before

    @property
    def num_episodes(self) -> int:
        """How many episodes there are, unfinished ones included; the same as `len`."""
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
    def before(self) -> npt.NDArray[np.int64]:
        """For each episode the one that was the life before in its game, -1 where none is known; (num_episodes,)."""
        self._map()
        return self._before

    @property
    def version(self) -> int:
        """Grows whenever episodes are added or extended."""
        return self._version

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Episode:
        """The whole episode, as a copy in memory."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} episodes")
        number %= len(self)
        n = self._records[number].num_steps
        frames = self.frames(np.full(n + 1, number), np.arange(n + 1))
        steps = self.steps(np.full(n, number), np.arange(n))
        return Episode(
            frames.transpose(0, 2, 3, 1),
            steps["act"].astype(np.int64),
            steps["rew"].astype(np.float32),
            steps["end"].astype(np.bool_),
            steps["trunc"].astype(np.bool_),
            self.info(number),
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[number] for number in range(len(self)))

    def info(self, number: int) -> Mapping[str, Any]:
        """What was noted about an episode."""
        return self._records[number].info

    def frames(self, episode: npt.NDArray[np.int64], t: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Frames `t` of `episode`, both (...), 0 <= t <= length: uint8 (..., C, H, W)."""
        self._map()
        at = self._frame_at[self._frame_offset[episode] + t]
        h, w, c = self.about.frame_shape
        result: npt.NDArray[np.uint8] = self._frames.take(at.ravel(), axis=0)
        return result.reshape(*at.shape, c, h, w)

    def steps(self, episode: npt.NDArray[np.int64], t: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        """Steps `t` of `episode`, both (...), 0 <= t < length: records (...) of `episode_files.STEP`."""
        self._map()
        result: npt.NDArray[np.void] = self._steps[self._step_at[self._step_offset[episode] + t]]
        return result

    # Writing

    def append(self, episode: Episode) -> int:
        """Adds an episode; it is safely on the disk when this returns its number."""
        return self.write([(None, episode)])[0]

    def extend(self, number: int, more: Episode) -> None:
        """Continues episode `number`, which has not ended; `more.obs[0]` is the last frame that it has."""
        self.write([(number, more)])

    def write(self, pieces: Sequence[tuple[int | None, Episode]]) -> list[int]:
        """Adds new episodes (None) and continues unfinished ones (their number), all of them or none.

        Returns:
            The episodes' numbers.

        Raises:
            DiamondGymError: The disk is full; the store is as it was before.
            ValueError: A piece does not fit into the store, or its episode has ended.
        """
        if not self._files:
            raise DiamondGymError(f"{self.folder} is not open for writing")
        if os.fstat(self._files[2].fileno()).st_size != self._ends[2]:  # interrupted just after writing
            self.refresh()
            self._cut_back()
        frames, steps, records = self._lay_out(pieces)
        lines = [record.line(number) for number, record in records]
        try:
            with disk_space_for(self.folder):
                for file, at, parts in zip(self._files[:2], self._ends[:2], (frames, steps), strict=True):
                    files.write_all(file, at, parts)
                    os.fsync(file.fileno())
                # Only now, when what the index is about to name cannot be lost any more.
                files.write_all(self._files[2], self._ends[2], lines)
                os.fsync(self._files[2].fileno())
        except BaseException:  # Ctrl-C too
            self._cut_back()
            raise
        for (number, record), line in zip(records, lines, strict=True):
            self._take(number, record, len(line))
        return [number for number, _ in records]

    def close(self) -> None:
        """Lets another writer in; reading goes on to work."""
        self._files = []
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Inside

    def _lay_out(
        self, pieces: Sequence[tuple[int | None, Episode]]
    ) -> tuple[list[bytes], list[bytes], list[tuple[int, Record]]]:
        """The bytes of frames and steps to be added, and what the index will say of them."""
        frames, steps, records = list[bytes](), list[bytes](), list[tuple[int, Record]]()
        frame, step = self._ends[0] // self._frame_bytes, self._ends[1] // files.STEP.itemsize
        known = dict(enumerate(self._records))
        for number, piece in pieces:
            self.about.check_fits(piece)
            old, obs = Record((), (), False, False, {}), piece.obs
            if number is None:
                number = len(known)
            else:
                old, obs = known[number], piece.obs[1:]
                if old.end or old.trunc:
                    raise ValueError(f"episode {number} has ended")
            known[number] = old.grown(piece, (frame, len(obs)), (step, len(piece)))
            records.append((number, known[number]))
            frames.append(obs.transpose(0, 3, 1, 2).tobytes())
            steps.append(files.pack(piece).tobytes())
            frame, step = frame + len(obs), step + len(piece)
        return frames, steps, records

    def _lock(self, create: bool) -> None:
        if create:
            self.folder.mkdir(parents=True, exist_ok=True)
        elif not self.folder.is_dir():
            raise DiamondGymError(f"no experience at {self.folder}: diamond-gym collect makes some")
        try:
            self._open.enter_context(FileLock(self.folder / "writer.lock", timeout=0))
        except Timeout:
            raise DiamondGymError(f"somebody else is writing to {self.folder}: wait for it") from None

    def _forget(self) -> None:
        self._records: list[Record] = []
        self._ends = [0, 0, 0]  # bytes in use of frames, steps and index
        self._num_steps, self._mapped = 0, -1
        self._version += 1

    def _take(self, number: int, record: Record, line_bytes: int) -> None:
        """Makes known what a line of the index says."""
        if number == len(self._records):
            self._records.append(record)
        else:
            self._num_steps -= self._records[number].num_steps
            self._records[number] = record
        self._num_steps += record.num_steps
        self._ends[0] = max(self._ends[0], files.end_of(record.frames) * self._frame_bytes)
        self._ends[1] = max(self._ends[1], files.end_of(record.steps) * files.STEP.itemsize)
        self._ends[2] += line_bytes
        self._version += 1

    def _cut_back(self) -> None:
        """Removes what the index does not name, and first of all the lines that are not taken in."""
        for file, end in reversed(list(zip(self._files, self._ends, strict=True))):
            file.truncate(end)

    def _map(self) -> None:
        """Maps the files into memory, and each episode's frames and steps to their places there."""
        if self._mapped == self._version:
            return
        self._frames = files.map_file(self._parts[0], self._ends[0]).reshape(-1, self._frame_bytes)
        self._steps = files.map_file(self._parts[1], self._ends[1]).view(files.STEP)
        self._frame_at = files.places([record.frames for record in self._records])
        self._step_at = files.places([record.steps for record in self._records])
        self._lengths = np.array([record.num_steps for record in self._records], np.int64)
        self._before = files.lives_before([record.info for record in self._records])
        self._step_offset = np.cumsum(self._lengths) - self._lengths
        self._frame_offset = self._step_offset + np.arange(len(self._records))
        self._mapped = self._version
