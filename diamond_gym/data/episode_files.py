"""An episode and its file: a `.safetensors` file for an episode, or for each piece of one that grew.

The arrays of a file, for N steps: `obs` uint8 (N+1, C, H, W), as the networks take frames, `act` (N, ...) of the
store's type, and where they are known `rew` float32 (N,), `end` and `trunc` bool (N,). Its metadata is one entry,
JSON: whose piece it is, from which step on, whether the episode is over, and its info.
"""

import json
import os
import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.about import ABOUT, About
from diamond_gym.errors import DiamondGymError, DiskFull
from diamond_gym.files import atomic_write, flush_folder

SUFFIX, INDEX, _KEY = ".safetensors", "index.cache", "episode"
_OPTIONAL = {"rew": np.float32, "end": np.bool_, "trunc": np.bool_}
_HEADER, _HEADER_AT_MOST = 1 << 11, 1 << 20  # bytes, as a rule and at most


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
class Link:
    """Where a file belongs.

    Attributes:
        continues: The name (without suffix) of the episode's first file; its own for the first.
        first_step: The number of its first step within the episode.
        over: Whether its last step ended the episode.
        info: See `Episode`.
    """

    continues: str
    first_step: int
    over: bool
    info: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, episode: Episode, before: "Link | None", first_step: int) -> "Link":
        """What to write with a new episode, or with what follows the file `before` of one."""
        if before is None:
            return cls(path.stem, 0, episode.over, dict(episode.info))
        return cls(before.continues, first_step, episode.over, {**before.info, **episode.info})


@dataclass(frozen=True)
class Piece:
    """A file of a store, as its header describes it.

    Attributes:
        path: The file, named `<sequence number>-<random>.safetensors`.
        link: Where it belongs.
        num_steps: Steps in this file, N.
        begins: The bytes at which its arrays begin.
        stamp: The file's size and time of change (ns).
    """

    path: str
    link: Link
    num_steps: int
    begins: Mapping[str, int]
    stamp: tuple[int, int]

    @property
    def stop(self) -> int:
        """The number of the step after its last within the episode."""
        return self.link.first_step + self.num_steps

    @property
    def unknown(self) -> tuple[str, ...]:
        """Which of `rew`, `end` and `trunc` it does not hold."""
        return tuple(name for name in _OPTIONAL if name not in self.begins)

    def steps(self, about: About) -> npt.NDArray[np.void]:
        """Its steps, records (N,) of `About.step_type`."""
        n, steps = self.num_steps, np.zeros(self.num_steps, about.step_type)
        with open(self.path, "rb") as file:
            for name in self.begins.keys() - {"obs"}:
                column = about.columns[name]
                file.seek(self.begins[name])
                steps[name] = np.frombuffer(file.read(n * column.row_bytes), column.dtype).reshape(n, *column.shape)
        return steps

    def frames(self, about: About) -> memoryview:
        """Its frames, mapped into memory."""
        import torch  # whose maps, unlike Python's, keep no file open: a process may have no more than 1024 of those

        begin = self.begins["obs"]
        end = begin + (self.num_steps + 1) * about.columns["obs"].row_bytes
        if end > Path(self.path).stat().st_size:
            raise DiamondGymError(f"{self.path} is shorter than when the store was opened")
        content: npt.NDArray[np.uint8] = torch.from_file(self.path, False, end, dtype=torch.uint8).numpy()
        return content.data[begin:]


def new_path(folder: Path, sequence: int) -> Path:
    """A name for a file."""
    return folder / f"{sequence:019d}-{secrets.token_hex(6)}{SUFFIX}"


def sequence_of(name: str) -> int:
    """The number by which the files of a store are ordered, out of a file's name; -1 for other files."""
    number, _, rest = name.partition("-")
    return int(number) if number.isascii() and number.isdigit() and rest.endswith(SUFFIX) else -1


def encode(episode: Episode, link: Link, about: About) -> bytes:
    """A file's content."""
    from safetensors.numpy import save

    arrays = {"obs": np.ascontiguousarray(episode.obs.transpose(0, 3, 1, 2))}
    arrays["act"] = np.ascontiguousarray(episode.act, about.action_dtype)
    for name in set(_OPTIONAL) - set(episode.unknown):
        arrays[name] = np.ascontiguousarray(getattr(episode, name), _OPTIONAL[name])
    return save(arrays, {_KEY: json.dumps(asdict(link), separators=(",", ":"))})


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


def read_piece(path: str, about: About) -> Piece:
    """Reads an episode's file as far as it takes to know that it is whole.

    Raises:
        ValueError: The file is damaged, shorter than it should be, or of another kind of store.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # as `open`, at half its cost
    try:
        head = os.read(file, _HEADER)
        stat, length = os.fstat(file), 8 + int.from_bytes(head[:8], "little")
        if not 10 <= length <= min(stat.st_size, _HEADER_AT_MOST):
            raise ValueError("its header is cut off")
        if length > len(head):
            head += _read(file, len(head), length - len(head))
        piece = _parse(path, head[8:length].decode(), about, length, (stat.st_size, stat.st_mtime_ns))
        ends = [_read(file, piece.begins[name], piece.num_steps) for name in ("end", "trunc") if name in piece.begins]
    finally:
        os.close(file)
    # Places in a damaged header may be wrong: the ends at least must lie where they can.
    wrong = any(content.count(0, 0, -1) < len(content) - 1 or content[-1] > 1 for content in ends)
    if wrong or any(content[-1] for content in ends) != piece.link.over:
        raise ValueError("its ends are not where its header says")
    return piece


_read_json = json.JSONDecoder().raw_decode


def _parse(path: str, header: str, about: About, length: int, stamp: tuple[int, int]) -> Piece:
    """What a header says, if it fits a store of this kind and a file of this size."""
    try:
        content, _ = _read_json(header)
        link, _ = _read_json(content.pop("__metadata__")[_KEY])
        link = Link(str(link["continues"]), int(link["first_step"]), bool(link["over"]), dict(link["info"]))
        hash(link.info.get("game"))
        n, begins = content["act"]["shape"][0], {}
        for name, entry in content.items():
            column, rows = about.columns[name], n + (name == "obs")
            begin, end = entry["data_offsets"]
            if entry["dtype"] != column.code or entry["shape"] != [rows, *column.shape] or n < 1:
                raise ValueError(f"its {name} is {entry['dtype']} {entry['shape']}")
            if length + end > stamp[0]:
                raise ValueError("it is cut off")
            if begin < 0 or end - begin != rows * column.row_bytes:
                raise ValueError("its arrays overlap or are too short")
            begins[name] = length + begin
        if "obs" not in begins:
            raise ValueError("it holds no frames")
        return Piece(path, link, n, begins, stamp)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header makes no sense: {type(error).__name__} {error}") from error


def _read(file: int, begin: int, count: int) -> bytes:
    os.lseek(file, begin, os.SEEK_SET)
    return os.read(file, count)


def read_steps(pieces: Sequence[Piece], known: npt.NDArray[np.void], about: About) -> npt.NDArray[np.void]:
    """The steps of files, one after the other; `known` are those of the first ones, already read."""
    steps, at = np.empty(sum(piece.num_steps for piece in pieces), about.step_type), 0
    for piece in pieces:
        end = at + piece.num_steps
        steps[at:end] = known[at:end] if end <= len(known) else piece.steps(about)
        at = end
    return steps


def write_index(folder: Path, pieces: Sequence[Piece]) -> None:
    """Writes what is known of a store's files into one file, so that the store opens faster; it may be deleted."""
    content = {os.path.basename(p.path): [astuple(p.link), p.num_steps, p.begins, p.stamp] for p in pieces}  # noqa: PTH119
    text = json.dumps(content, separators=(",", ":")).encode()
    with suppress(OSError, DiskFull), atomic_write(folder / INDEX) as file:
        file.write(b"%08x" % zlib.crc32(text) + text)


def read_index(folder: Path) -> dict[str, Piece]:
    """The files of a store as `write_index` knew them; one whose stamp is another now must be read itself."""
    with suppress(OSError, ValueError):
        content = (folder / INDEX).read_bytes()
        if int(content[:8], 16) == zlib.crc32(content[8:]):
            start = os.path.join(folder, "")  # noqa: PTH118
            return {
                name: Piece(start + name, Link(*link), n, begins, tuple(stamp))
                for name, (link, n, begins, stamp) in json.loads(content[8:]).items()
            }
    return {}


def check_described(folder: Path) -> None:
    """Raises DiamondGymError where a folder has episodes, and no description that makes a store of them."""
    if any(sequence_of(path.name) >= 0 for path in folder.glob(f"*{SUFFIX}")) and not (folder / ABOUT).exists():
        raise DiamondGymError(f"{folder} has episodes but no {ABOUT}: restore it, or use another folder")


def next_game(infos: Iterable[Mapping[str, Any]]) -> int:
    """A number for a game that none of the episodes with these infos is of."""
    return 1 + max((info.get("game", -1) for info in infos), default=-1)


def lives_before(infos: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
    """For each episode the one that was the life before in the same game, or -1: int64 (N,)."""
    latest: dict[Any, int] = {}
    before = np.full(len(infos), -1, np.int64)
    for number, info in enumerate(infos):
        if (game := info.get("game")) is not None:
            before[number] = latest.get(game, -1)
            latest[game] = number
    return before
