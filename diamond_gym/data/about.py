"""What a store of experience holds: game, frames and actions."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from diamond_gym.action_spaces import codec_of_table
from diamond_gym.actions import ActionCodec
from diamond_gym.errors import DiamondGymError
from diamond_gym.files import atomic_write

if TYPE_CHECKING:
    from diamond_gym.data.episode_files import Episode

FORMAT, FORMAT_BEFORE = 2, 1
ABOUT = "store.json"


class Column(NamedTuple):
    """An array with a row for each step or frame.

    Attributes:
        dtype: Of its elements.
        shape: Of a row.
        code: The type as safetensors writes it.
        row_bytes: Bytes of a row.
    """

    dtype: np.dtype[Any]
    shape: list[int]
    code: str
    row_bytes: int


@dataclass(frozen=True)
class About:
    """What a store holds; two collections go into one store if game, frames, actions and environment agree.

    Attributes:
        game: A game's name, or any other word.
        frame_shape: (H, W, C).
        num_actions: Actions are 0..num_actions-1; 0 where they are anything else.
        action_meanings: A word for each action, or none.
        created: When the store was made (ISO 8601, UTC); filled in.
        versions: Of the libraries with which it was made.
        action_dtype: NumPy's name of an action's type.
        action_shape: An action's shape; () for a number.
        actions: What kind of actions they are, as `ActionCodec.table` says it; empty for numbered ones, and where
            nothing but type and shape is known.
        env: What was played: an environment's id, with its version, or a game's name for an Atari game; "" where that
            is not known, as of recordings.
    """

    game: str
    frame_shape: tuple[int, int, int]
    num_actions: int
    action_meanings: tuple[str, ...] = ()
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    action_dtype: str = "int64"
    action_shape: tuple[int, ...] = ()
    actions: Mapping[str, Any] = field(default_factory=dict)
    env: str = ""

    @classmethod
    def of(
        cls,
        game: str,
        frame_shape: tuple[int, int, int],
        codec: ActionCodec,
        action_meanings: tuple[str, ...] = (),
        versions: Mapping[str, str] | None = None,
        env: str = "",
    ) -> "About":
        """Describes a store of experience from a world with these actions."""
        numbered = not codec.is_vector
        return cls(
            game, frame_shape, codec.num_inputs if numbered else 0, action_meanings, versions=versions or {},
            action_dtype="int64" if numbered else codec.dtype.name, action_shape=codec.shape, actions=codec.table,
            env=env,
        )  # fmt: skip

    @cached_property
    def codec(self) -> ActionCodec | None:
        """The actions' codec; None where the store does not say what its vectors mean."""
        if self.actions or self.num_actions:
            return codec_of_table(self.actions, None if self.actions else self.num_actions)
        return None

    @cached_property
    def step_type(self) -> np.dtype[np.void]:
        """A record of one step."""
        act = ("act", self.action_dtype, self.action_shape)
        return np.dtype([act, ("rew", "f4"), ("end", "?"), ("trunc", "?")])

    @cached_property
    def columns(self) -> dict[str, "Column"]:
        """The arrays of an episode's file; frames have their channels first there, as the networks take them."""
        h, w, c = self.frame_shape
        rows = {"obs": np.dtype((np.uint8, (c, h, w)))} | {
            name: self.step_type[name] for name in self.step_type.names or ()
        }
        columns = {}
        for name, row in rows.items():
            kind, bits = row.base.kind, 8 * row.base.itemsize
            code = "BOOL" if kind == "b" else f"{kind.upper()}{bits}"
            columns[name] = Column(row.base, list(row.shape), code, row.itemsize)
        return columns

    def check_same(self, other: "About", folder: Path) -> None:
        """Raises DiamondGymError if experience of `other` cannot be added to this store."""
        words = {
            "game": "game",
            "frame_shape": "frame shape",
            "num_actions": "number of actions",
            "action_dtype": "actions of type",
            "action_shape": "actions of shape",
        }
        if self.actions and other.actions:  # else one of them does not say
            words["actions"] = "actions"
        for name, word in words.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                if name == "actions" or (name == "num_actions" and not (mine and theirs)):  # 0: no numbers
                    word, mine, theirs = "actions", self._kind_of_actions, other._kind_of_actions
                raise DiamondGymError(f"{folder} holds experience with {word} {mine}, not {theirs}: use another folder")
        if self.env and other.env and self.env != other.env:  # else one of them does not know
            raise DiamondGymError(
                f"{folder} holds experience of {self._played}, not of {other._played}: "
                "--data NAME takes another store, or a new one"
            )

    @property
    def _played(self) -> str:
        return f"the game {self.env}" if self.env == self.game else self.env

    @property
    def _kind_of_actions(self) -> str:
        """What its actions are, in words."""
        if self.num_actions:
            return f"0 to {self.num_actions - 1}"
        return f"{self.action_dtype} {self.action_shape}" if self.codec is None else str(self.codec.space)

    def check_fits(self, piece: "Episode") -> None:
        """Raises ValueError if frames or actions are not those of this store."""
        if piece.obs.shape[1:] != self.frame_shape:
            raise ValueError(f"frames are {self.frame_shape} here, not {piece.obs.shape[1:]}")
        if piece.act.shape[1:] != self.action_shape or not np.can_cast(piece.act.dtype, self.action_dtype, "same_kind"):
            here = f"{self.action_dtype} {self.action_shape}"
            raise ValueError(f"actions are {here} here, not {piece.act.dtype} {piece.act.shape[1:]}")
        if self.num_actions and not 0 <= piece.act.min() <= piece.act.max() < self.num_actions:
            raise ValueError(f"actions lie in 0..{self.num_actions - 1} here")
        if piece.act.dtype.kind == "f" and not np.isfinite(piece.act).all():
            raise ValueError("an action is not finite")
        if self.actions and self.codec is not None and self.codec.shape == self.action_shape:
            self.codec.check(piece.act, piece.act.shape[:1])


def write_about(folder: Path, about: About) -> None:
    """Writes the description that makes a folder a store."""
    versions = {"python": platform.python_version(), "numpy": np.__version__, **about.versions}
    created = about.created or datetime.now(UTC).isoformat(timespec="seconds")
    with atomic_write(folder / ABOUT, "w") as file:
        json.dump({"format": FORMAT, **asdict(replace(about, created=created, versions=versions))}, file, indent=2)


def held_out_beside(folder: Path) -> Path:
    """Where a store's held-out episodes lie: in `<name>-test`, for `<name>` and for `<name>-train`."""
    return folder.with_name(f"{folder.name.removesuffix('-train')}-test")


def read_about(folder: Path, version: int = FORMAT) -> About:
    """Reads what the store in `folder` holds.

    Raises:
        DiamondGymError: There is none, it is of another format, or the file is damaged.
    """
    try:
        content = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        written = content.pop("format")
        if written == FORMAT_BEFORE != version:
            command = f"diamond-gym data convert {folder}"
            raise DiamondGymError(f"{folder} is of an earlier version's format: convert it with `{command}`")
        if written != version:
            raise DiamondGymError(f"{folder} has format {written}; this diamond-gym reads format {version}")
        for name in {"frame_shape", "action_meanings", "action_shape"} & set(content):
            content[name] = tuple(content[name])
        about = About(**content)
        h, w, c = about.frame_shape
        if not min(h, w, c) > 0 or about.step_type.itemsize > 1 << 20 or about.step_type.hasobject:
            raise ValueError("frames or actions have no size")
        if not isinstance(about.env, str):
            raise ValueError("its environment is not a text")
        codec = about.codec if about.actions else None
        if codec is not None and codec.kind != "csgo" and codec.shape != about.action_shape:
            raise ValueError(f"actions are of shape {about.action_shape}, but {codec} are meant")
        return about
    except (FileNotFoundError, NotADirectoryError):
        raise DiamondGymError(f"no experience at {folder}: diamond-gym collect makes some") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DiamondGymError(f"{folder / ABOUT} is damaged ({error})") from error
