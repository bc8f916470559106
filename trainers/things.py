"""Things that matter in a game's frames (player, ball, opponents, score), found by their colours, and counted.

What each game has is a table in `things.toml`. A thing in motion is a piece of connected pixels that lie between the
background's colour and its own: the sum of their shares of its own colour is its mass, which hardly changes with where
it stands between the pixels of a small frame. A thing that stands still, such as a score, is a patch of the frame that
looks like one of real play (normalized cross-correlation). A thing is alive as long as it is seen, or unseen for no
longer than real play hides it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_Frames = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]
_Int = npt.NDArray[np.int64]

TABLE = Path(__file__).with_name("things.toml")
_FAINT = 0.2  # the least share of its own colour in a pixel that belongs to a thing
_NEVER = -1  # a row where nothing is: a thing not seen yet
_PATCHES = 4096  # real patches to compare with, at most
_CHUNK = 2048  # frames at a time, for memory's sake


@dataclass(frozen=True)
class Exit:
    """Where a thing that was last seen there may be out of sight.

    Attributes:
        rows: From and below.
        columns: From and below.
        steps: For how many steps.
        until: It stays away until this action is taken after those steps, and then comes within `late` steps.
        late: Steps.
    """

    rows: tuple[int, int] = (0, 64)
    columns: tuple[int, int] = (0, 64)
    steps: int = 0
    until: int | None = None
    late: int = 3

    def holds(self, row: int, column: int) -> bool:
        """Whether a thing last seen at that place may have left here; one never seen may have left anywhere."""
        return row == _NEVER or (self.rows[0] <= row < self.rows[1] and self.columns[0] <= column < self.columns[1])


@dataclass(frozen=True)
class Part:
    """One thing, or one of several alike that are counted together.

    Attributes:
        rows: Where it is looked for, from and below.
        columns: The same across.
        colour: Its own, of 255; without one it is a patch that has to look as in real play.
        background: The colour around it; without one, that of the median real frame there.
        residual: How far a pixel's colour may lie from the line between the two, of 255.
        mass: The least and the most pixels' worth of its colour in one piece.
        pieces: The least and the most pieces of that mass.
        likeness: Of a patch: its correlation with the most alike real one from which on it is legible.
        hidden: For how many steps it may be unseen anywhere.
        exits: Where it may be unseen for longer.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    colour: tuple[int, int, int] | None = None
    background: tuple[int, int, int] | None = None
    residual: float = 24
    mass: tuple[float, float] = (1, 1e9)
    pieces: tuple[int, int] = (1, 1)
    likeness: float = 0.8
    hidden: int = 0
    exits: tuple[Exit, ...] = ()


@dataclass(frozen=True)
class Thing:
    """What is counted: alive while at least `least` of its parts are.

    Attributes:
        name: A word for it.
        parts: One, or several alike.
        least: How many.
    """

    name: str
    parts: tuple[Part, ...]
    least: int = 1


@cache
def things(game: str) -> tuple[Thing, ...]:
    """What is counted in a game; nothing in one that the table does not hold."""
    with TABLE.open("rb") as file:
        table: Mapping[str, Any] = tomllib.load(file).get(game, {})
    result = []
    for name, entry in table.items():
        shared = {key: value for key, value in entry.items() if key not in ("parts", "least")}
        parts = tuple(_part({**shared, **own}) for own in entry.get("parts", [{}]))
        result.append(Thing(name.replace("_", " "), parts, entry.get("least", len(parts))))
    return tuple(result)


def _part(entry: Mapping[str, Any]) -> Part:
    exits = tuple(Exit(**_tuples(way)) for way in entry.get("exits", ()))
    return Part(**{**_tuples(entry), "exits": exits})


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


class Detector:
    """Finds a game's things in frames.

    Args:
        game: One that `things` knows.
        real: Real frames of it, uint8 (M, C, h, w): its background and patches are theirs.
    """

    def __init__(self, game: str, real: _Frames) -> None:
        self.things = things(game)
        rng = np.random.default_rng(0)
        some = real[np.sort(rng.permutation(len(real))[:_PATCHES])]
        self._median = np.median(some[:512], axis=0).astype(np.float32)
        self._patches = {
            part: np.unique(_patches(real, part).round(4), axis=0)[:_PATCHES]
            for thing in self.things for part in thing.parts if part.colour is None
        }  # fmt: skip

    def alive(self, frames: _Frames, act: _Int) -> dict[str, _Bool]:
        """Which things are alive in which frames.

        Args:
            frames: uint8 (N, L, C, h, w), in the order of time.
            act: int64 (N, L - 1), `act[:, t]` leads from frame t to frame t + 1.

        Returns:
            bool (N, L) by each thing's name.
        """
        alive: dict[str, _Bool] = {}
        for thing in self.things:
            parts = np.stack([_lives(part, self.seen(part, frames), act) for part in thing.parts])
            alive[thing.name] = parts.sum(axis=0) >= thing.least
        return alive

    def seen(self, part: Part, frames: _Frames) -> _Int:
        """Where a part is seen in frames (N, L, C, h, w): its row and column, int64 (N, L, 2), or -1."""
        flat = frames.reshape(-1, *frames.shape[2:])
        chunks = [self._seen(part, flat[i : i + _CHUNK]) for i in range(0, len(flat), _CHUNK)]
        return np.concatenate(chunks).reshape(*frames.shape[:2], 2)

    def _seen(self, part: Part, frames: _Frames) -> _Int:
        place = np.full((len(frames), 2), _NEVER, np.int64)
        if part.colour is None:
            place[(_patches(frames, part) @ self._patches[part].T).max(1) >= part.likeness] = 0
            return place
        share = shares(part, frames, self._median)
        labels, count = _pieces(share)
        index = np.arange(1, count + 1)
        mass = np.bincount(labels.ravel(), share.ravel(), count + 1)[1:]
        frame, row, column = (
            np.bincount(labels.ravel(), (share * at).ravel(), count + 1)[1:] / mass for at in _axes(share)
        )
        whole = (mass >= part.mass[0]) & (mass <= part.mass[1])
        of, index = frame.round().astype(int)[whole], index[whole]
        number = np.bincount(of, minlength=len(frames))
        good = (number >= part.pieces[0]) & (number <= part.pieces[1])
        rows, columns = row[whole].round().astype(int), column[whole].round().astype(int)
        place[of, 0], place[of, 1] = rows + part.rows[0], columns + part.columns[0]
        place[~good] = _NEVER
        return place


def shares(part: Part, frames: _Frames, median: _Floats) -> _Floats:
    """A part's share of its own colour in each pixel of its region of frames (M, C, h, w): (M, rows, columns)."""
    assert part.colour is not None
    region = slice(*part.rows), slice(*part.columns)
    around = median[:, *region] if part.background is None else np.array(part.background, np.float32)[:, None, None]
    own = np.array(part.colour, np.float32)[:, None, None] - around  # (C, rows, columns) or (C, 1, 1)
    apart = frames[:, :, *region].astype(np.float32) - around
    share = (apart * own).sum(1) / np.maximum((own**2).sum(0), 1)
    off = np.abs(apart - share[:, None] * own).max(1)
    return np.where((off <= part.residual) & (share >= _FAINT), share.clip(0, 1), 0)


def _axes(share: _Floats) -> list[npt.NDArray[np.int64]]:
    return [np.arange(n).reshape([-1 if i == d else 1 for i in range(3)]) for d, n in enumerate(share.shape)]


def _pieces(share: _Floats) -> tuple[npt.NDArray[np.int32], int]:
    """Labels of connected pixels, also over corners, within each image of a batch (M, rows, columns)."""
    from scipy.ndimage import label

    near = np.zeros((3, 3, 3), np.int8)
    near[1] = 1
    labels, count = label(share > 0, near)
    return labels, int(count)


def _patches(frames: _Frames, part: Part) -> _Floats:
    """Regions of frames (M, C, h, w) without their mean colour and of norm 1, (M, D): products are correlations."""
    patch = frames[:, :, slice(*part.rows), slice(*part.columns)].astype(np.float32)
    flat = (patch - patch.mean(axis=(2, 3), keepdims=True)).reshape(len(frames), -1)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1))


def _lives(part: Part, place: _Int, act: _Int) -> _Bool:
    """Whether a part seen at places (N, L, 2) is alive in each frame, bool (N, L)."""
    alive = np.ones(place.shape[:2], np.bool_)
    for row in np.flatnonzero((place[..., 0] == _NEVER).any(axis=1)):
        last, unseen, called = (_NEVER, _NEVER), 0, [_NEVER] * len(part.exits)
        for t, (r, c) in enumerate(place[row].tolist()):
            if r != _NEVER:
                last, unseen, called = (r, c), 0, [_NEVER] * len(part.exits)
                continue
            unseen += 1
            allowed = part.hidden
            for i, way in enumerate(part.exits):
                if not way.holds(*last):
                    continue
                if (
                    way.until is not None
                    and called[i] == _NEVER
                    and unseen > way.steps
                    and t
                    and act[row, t - 1] == way.until
                ):
                    called[i] = unseen
                waiting = way.until is not None and called[i] == _NEVER
                allowed = max(allowed, unseen if waiting else way.steps if way.until is None else called[i] + way.late)
            alive[row, t] = unseen <= allowed
    return alive


def wilson(hits: int, n: int) -> list[float]:
    """Wilson's 95 % interval of a share, which is honest at 0 and 1 too (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]
