"""Imports recordings into a store: streamed in little memory, resumed where a killed import stopped, all or nothing."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from diamond_gym.action_spaces import codec_of_table
from diamond_gym.data.about import About
from diamond_gym.data.episode_files import Episode
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.importers import Frame, Recording, Source, UnreadableRecording, checked_steps, importer
from diamond_gym.errors import BadArgument
from diamond_gym.files import atomic_write, disk_space_for, flush_folder

PLAN = "import.json"
_PIECE_AT_MOST = 32 << 20  # bytes of frames in one file
_SHARE = 12  # a piece is in memory several times while it is encoded, and the interpreter needs its part


@dataclass(frozen=True)
class ImportOptions:
    """What happens to recordings on their way."""

    size: tuple[int, int] | None = None
    """Size (H, W) of the frames; None leaves it as it is."""
    fps: float | None = None
    """Frames per second to keep, by leaving out frames; an action stands for those left out after it."""
    crop: tuple[int, int, int, int] | None = None
    """Part of each frame to keep, TOP LEFT HEIGHT WIDTH; cut out before --size."""
    gray: bool = False
    """Make the frames grey, with one channel."""
    action_offset: int = 0
    """By how many steps the actions come too late in the recording; negative if too early."""
    max_memory: int = 400
    """How many MB of memory to use, approximately."""
    camera: str | None = None
    """Which video or observation to use, where there are several."""

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= n <= 4096 for n in self.size):
            raise BadArgument(f"--size must be from 1 to 4096, not {self.size}")
        if self.crop is not None and (min(self.crop[:2]) < 0 or min(self.crop[2:]) < 1):
            raise BadArgument(f"--crop must be TOP LEFT HEIGHT WIDTH, not {self.crop}")
        if self.fps is not None and not self.fps > 0:
            raise BadArgument(f"--fps must be above 0, not {self.fps}")
        if self.max_memory < 200:
            raise BadArgument(f"--max-memory must be at least 200 (MB), not {self.max_memory}")

    def frame(self, frame: Frame, of: str) -> Frame:
        """Crops, resizes and greys a frame of a recording, uint8 (H, W, C); `of` is what errors call the recording."""
        if frame.ndim != 3 or not 1 <= frame.shape[2] <= 4:
            raise UnreadableRecording(
                f"{of}: a frame is {frame.shape}, not (height, width, channels) of 1 to 4 channels"
            )
        frame = frame[..., :3]
        if self.crop is not None:
            top, left, h, w = self.crop
            if top + h > frame.shape[0] or left + w > frame.shape[1]:
                raise UnreadableRecording(f"--crop reaches beyond the frames, which are {frame.shape[:2]}")
            frame = frame[top : top + h, left : left + w]
        if (self.gray and frame.shape[2] == 3) or (self.size is not None and frame.shape[:2] != self.size):
            from PIL import Image

            image = Image.fromarray(np.ascontiguousarray(frame[..., 0] if frame.shape[2] == 1 else frame))
            image = image.convert("L") if self.gray else image
            if self.size is not None:
                shrinks = self.size[0] <= frame.shape[0] and self.size[1] <= frame.shape[1]
                how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC  # BOX takes the mean of each area
                image = image.resize((self.size[1], self.size[0]), how)
            frame = np.asarray(image)
        return frame if frame.ndim == 3 else frame[..., None]


class Import:
    """An import, ready to run.

    Args:
        source: A file, a folder or the id of a data set; or what an importer found already.
        folder: Where the store goes; there must be nothing yet.
        game: What the store is of.
        options: What happens on the way.
        wanted: The format; None to find out.

    Attributes:
        total: Frames to be read, as far as the source says.

    Raises:
        DiamondGymError: The source cannot be read, or the folder is taken.
    """

    def __init__(
        self,
        source: Path | Source,
        folder: Path,
        game: str,
        options: ImportOptions | None = None,
        wanted: str | None = None,
    ) -> None:
        if folder.exists():
            raise BadArgument(f"{folder} is already there: choose another name, or remove it")
        self.folder, self.game, self.options = folder, game, options or ImportOptions()
        if isinstance(source, Path):
            found: Source = importer(source, wanted).read(source, self.options.camera)
            self._source = replace(found, origin=str(source.resolve() if source.exists() else source))
        else:
            self._source = source
        self._recordings = list(self._source.recordings)
        if not self._recordings:
            raise UnreadableRecording(f"there are no recordings in {self._source.origin}")
        self._stride = self._frames_per_step()
        self.total = sum(recording.num_frames for recording in self._recordings)

    def run(self, advance: Callable[[int, int], None] = lambda done, skipped: None) -> EpisodeStore:
        """Imports, and returns the store.

        What a killed or interrupted import has left is continued if source and options are the same; any error
        leaves nothing.

        Args:
            advance: Takes frames read so far, and how many of them an earlier call had read.
        """
        staging = self.folder.with_name(f".{self.folder.name}.importing")
        staging.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{staging}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BadArgument(f"another import into {self.folder} is running") from None
        try:
            with disk_space_for(self.folder):
                self._into(staging, advance)
                flush_folder(staging)
                os.rename(staging, self.folder)
                flush_folder(self.folder.parent)
        except Exception:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            lock.release()
            with suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)
        return EpisodeStore(self.folder)

    def _into(self, staging: Path, advance: Callable[[int, int], None]) -> None:
        names = [(recording.key, recording.num_frames) for recording in self._recordings]
        options = {option.name: getattr(self.options, option.name) for option in fields(ImportOptions)}
        content = {"source": self._source.origin, "game": self.game, "options": options, "recordings": names}
        text = json.dumps({**content, "changed": _changed(Path(self._source.origin))}, indent=1)
        plan = staging / PLAN
        if staging.exists() and not (plan.is_file() and plan.read_bytes() == text.encode()):
            shutil.rmtree(staging)
        staging.mkdir(exist_ok=True)
        with atomic_write(plan, "w") as file:
            file.write(text)
        about = self._about()
        limit = max(
            1, min(_PIECE_AT_MOST, (self.options.max_memory << 20) // _SHARE) // int(np.prod(about.frame_shape))
        )
        with EpisodeStore(staging, "a", about) as store:
            self._write(store, limit, advance)

    def _write(self, store: EpisodeStore, limit: int, advance: Callable[[int, int], None]) -> None:
        known = {str(store.info(number)["source"]): number for number in range(len(store))}
        read = skipped = 0
        waiting: list[Episode] = []  # short ones are written together: the disk takes them at once

        def flush() -> None:
            if waiting:
                store.write([(None, each) for each in waiting])
            waiting.clear()

        for recording in self._recordings:
            number = known.get(recording.key)
            if number is not None and number < len(known) - 1:
                read, skipped = read + recording.num_frames, skipped + recording.num_frames
                continue
            try:
                for piece in self._pieces(recording, 0 if number is None else int(store.lengths[number]), limit):
                    store.about.check_fits(piece)
                    if number is None and len(piece) < limit:
                        waiting.append(piece)
                    elif number is None:
                        flush()
                        number = store.append(piece)
                    else:
                        store.extend(number, piece)
                    if sum(len(each) for each in waiting) > limit:
                        flush()
                    advance(min(read + len(piece) * self._stride, self.total), skipped)
            except ValueError as error:
                raise UnreadableRecording(f"{self._source.origin}: {recording.key}: {error}") from error
            read += recording.num_frames
            advance(read, skipped)
        flush()

    def _pieces(self, recording: Recording, done: int, limit: int) -> Iterator[Episode]:
        """A recording's steps from `done` on, `limit` at a time."""
        steps, offset, stride = checked_steps(recording), self.options.action_offset, self._stride
        given, n = len(steps.act), len(steps.act) - abs(offset)
        if n < 1:
            raise ValueError(f"it has {given} actions, no more than --action-offset leaves out")
        first, ended = max(0, -offset), offset <= 0 and bool(steps.end or steps.trunc)
        act = steps.act[max(0, offset) :][:n]
        rew = None if steps.rew is None else steps.rew[first:][:n]
        at = [*range(0, n, stride), n] if ended or n % stride == 0 else list(range(0, n, stride))
        num_steps = len(at) - 1  # if the frame after the last action is there
        act = act[at[:-1]]
        if rew is not None:
            rew = np.array([rew[a:b].sum() for a, b in pairwise(at)], np.float32)
        is_last = np.arange(num_steps) == (num_steps - 1 if offset <= 0 else -1)
        end, trunc = (None if flag is None else is_last & flag for flag in (steps.end, steps.trunc))
        info = {**recording.info, "source": recording.key}

        def episode(begin: int, frames: list[Frame]) -> Episode:
            part = slice(begin, begin + len(frames) - 1)
            outcomes = {"rew": rew, "end": end, "trunc": trunc}
            known: dict[str, Any] = {name: values[part] for name, values in outcomes.items() if values is not None}
            return Episode(np.stack(frames), act[part], info=info, **known)

        frames, count, shape = list[Frame](), first + (at[done] if done < len(at) else n), None
        wanted = iter(at[done:])
        want = next(wanted, None)
        for raw in recording.frames(count):
            if want is not None and count == first + want:
                frame = self.options.frame(raw, recording.key)
                if shape not in (None, frame.shape):
                    raise ValueError(f"frame {count} is {frame.shape}, the ones before are {shape}")
                shape, want = frame.shape, next(wanted, None)
                frames.append(frame)
            count += 1
            if len(frames) == limit + 1:
                yield episode(done, frames)
                frames, done = frames[-1:], done + limit
        if count not in (given, given + 1):
            raise ValueError(f"it has {count} frames for {given} actions; N actions need N + 1 frames, or N")
        if len(frames) > 1:
            yield episode(done, frames)

    def _frames_per_step(self) -> int:
        wanted, there = self.options.fps, self._source.fps
        if wanted is None:
            return 1
        if there is None:
            source = self._source.origin
            raise BadArgument(f"{source} does not say how many frames there are per second: leave --fps out")
        stride = round(there / wanted)
        if stride < 1 or abs(there / wanted - stride) > 0.02 * stride:
            can = ", ".join(f"{there / k:.4g}" for k in range(1, 5))
            raise BadArgument(f"--fps {wanted:g} must divide the recording's {there:g}: try {can}")
        return stride

    def _about(self) -> About:
        """What the store holds, by the first recording; where actions are numbers, by all of them."""
        first = self._recordings[0]
        frame = next(iter(first.frames(0)), None)
        if frame is None:
            raise UnreadableRecording(f"{self._source.origin}: {first.key} has no frames")
        h, w, c = self.options.frame(frame, first.key).shape
        act, num_actions = checked_steps(first).act, self._source.num_actions
        if act.dtype != np.int64 or act.ndim != 1:
            num_actions = 0
        elif not num_actions:
            num_actions = 1 + max(int(checked_steps(recording).act.max(initial=0)) for recording in self._recordings)
        words, actions, shape = self._source.action_meanings, dict(self._source.actions), tuple(act.shape[1:])
        if num_actions:
            actions = {}
        elif actions and codec_of_table(actions).shape == () and shape == (1,):
            del actions["shape"]
        return About(
            self.game, (h, w, c), num_actions, words, action_dtype=act.dtype.name, action_shape=shape, actions=actions,
            env=self._source.env,
        )  # fmt: skip


def _changed(source: Path) -> list[int]:
    """How many files a source has, their bytes, and when the last of them changed: another source is begun anew."""
    stats = [path.stat() for path in [source, *source.rglob("*")] if path.exists()]
    return [len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]
