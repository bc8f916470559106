"""Experience on disk: a folder of episodes that several processes can add to, read by memory map.

An episode of N steps has N + 1 frames: what was seen before each step, and what the last step led to. An episode that
is stored before it has ended lies in several files. No file ever changes: each is written beside its place and
renamed, so that a killed process leaves only whole ones. 100,000 Atari steps take 1.23 GB, and each file 12 kB more.
"""

import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from diamond_gym.data.about import ABOUT, About, read_about, write_about
from diamond_gym.data.episode_files import SUFFIX, Episode, Piece, lives_before, read_piece, sequence_of, write_files
from diamond_gym.errors import DiamondGymError
from diamond_gym.files import disk_space_for

__all__ = ["About", "Episode", "EpisodeStore"]

_Int = npt.NDArray[np.int64]
_MAPPED = 8192  # files mapped into memory at once; systems allow some 65,000
_LITTER_AGE = 3600.0  # seconds after which a file that is still being written never will be


class EpisodeStore:
    """Episodes in a folder, in the order in which they began.

    >>> with EpisodeStore("breakout", "a", About("Breakout", (64, 64, 3), 4)) as store:  # doctest: +SKIP
    ...     number = store.append(episode)  # on the disk when this returns
    ...     store.extend(number, more)  # only for an episode that has not ended
    >>> EpisodeStore("breakout")[number].obs.shape  # doctest: +SKIP
    (46, 64, 64, 3)

    An episode's number is its place in that order when the store was opened; what others add is numbered as
    `refresh` finds it.

    Args:
        folder: Where the store is.
        mode: "r" to read, "a" to append too; any number of processes may do either at the same time.
        about: For "a": what is going to be written. A new store is made of it, an old one must agree with it.
        until: For "a": what was written after this `mark` is deleted first, by whoever has the folder to itself.

    Raises:
        DiamondGymError: There is no store, it is of another kind, or its description is damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        mode: Literal["r", "a"] = "r",
        about: About | None = None,
        until: int | None = None,
    ) -> None:
        if mode not in ("r", "a"):
            raise ValueError(f"mode is 'r' or 'a', not {mode!r}")
        self.folder, self._writable = Path(folder), mode == "a"
        if self._writable and about is not None and not (self.folder / ABOUT).exists():
            if any(sequence_of(path.name) >= 0 for path in self.folder.glob(f"*{SUFFIX}")):
                raise DiamondGymError(f"{folder} has episodes but no {ABOUT}: restore it, or use another folder")
            with disk_space_for(self.folder):
                write_about(self.folder, about)
        self.about = read_about(self.folder)
        if about is not None:
            self.about.check_same(about, self.folder)
        if self._writable:
            self._clear(until)
        self._step_type = self.about.step_type
        self._version, self._warned = 0, set[str]()
        self._forget()
        self.refresh()

    # Reading

    def refresh(self) -> bool:
        """Takes in what has been written since; returns whether there was anything.

        A damaged file is left out, with a warning that names it.
        """
        version = self._version
        names = {entry.name for entry in os.scandir(self.folder) if sequence_of(entry.name) >= 0}
        if not self._known <= names:  # somebody deleted what a checkpoint did not know
            self._forget()
        for name in sorted(names - self._known - self._warned):
            try:
                self._take(read_piece(self.folder / name, self.about))
            except FileNotFoundError:
                continue
            except (ValueError, OSError) as error:
                self._warned.add(name)
                warnings.warn(f"{self.folder / name} is left out: {error}", stacklevel=2)
        return self._version > version

    @property
    def num_episodes(self) -> int:
        """How many episodes there are, unfinished ones included; the same as `len`."""
        return len(self._episodes)

    @property
    def num_steps(self) -> int:
        """How many steps there are in all episodes together."""
        return self._num_steps

    @property
    def lengths(self) -> _Int:
        """Steps per episode, (num_episodes,)."""
        self._lay_out()
        return self._lengths

    @property
    def before(self) -> _Int:
        """For each episode the one that was the life before in its game, -1 where none is known; (num_episodes,)."""
        self._lay_out()
        return self._before

    @property
    def version(self) -> int:
        """Grows whenever episodes are added or extended."""
        return self._version

    @property
    def mark(self) -> int:
        """What `until` takes to come back to the store as it is now."""
        return self._mark

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, number: int) -> Episode:
        """The whole episode, as a copy in memory."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} episodes")
        number %= len(self)
        n = int(self.lengths[number])
        frames = self.frames(np.full(n + 1, number), np.arange(n + 1)).transpose(0, 2, 3, 1)
        steps = self.steps(np.full(n, number), np.arange(n))
        known = {"rew", "end", "trunc"} - set(self._episodes[number][0].unknown)
        return Episode(frames, steps["act"].copy(), info=self.info(number), **{k: steps[k].copy() for k in known})

    def __iter__(self) -> Iterator[Episode]:
        return (self[number] for number in range(len(self)))

    def info(self, number: int) -> Mapping[str, Any]:
        """What was noted about an episode."""
        return self._episodes[number][-1].info

    def frames(self, episode: _Int, t: _Int) -> npt.NDArray[np.uint8]:
        """Frames `t` of `episode`, both (...), 0 <= t <= length: uint8 (..., C, H, W)."""
        return self._gather(episode, t, frames=True)[0]

    def steps(self, episode: _Int, t: _Int) -> npt.NDArray[np.void]:
        """Steps `t` of `episode`, both (...), 0 <= t < length: records (...) of `about.step_type`."""
        return self._gather(episode, t, steps=True)[1]

    def frames_and_steps(self, episode: _Int, t: _Int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Both at once, which is faster."""
        return self._gather(episode, t, frames=True, steps=True)

    # Writing

    def append(self, episode: Episode) -> int:
        """Adds an episode; it is safely on the disk when this returns its number."""
        return self.write([(None, episode)])[0]

    def extend(self, number: int, more: Episode) -> None:
        """Continues episode `number`, which has not ended; `more.obs[0]` is the last frame that it has."""
        self.write([(number, more)])

    def write(self, pieces: Sequence[tuple[int | None, Episode]]) -> list[int]:
        """Adds new episodes (None) and continues unfinished ones (their number).

        An error, such as a full disk, leaves none of them; a killed process may leave the first ones, each whole.

        Returns:
            The episodes' numbers.

        Raises:
            DiamondGymError: The disk is full; the store is as it was before.
            ValueError: A piece does not fit into the store, or its episode has ended.
        """
        if not self._writable:
            raise DiamondGymError(f"{self.folder} is not open for writing")
        latest = {number: self._episodes[number][-1] for number, _ in pieces if number is not None}
        sequence, new = max(time.time_ns(), self._mark + 1), list[tuple[Piece, Episode]]()
        for number, episode in pieces:
            self.about.check_fits(episode)
            before = None if number is None else latest[number]
            if before is not None and before.over:
                raise ValueError(f"episode {number} has ended")
            new.append((Piece.of(self.folder, sequence + len(new), episode, before), episode))
            if number is not None:
                latest[number] = new[-1][0]
        try:
            with disk_space_for(self.folder):
                write_files([(piece.path, piece.encode(episode, self.about)) for piece, episode in new])
            return [self._take(read_piece(piece.path, self.about)) for piece, _ in new]
        except BaseException:  # Ctrl-C too
            for piece, _ in reversed(new):
                piece.path.unlink(missing_ok=True)
            self.refresh()
            raise

    def close(self) -> None:
        """Ends the writing; reading goes on to work."""
        self._writable = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _clear(self, until: int | None) -> None:
        """Deletes what killed processes left half written, and what was written after a mark, newest first."""
        if until is not None:
            names = sorted((path.name for path in self.folder.glob(f"*{SUFFIX}")), reverse=True)
            for name in names:
                if sequence_of(name) > until:
                    (self.folder / name).unlink()
        for path in self.folder.glob(f".*.tmp{SUFFIX}"):
            if until is not None or time.time() - path.stat().st_mtime > _LITTER_AGE:
                path.unlink(missing_ok=True)

    def _forget(self) -> None:
        self._episodes: list[list[Piece]] = []
        self._numbers: dict[str, int] = {}  # of an episode, by the name of its first file
        self._known: set[str] = set()
        self._num_steps, self._mark, self._laid_out = 0, 0, -1
        self._open: OrderedDict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]] = OrderedDict()
        self._version += 1

    def _take(self, piece: Piece) -> int:
        """Makes a file known; returns its episode's number."""
        if piece.path.stem == piece.continues and piece.first_step == 0:
            number = self._numbers[piece.continues] = len(self._episodes)
            self._episodes.append([piece])
        else:
            number = self._numbers.get(piece.continues, -1)
            if number < 0 or piece.first_step != self._length(number):
                raise ValueError("what comes before it in its episode is missing")
            self._episodes[number].append(piece)
        self._known.add(piece.path.name)
        self._num_steps += piece.num_steps
        self._mark = max(self._mark, piece.sequence)
        self._version += 1
        return number

    def _length(self, number: int) -> int:
        last = self._episodes[number][-1]
        return last.first_step + last.num_steps

    def _lay_out(self) -> None:
        """Puts the frames of all episodes in a row, by which those of a batch are found."""
        if self._laid_out == self._version:
            return
        self._lengths = np.array([self._length(i) for i in range(len(self))], np.int64)
        self._offset = np.cumsum(self._lengths + 1) - self._lengths - 1
        self._pieces = [piece for episode in self._episodes for piece in episode]
        self._names = [piece.path.name for piece in self._pieces]
        at = np.repeat(self._offset, [len(episode) for episode in self._episodes])
        self._begin = at + np.array([piece.first_step for piece in self._pieces], np.int64)
        self._before = lives_before([self.info(i) for i in range(len(self))])
        self._laid_out = self._version

    def _gather(
        self, episode: _Int, t: _Int, frames: bool = False, steps: bool = False
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Copies run by run: what lies one after the other in one file."""
        self._lay_out()
        place = self._offset[episode] + t
        flat = place.ravel()
        files = np.searchsorted(self._begin, flat, side="right") - 1
        firsts = flat - self._begin[files]
        breaks = (flat[1:] != flat[:-1] + 1) | (files[1:] != files[:-1])
        begins = np.flatnonzero(np.concatenate((np.ones(min(1, flat.size), np.bool_), breaks)))
        h, w, c = self.about.frame_shape
        obs = np.empty((flat.size if frames else 0, c, h, w), np.uint8)
        records = np.empty(flat.size if steps else 0, self._step_type)
        runs = begins, np.append(begins[1:], flat.size)[: len(begins)], files[begins], firsts[begins]
        for begin, end, file, first in zip(*(part.tolist() for part in runs), strict=True):
            all_obs, all_records = self._read(file)
            if frames:
                obs[begin:end] = all_obs[first : first + end - begin]
            if steps:
                records[begin:end] = all_records[first : first + end - begin]
        shape = place.shape
        return obs.reshape(*shape, c, h, w) if frames else obs, records.reshape(shape) if steps else records

    def _read(self, file: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Frames and steps of a file by its place in `_pieces`."""
        if (arrays := self._open.get(self._names[file])) is None:
            if len(self._open) >= _MAPPED:
                self._open.popitem(last=False)
            arrays = self._open[self._names[file]] = self._pieces[file].read(self.about)
        return arrays
