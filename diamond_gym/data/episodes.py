"""Experience on disk: a folder of episodes that several processes can add to.

An episode of N steps has N + 1 frames: what was seen before each step, and what the last step led to. An episode that
is stored before it has ended lies in several files. No file ever changes: each is written beside its place and
renamed, so that a killed process leaves only whole ones. 100,000 Atari steps take 1.23 GB, and each file 12 kB more.
A writer leaves `index.cache` too, from which the store opens faster; it is a cache.
"""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diamond_gym.actions import ActionCodec
from diamond_gym.data import episode_files as files
from diamond_gym.data.about import ABOUT, About, read_about, write_about
from diamond_gym.data.episode_files import SUFFIX, Episode, Link, Piece
from diamond_gym.errors import DiamondGymError
from diamond_gym.files import disk_space_for

_Int = npt.NDArray[np.int64]
_MAPPED = 8192  # files mapped into memory at once; systems allow some 65,000
_LITTER_AGE = 3600.0  # seconds after which a file that is still being written never will be


class EpisodeStore(AbstractContextManager["EpisodeStore"]):
    """Episodes in a folder, in the order in which they began; what others add is numbered as `refresh` finds it.

    >>> with EpisodeStore("breakout", "a", About("Breakout", (64, 64, 3), 4)) as store:  # doctest: +SKIP
    ...     number = store.append(episode)  # on the disk when this returns
    ...     store.extend(number, more)  # only for an episode that has not ended
    >>> EpisodeStore("breakout")[number].obs.shape  # doctest: +SKIP
    (46, 64, 64, 3)

    Args:
        folder: Where the store is.
        mode: "r" to read, "a" to append too; any number of processes may do either at the same time.
        about: For "a": what is going to be written. A new store is made of it, an old one must agree with it.
        until: What was written after this `mark` is left out, for "a" deleted, by whoever has the folder to itself;
            with 0 and `about` all of it, of whatever world it was.

    Attributes:
        version: Grows whenever episodes are added or extended.
        codec: Of the actions, by which segments hold them as the networks take them; None where neither the store nor
            its reader says what its vectors mean, which are then left as they are. May be replaced.

    Raises:
        DiamondGymError: There is no store, it is of another kind, or its description is damaged.
    """

    _steps: npt.NDArray[np.void]

    def __init__(
        self,
        folder: str | os.PathLike[str],
        mode: Literal["r", "a"] = "r",
        about: About | None = None,
        until: int | None = None,
    ) -> None:
        if mode not in ("r", "a"):
            raise ValueError(f"mode must be 'r' or 'a', not {mode!r}")
        self.folder, self._writable = Path(folder), mode == "a"
        if self._writable and about is not None and until == 0:
            self._clear(until)
            (self.folder / ABOUT).unlink(missing_ok=True)
        if self._writable and about is not None and not (self.folder / ABOUT).exists():
            files.check_described(self.folder)
            with disk_space_for(self.folder):
                write_about(self.folder, about)
        self.about = read_about(self.folder)
        if about is not None:
            self.about.check_same(about, self.folder)
        self.codec: ActionCodec | None = self.about.codec or (None if about is None else about.codec)
        if self._writable:
            self._clear(until)
        self._until = float("inf") if until is None or self._writable else until
        self.version, self._warned = 0, set[str]()
        self._forget()
        self.refresh()

    def refresh(self) -> bool:
        """Reads what has been added since the last call; returns whether there was anything.

        A damaged file is left out, with a warning that names it.
        """
        version = self.version
        found = {e.name: e for e in os.scandir(self.folder) if e.name.endswith(SUFFIX) and e.name[0].isdigit()}
        found = {name: entry for name, entry in found.items() if files.sequence_of(name) <= self._until}
        if not self._known <= found.keys():  # somebody deleted what a checkpoint did not know
            self._forget()
        new = sorted(found.keys() - self._known - self._warned)
        index = files.read_index(self.folder) if len(new) > 1 else {}
        for name in new:
            try:
                stat, piece = found[name].stat(), index.get(name)
                if piece is None or piece.stamp != (stat.st_size, stat.st_mtime_ns):
                    piece = files.read_piece(found[name].path, self.about)
                self._take(name, piece)
            except FileNotFoundError:  # deleted just now
                continue
            except (ValueError, OSError) as error:
                self._warned.add(name)
                warnings.warn(f"{self.folder / name} is left out: {error}", stacklevel=2)
        return self.version > version

    @property
    def num_steps(self) -> int:
        """How many steps there are in all episodes together."""
        return self._num_steps

    @property
    def lengths(self) -> _Int:
        """Steps of each episode so far, int64 (N,) of N episodes."""
        self._lay_out()
        return self._lengths

    @property
    def before(self) -> _Int:
        """For each episode the one that was the life before in its game, or -1 where none is known; int64 (N,)."""
        self._lay_out()
        return self._before

    @property
    def mark(self) -> int:
        """The point in time that `until` takes to restore the store as it is now."""
        return max(0, files.sequence_of(max(self._known, default="")))

    def __len__(self) -> int:
        """How many episodes there are, unfinished ones included."""
        return len(self._episodes)

    def __getitem__(self, number: int) -> Episode:
        """The whole episode, as a copy in memory."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} episodes")
        number %= len(self)
        n = int(self.lengths[number])
        frames = self.frames(number, np.arange(n + 1)).transpose(0, 2, 3, 1)
        steps = self.steps(number, np.arange(n))
        known = {k: steps[k].copy() for k in ("rew", "end", "trunc") if k not in self._last(number).unknown}
        return Episode(frames, steps["act"].copy(), info=self.info(number), **known)

    def __iter__(self) -> Iterator[Episode]:
        return (self[number] for number in range(len(self)))

    def info(self, number: int) -> Mapping[str, Any]:
        """An episode's info, as in `Episode.info`."""
        return self._last(number).link.info

    def pieces(self, number: int) -> list[Piece]:
        """The files of an episode, in order."""
        return [self._pieces[place] for place in self._episodes[number]]

    def places(self, episode: _Int | int, t: _Int) -> _Int:
        """Places of frames `t` (...) of `episode`, one or (...), in the row of all episodes' frames: int64 (...)."""
        self._lay_out()
        return self._offset[episode] + t

    def frames(self, episode: _Int | int, t: _Int) -> npt.NDArray[np.uint8]:
        """Frames `t` (...) of `episode`, one or (...), 0 <= t <= length: uint8 (..., C, H, W)."""
        place, rank = self._find(episode, t)
        row = place + rank  # grows by one within a file, and by more from one to the next
        new_run = np.ones(len(row) + 1, np.bool_)
        np.not_equal(row[1:], row[:-1] + 1, out=new_run[1:-1])
        edges = new_run.nonzero()[0]  # of runs that lie together in one file
        h, w, c = self.about.frame_shape
        obs, size = np.empty((len(row), c, h, w), np.uint8), c * h * w
        rank, place = rank[edges[:-1]], place[edges[:-1]]
        runs = self._order[rank], (place - self._begin[rank]) * size, edges[:-1] * size, edges[1:] * size
        if len(self._mapped) > _MAPPED:
            self._mapped.clear()
        memory = obs.reshape(-1).data
        for piece, first, begin, end in zip(*(array.tolist() for array in runs), strict=True):
            if (frames := self._mapped.get(piece)) is None:
                frames = self._mapped[piece] = self._pieces[piece].frames(self.about)
            memory[begin:end] = frames[first : first + end - begin]
        return obs.reshape(*t.shape, c, h, w)

    def steps(self, episode: _Int | int, t: _Int) -> npt.NDArray[np.void]:
        """Steps `t` (...) of `episode`, one or (...), 0 <= t < length: records (...) of `about.step_type`."""
        self._lay_out()
        if len(self._steps) < self._num_steps:
            self._steps = files.read_steps(self._pieces, self._steps, self.about)
        at = self._offset[episode] - episode + t  # if each episode is one file
        if len(self._pieces) > len(self):
            place, rank = self._find(episode, t)
            at = (self._steps_at[self._order[rank]] + place - self._begin[rank]).reshape(t.shape)
        return self._steps.take(at)

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
        links = {number: (p.link, p.stop) for number, _ in pieces if number is not None for p in [self._last(number)]}
        sequence, new = max(time.time_ns(), self.mark + 1), list[tuple[Path, Episode, Link]]()
        for number, episode in pieces:
            self.about.check_fits(episode)
            before, stop = (None, 0) if number is None else links[number]
            if before is not None and before.over:
                raise ValueError(f"episode {number} has ended")
            path = files.new_path(self.folder, sequence + len(new))
            new.append((path, episode, Link.of(path, episode, before, stop)))
            if number is not None:
                links[number] = new[-1][2], stop + len(episode)
        try:
            with disk_space_for(self.folder):
                files.write_files([(path, files.encode(episode, link, self.about)) for path, episode, link in new])
            return [self._take(path.name, files.read_piece(str(path), self.about)) for path, _, _ in new]
        except BaseException:  # Ctrl-C too
            for path, _, _ in reversed(new):
                path.unlink(missing_ok=True)
            self.refresh()
            raise

    def close(self) -> None:
        """Ends writing; the store can still be read."""
        if self._writable and self._pieces:
            files.write_index(self.folder, self._pieces)
        self._writable = False

    def __exit__(self, *error: object) -> None:
        self.close()

    def _clear(self, until: int | None) -> None:
        """Deletes what killed processes left half written, and what was written after a mark, newest first."""
        if until is not None:
            for path in sorted(self.folder.glob(f"*{SUFFIX}"), reverse=True):
                if files.sequence_of(path.name) > until:
                    path.unlink()
        for path in self.folder.glob(f".*.tmp{SUFFIX}"):
            with suppress(FileNotFoundError):  # another writer is done with it
                if until is not None or time.time() - path.stat().st_mtime > _LITTER_AGE:
                    path.unlink()

    def _forget(self) -> None:
        self._pieces: list[Piece] = []
        self._episodes: list[list[int]] = []  # their places in `_pieces`
        self._numbers: dict[str, int] = {}  # of an episode, by the name of its first file
        self._known: set[str] = set()
        self._num_steps, self._laid_out = 0, -1
        self._steps = np.zeros(0, self.about.step_type)  # of `_pieces`, one after the other, as far as they were read
        self._mapped: dict[int, memoryview] = {}  # frames, by place in `_pieces`
        self.version += 1

    def _take(self, name: str, piece: Piece) -> int:
        """Makes a file known; returns its episode's number."""
        link = piece.link
        if name == link.continues + SUFFIX and link.first_step == 0:
            number = self._numbers[link.continues] = len(self._episodes)
            self._episodes.append([])
        else:
            number = self._numbers.get(link.continues, -1)
            if number < 0 or link.first_step != self._last(number).stop:
                raise ValueError("what comes before it in its episode is missing")
        self._episodes[number].append(len(self._pieces))
        self._pieces.append(piece)
        self._known.add(name)
        self._num_steps += piece.num_steps
        self.version += 1
        return number

    def _last(self, number: int) -> Piece:
        """The file with the end of an episode."""
        return self._pieces[self._episodes[number][-1]]

    def _lay_out(self) -> None:
        """Numbers the frames of all episodes in one row, by which those of a batch are found."""
        if self._laid_out == self.version:
            return
        self._lengths = np.array([self._last(number).stop for number in range(len(self))], np.int64)
        self._offset = np.cumsum(self._lengths + 1) - self._lengths - 1
        self._order = np.array([piece for episode in self._episodes for piece in episode], np.int64)
        first_steps = np.array([self._pieces[piece].link.first_step for piece in self._order], np.int64)
        self._begin = first_steps + np.repeat(self._offset, [len(episode) for episode in self._episodes])
        self._steps_at = np.cumsum([0, *(piece.num_steps for piece in self._pieces)])
        self._before = files.lives_before([self.info(number) for number in range(len(self))])
        self._laid_out = self.version

    def _find(self, episode: _Int | int, t: _Int) -> tuple[_Int, _Int]:
        """Places of frames in the row of all, and of their files in `_order`, both flat."""
        place = self.places(episode, t).ravel()
        return place, self._begin.searchsorted(place, "right") - 1
