"""An episode and its file: a `.safetensors` file for an episode, or for each piece of one that grew.

The arrays of a file, for N steps: `obs` uint8 (N+1, C, H, W), as the networks take frames, `act` (N, ...) of the
store's type, and where they are known `rew` float32 (N,), `end` and `trunc` bool (N,). Its metadata is one entry,
JSON: whose piece it is, from which step on, whether the episode is over, and its info.
"""

import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.about import About
from diamond_gym.files import flush_folder

__all__ = ["About", "Episode", "Piece", "lives_before", "read_piece", "sequence_of", "write_files"]

SUFFIX, _KEY = ".safetensors", "episode"
_DTYPES = {"U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U16": "<u2", "U32": "<u4", "U64": "<u8"}
_DTYPES |= {"BOOL": "?", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_OPTIONAL = {"rew": np.float32, "end": np.bool_, "trunc": np.bool_}
_HEADER_AT_MOST = 1 << 20


@dataclass(frozen=True)
class Episode:
    """N consecutive steps of one episode, or of the part of it that was seen so far.

    Attributes:
        obs: Frames, uint8 (N+1, H, W, C): before every step, and after the last (the true final frame).
        act: Actions, (N, ...) of any type; `act[t]` was taken after seeing `obs[t]`.
        rew: Rewards, float32 (N,), unclipped; zeros where none are given.
        end: The episode ended with this step, bool (N,). With `trunc` false too on the last step, the
            episode is cut: the game went on, but unseen (or not yet seen).
        trunc: A time limit ended the episode with this step, bool (N,).
        info: Plain data about the whole episode: `{"first": true}` at the beginning of a game, and `{"game": 12}`, a
            number that the lives of one game share, each going on from the frame in which the one before ended.
        unknown: Which of `rew`, `end` and `trunc` were not given.

    Raises:
        ValueError: The arrays do not belong together.
    """

    obs: npt.NDArray[np.uint8]
    act: npt.NDArray[Any]
    rew: npt.NDArray[np.float32] = None  # type: ignore[assignment]  # filled in below, as the two that follow
    end: npt.NDArray[np.bool_] = None  # type: ignore[assignment]
    trunc: npt.NDArray[np.bool_] = None  # type: ignore[assignment]
    info: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        n = len(self.act)
        object.__setattr__(self, "unknown", tuple(name for name in _OPTIONAL if getattr(self, name) is None))
        for name in self.unknown:
            object.__setattr__(self, name, np.zeros(n, _OPTIONAL[name]))
        shapes = [self.act.shape[:1], *(a.shape for a in (self.rew, self.end, self.trunc))]
        if n == 0 or shapes != [(n,)] * 4:
            raise ValueError(f"act is (N, ...), rew, end and trunc are (N,) with N > 0, not {shapes}")
        if self.obs.dtype != np.uint8 or self.obs.ndim != 4 or len(self.obs) != n + 1:
            raise ValueError(f"obs is uint8 ({n + 1}, H, W, C), not {self.obs.dtype} {self.obs.shape}")
        if (self.end | self.trunc)[:-1].any():
            raise ValueError("only an episode's last step can end it")

    def __len__(self) -> int:
        return len(self.act)

    @property
    def over(self) -> bool:
        """Whether the last step ended the episode."""
        return bool(self.end[-1] or self.trunc[-1])


@dataclass(frozen=True)
class Piece:
    """A file of a store as its header describes it; its arrays are mapped into memory when they are first asked for.

    Attributes:
        path: The file, named `<sequence number>-<random>.safetensors`.
        num_steps: Steps in this file, N.
        continues: The name (without suffix) of the episode's first file; its own for the first.
        first_step: The number of its first step within the episode.
        over: Whether its last step ended the episode.
        info: See `Episode`.
        arrays: Type, shape and place in the file of each array.
    """

    path: Path
    num_steps: int
    continues: str
    first_step: int
    over: bool
    info: Mapping[str, Any]
    arrays: Mapping[str, tuple[npt.DTypeLike, tuple[int, ...], int]]

    @property
    def sequence(self) -> int:
        """The number by which the files of a store are ordered."""
        return sequence_of(self.path.name)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Which of `rew`, `end` and `trunc` the file does not hold."""
        return tuple(name for name in _OPTIONAL if name not in self.arrays)

    @classmethod
    def of(cls, folder: Path, sequence: int, episode: Episode, before: "Piece | None" = None) -> "Piece":
        """The file that an episode is going to be, or what follows the piece `before` of one."""
        path = folder / f"{sequence:019d}-{secrets.token_hex(6)}{SUFFIX}"
        if before is None:
            return cls(path, len(episode), path.stem, 0, episode.over, dict(episode.info), {})
        info = {**before.info, **episode.info}
        return cls(path, len(episode), before.continues, before.first_step + before.num_steps, episode.over, info, {})

    def encode(self, episode: Episode, about: About) -> bytes:
        """The file's content."""
        from safetensors.numpy import save

        arrays = {"obs": np.ascontiguousarray(episode.obs.transpose(0, 3, 1, 2))}
        arrays["act"] = np.ascontiguousarray(episode.act, about.action_dtype)
        for name in set(_OPTIONAL) - set(episode.unknown):
            arrays[name] = np.ascontiguousarray(getattr(episode, name), _OPTIONAL[name])
        metadata = {name: getattr(self, name) for name in ("continues", "first_step", "over", "info")}
        return save(arrays, {_KEY: json.dumps(metadata, separators=(",", ":"))})

    def read(self, about: About) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Frames (N+1, C, H, W), mapped into memory, and steps (N,), records of `about.step_type`, as a copy."""
        with open(self.path, "rb") as file:
            content = mmap(file.fileno(), 0, access=ACCESS_READ)

        def view(name: str) -> npt.NDArray[Any]:
            dtype, shape, at = self.arrays[name]
            return np.frombuffer(content, dtype, math.prod(shape), at).reshape(shape)

        steps = np.zeros(self.num_steps, about.step_type)
        for name in {"act", *_OPTIONAL} & set(self.arrays):
            steps[name] = view(name)
        return view("obs"), steps


def sequence_of(name: str) -> int:
    """The sequence number in a file's name, -1 for other files."""
    number, _, rest = name.partition("-")
    return int(number) if number.isascii() and number.isdigit() and rest.endswith(SUFFIX) else -1


def write_files(contents: Sequence[tuple[Path, bytes]]) -> None:
    """Writes files beside their places, then onto the disk, and only then renames them, in order."""
    written = [(path.with_name(f".{path.stem}.tmp{SUFFIX}"), path) for path, _ in contents]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(open(temporary, "wb", buffering=0)) for temporary, _ in written]
            for file, (_, content) in zip(files, contents, strict=True):
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
            with ThreadPoolExecutor(16) as pool:  # the disk takes those that come together at once
                list(pool.map(os.fsync, [file.fileno() for file in files]))
        for temporary, path in written:
            os.replace(temporary, path)
        flush_folder(written[0][1].parent)
    except BaseException:  # Ctrl-C too must leave no litter
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
        raise


def read_piece(path: Path, about: About) -> Piece:
    """Reads the header of an episode's file; its arrays stay on the disk.

    Raises:
        ValueError: The file is damaged, shorter than it should be, or of another kind of store.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _HEADER_AT_MOST):
            raise ValueError("its header is cut off")
        header = file.read(length)
    try:
        content = json.loads(header)
        metadata = json.loads(content.pop("__metadata__")[_KEY])
        arrays = {name: _place(entry, 8 + length, size) for name, entry in content.items()}
        n = int(arrays["act"][1][0])
        piece = Piece(
            path, n, str(metadata["continues"]), int(metadata["first_step"]), bool(metadata["over"]),
            dict(metadata["info"]), arrays,
        )  # fmt: skip
        hash(piece.info.get("game"))
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header makes no sense: {type(error).__name__} {error}") from error
    h, w, c = about.frame_shape
    expected = {"obs": (n + 1, c, h, w), "act": (n, *about.action_shape), **dict.fromkeys(_OPTIONAL, (n,))}
    for name, (dtype, shape, _) in arrays.items():
        if expected.get(name) != shape or n < 1:
            raise ValueError(f"its {name} is {shape}")
        if name in ("obs", "act") and dtype != np.dtype(np.uint8 if name == "obs" else about.action_dtype):
            raise ValueError(f"its {name} is {dtype}")
    if "obs" not in arrays:
        raise ValueError("it holds no frames")
    _check_ends(piece)
    return piece


def _check_ends(piece: Piece) -> None:
    """Refuses a file whose arrays do not end where its header says: places in a damaged header may be wrong."""
    ended = np.zeros(piece.num_steps, np.uint8)
    with open(piece.path, "rb") as file:
        for name in {"end", "trunc"} & set(piece.arrays):
            file.seek(piece.arrays[name][2])
            ended |= np.frombuffer(file.read(piece.num_steps), np.uint8)
    if ended.max() > 1 or ended[:-1].any() or bool(ended[-1]) != piece.over:
        raise ValueError("its ends are not where its header says")


def _place(entry: Mapping[str, Any], data: int, size: int) -> tuple[str, tuple[int, ...], int]:
    """Type, shape and place of an array that lies within a file of `size` bytes."""
    dtype, shape = _DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
    begin, end = (data + int(at) for at in entry["data_offsets"])
    if end > size:
        raise ValueError("it is cut off")
    if begin < data or min(shape, default=0) < 0 or end - begin != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError("its arrays overlap or are too short")
    return dtype, shape, begin


def lives_before(infos: list[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
    """For each episode the one that was the life before in the same game, or -1: int64 (N,)."""
    latest: dict[Any, int] = {}
    before = np.full(len(infos), -1, np.int64)
    for number, info in enumerate(infos):
        if (game := info.get("game")) is not None:
            before[number] = latest.get(game, -1)
            latest[game] = number
    return before
