"""Recordings of play: episodes that a world model can be trained on, videos, and action logs to be played again."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.about import ABOUT, About, read_about
from diamond_gym.data.episode_files import Episode, check_described, next_game
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.files import atomic_write

Frame = npt.NDArray[np.uint8]

LOG_VERSION = 1
MOST_STEPS = 20_000  # that a recording keeps; 12 kB each at 64x64
MOST_GIF_STEPS = 1_000  # that a GIF may have, which is held in memory: 0.2 MB a step, and some 40 kB in the file
_LARGEST_LOG = 64 << 20  # bytes
_CHECK_EVERY = 50  # operations between two frames whose hashes the log keeps


@dataclass
class _Part:
    """One episode of a recording, or the part of it that was played while recording."""

    obs: list[Frame]
    first: bool
    at: int  # the moment of its first frame, as the recorder counts them
    goes_on: bool = False  # as the next life of the game that the part before is of
    act: list[npt.NDArray[Any]] = field(default_factory=list)
    rew: list[float] = field(default_factory=list)
    end: bool = False
    trunc: bool = False

    def episode(self, info: dict[str, Any]) -> Episode:
        last = np.arange(len(self.act)) == len(self.act) - 1
        info = {"first": self.first, **info}
        rew = np.array(self.rew, np.float32)
        return Episode(np.stack(self.obs), np.stack(self.act), rew, last & self.end, last & self.trunc, info)


class Recorder:
    """Keeps what is played, in memory, until it is saved.

    Example:
        >>> recorder = Recorder()  # doctest: +SKIP
        >>> recorder.begin(obs, first=True)  # doctest: +SKIP
        >>> recorder.add(action, reward, end, trunc, next_obs)  # doctest: +SKIP
        >>> recorder.save("my-play", About("Breakout", (64, 64, 3), 4))  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._now = -1  # the moment that is played: each beginning and each step is one, kept or not

    def begin(self, obs: Frame, first: bool = False) -> None:
        """Begins an episode, or a piece of one.

        Args:
            obs: The frame before its first step, uint8 (H, W, C).
            first: Whether it is the first frame of a game.
        """
        self._now += 1
        if not self.full:
            self._parts.append(_Part([obs.copy()], first, self._now))

    def add(self, action: Any, reward: float, end: bool, trunc: bool, obs: Frame, life_lost: bool = False) -> None:
        """Adds a step, up to `MOST_STEPS` of them; after one that ended the episode, steps are left out until `begin`.

        Args:
            action: As the environment takes it: a number, or an array.
            reward: Its reward.
            end: Whether the game ended.
            trunc: Whether a time limit ended the episode.
            obs: The frame after it, uint8 (H, W, C).
            life_lost: Whether it cost a life, though the game goes on: the episode ends, as it does in `collect`, and
                the next one begins with this frame.
        """
        self._now += 1
        part = self._parts[-1]
        if self.full or part.end or part.trunc:
            return
        part.obs.append(obs.copy())
        act = np.asarray(action)
        part.act.append(act.astype(np.int64) if act.dtype.kind in "iu" else act)
        part.rew.append(float(reward))
        part.end, part.trunc = bool(end or life_lost), bool(trunc)
        if life_lost and not (end or trunc):
            self._parts.append(_Part([obs.copy()], False, self._now, goes_on=True))

    @property
    def num_steps(self) -> int:
        """How many steps it keeps."""
        return sum(len(part.act) for part in self._parts)

    @property
    def full(self) -> bool:
        """Whether further steps are left out."""
        return self.num_steps >= MOST_STEPS

    def rewind(self, moments: int, obs: Frame) -> None:
        """Forgets the last moments: the player went back and plays on from an earlier one.

        Args:
            moments: How many beginnings and steps, together.
            obs: The frame gone back to, from which the recording goes on if it began later than that.
        """
        self._now -= moments
        while self._parts and self._parts[-1].at > self._now:
            self._parts.pop()
        if not self._parts:
            self._parts.append(_Part([obs.copy()], False, self._now))
        part = self._parts[-1]
        kept = self._now - part.at
        if kept < len(part.act):
            del part.obs[kept + 1 :], part.act[kept:], part.rew[kept:]
            part.end = part.trunc = False

    @property
    def frames(self) -> list[Frame]:
        """All frames in order, uint8 (H, W, C)."""
        return [frame for part in self._parts for frame in part.obs[part.goes_on :]]

    def save(self, folder: str | Path, about: About, played_by: str = "person") -> int:
        """Adds what was recorded to a store of episodes, which `train-wm --data` reads.

        Args:
            folder: The store; made if it is not there.
            about: What it holds.
            played_by: Who chose the actions, for the episodes' info.

        Returns:
            The number of episodes written; pieces without a step are left out.

        Raises:
            DiamondGymError: The store holds something else, or the disk is full.
            OSError: It cannot be written to.
        """
        game_of = accumulate(not part.goes_on for part in self._parts)
        played = [(game, part) for game, part in zip(game_of, self._parts, strict=True) if part.act]
        if not played:
            return 0
        lives = Counter(game for game, _ in played)
        with EpisodeStore(folder, "a", about) as store:
            free = next_game(store.info(i) for i in range(len(store)))
            linked = [{"game": free + game} if lives[game] > 1 else {} for game, _ in played]
            episodes = [
                part.episode({"policy": played_by, **link}) for (_, part), link in zip(played, linked, strict=True)
            ]
            store.write([(None, episode) for episode in episodes])
        return len(episodes)


def check_store(folder: Path, about: About | None) -> None:
    """Refuses a folder that a recording could not be added to, before anything is played; it writes nothing.

    Args:
        folder: The store, or where one would be made.
        about: What would be recorded; None for several worlds, each into a store of its own in the folder.

    Raises:
        BadArgument: It is a store of something else, damaged, or no folder that can be written to.
    """
    try:
        if (folder / ABOUT).exists():
            there = read_about(folder)
            if about is None:
                raise BadArgument(f"{folder} holds experience of {there.game}: say what to play, or use another folder")
            there.check_same(about, folder)
        check_described(folder)
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir():
            raise BadArgument(f"cannot record into {folder}: {nearest} is not a folder; use another one")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise BadArgument(f"cannot record into {folder}: {nearest} cannot be written to; use another folder")
    except (DiamondGymError, OSError) as error:
        raise BadArgument(str(error)) from None


@dataclass
class ActionLog:
    """Everything that decided what a dream showed, to be played again: model, settings and each operation.

    The operations are those of `PlaySession.apply`: resets with their seeds and starts, actions, changes of quality,
    and new random streams. Rewound steps are not in it.

    Attributes:
        world: The world's name.
        model: The model's name.
        weights: A hash of the model's weights, by which another model under the same name is noticed.
        settings: What the session was made with, as plain data: device, precision, quality, horizon.
        operations: `(name, value)` in order; a session's own list, which grows and is cut with it.
        frames: Hashes of frames, by the number of operations before them.
    """

    world: str
    model: str
    weights: str
    settings: dict[str, Any]
    operations: Sequence[Sequence[Any]] = ()
    frames: dict[int, str] = field(default_factory=dict)

    def note(self, frame: Frame) -> None:
        """Notes the frame that the last operation led to, now and then and wherever it was no action."""
        if len(self.operations) % _CHECK_EVERY == 1 or self.operations[-1][0] != "act":
            self.frames[len(self.operations)] = frame_hash(frame)

    def cut(self) -> None:
        """Forgets the frames of operations that are no longer there."""
        self.frames = {number: digest for number, digest in self.frames.items() if number <= len(self.operations)}

    def agrees(self, operations: int, frame: Frame) -> bool:
        """Whether a frame after so many operations is the one that was shown; True where none was noted."""
        return self.frames.get(operations, frame_hash(frame)) == frame_hash(frame)

    def write(self, path: Path) -> None:
        """Writes the log as JSON, whole or not at all."""
        with atomic_write(path, "w") as file:
            json.dump({"diamond_gym_play": LOG_VERSION, **asdict(self)}, file)

    @classmethod
    def read(cls, path: Path) -> "ActionLog":
        """Reads a log.

        Raises:
            DiamondGymError: There is none, it is damaged, or of another version.
        """
        try:
            if path.stat().st_size > _LARGEST_LOG:
                raise ValueError("it is too large")
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("diamond_gym_play")
            if version != LOG_VERSION:
                raise ValueError(f"it is of version {version}, this diamond-gym reads {LOG_VERSION}")
            content["frames"] = {int(number): str(digest) for number, digest in content["frames"].items()}
            log = cls(**{name: content.pop(name) for name in asdict(cls("", "", "", {}))}, **content)
            words = all(isinstance(word, str) for word in (log.world, log.model, log.weights))
            pairs = all(isinstance(op, list) and len(op) == 2 and isinstance(op[0], str) for op in log.operations)
            if not words or not pairs or not isinstance(log.settings, dict):
                raise ValueError("its fields are of other types")
            return log
        except FileNotFoundError:
            raise DiamondGymError(f"there is no recording at {path}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DiamondGymError(f"{path} is not a recording of diamond-gym play ({str(error)[:120]})") from None


def frame_hash(frame: Frame) -> str:
    """A short hash of a frame's pixels."""
    return hashlib.sha256(np.ascontiguousarray(frame).tobytes()).hexdigest()[:16]


def export(recorder: Recorder | None, log: ActionLog, kind: str, path: Path, fps: int) -> None:
    """Writes a recording as a file to be kept, whole or not at all.

    Args:
        recorder: What was recorded; not needed for a log.
        log: What was done since the session began.
        kind: "mp4", "gif" or "log".
        path: The file, with the suffix of its kind.
        fps: Frames per second of a video.

    Raises:
        DiamondGymError: There is nothing to write, or it cannot be written.
    """
    if kind == "log":
        log.write(path)
        return
    if recorder is None or not recorder.num_steps:
        raise DiamondGymError("nothing has been recorded yet")
    if kind == "gif" and recorder.num_steps > MOST_GIF_STEPS:
        raise BadArgument(f"a GIF holds {MOST_GIF_STEPS:,} steps at most, not {recorder.num_steps:,}: take the MP4")
    from diamond_gym.frames import write_video

    frames = recorder.frames
    scale = max(1, 320 // frames[0].shape[1])  # pixels stay sharp, also where a player of videos enlarges them
    write_video(path, (frame.repeat(scale, 0).repeat(scale, 1) for frame in frames), fps)
