"""Steps with which something appears where nothing moved: a ball that is served, a digit that changes.

Such steps are few, and nothing in the frames before them points to the place: a fitting that draws its segments
evenly hardly learns them, and a ball that is lost in the dream never comes back.
"""

import numpy as np
import numpy.typing as npt

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import cut

_Int = npt.NDArray[np.int64]

_PAST = 4  # frames in which nothing may have moved near the place
_CHANGE, _MOTION = 48, 24  # levels of 255: of what appears, and of what counts as motion before it
_REACH = 6  # pixels around what moved: further than a ball flies in a step
_CELL = 8  # pixels: the side of a place
_COMMON = 0.1  # of all steps: the part from which on motion at a place is nothing special
_MOST = 1000  # of one place's appearances


class Appearances:
    """Finds the appearances of a store; episodes that are known are not searched again.

    Args:
        across_lives: Whether to look at what was seen before an episode in earlier lives of its game, too.
    """

    def __init__(self, across_lives: bool = False) -> None:
        self._before = _PAST if across_lives else 0
        self._known: dict[int, tuple[int, _Int, _Int]] = {}

    def __call__(self, store: EpisodeStore) -> _Int:
        """All (episode, step), int64 (N, 2), with whose next frame something appears.

        Places where something moves in a tenth of all steps are left out: a paddle that starts to move appears a
        hundred times as often as a ball, and is easily learned. Each other place makes up about the same part, some
        of its appearances being listed again and again.
        """
        for number, length in enumerate(store.lengths.tolist()):
            if number not in self._known or self._known[number][0] != length:
                begin, steps = np.array([-self._before]), length + self._before
                segment = cut(store, np.array([number]), begin, steps, across_lives=True)
                unknown = int(np.argmax(segment.mask_padding[0]))
                result, moves = appearances(np.concatenate((segment.obs[0, unknown:], segment.final_obs)))
                result = result + np.array([unknown - self._before, 0])
                result = result[result[:, 0] < length - 1]  # no segment holds what followed the last step
                self._known[number] = (length, np.column_stack((np.full(len(result), number), result)), moves)
        if not self._known:
            return np.zeros((0, 2), np.int64)
        _, tables, moving = zip(*(self._known[number] for number in range(len(store))), strict=True)
        table = np.concatenate(tables)
        still = np.sum(moving, axis=0) < _COMMON * store.num_steps
        table = table[still[table[:, 2]]]
        places = [table[table[:, 2] == place, :2] for place in np.unique(table[:, 2])]
        each = min(_MOST, max(map(len, places), default=0))
        return np.concatenate([np.resize(events, (each, 2)) for events in places] or [np.zeros((0, 2), np.int64)])


def appearances(frames: npt.NDArray[np.uint8]) -> tuple[_Int, _Int]:
    """The steps of an episode with which something appears, and where things move at all.

    Args:
        frames: uint8 (L + 1, C, H, W).

    Returns:
        Steps t and cells, int64 (N, 2): frame t + 1 changes in the cell, where frames t - 3 to t stood still all
        around. And in how many steps something moves in each cell of 8×8 pixels, int64 (cells,), row by row.
    """
    changed = np.zeros((2, max(0, len(frames) - 1), *frames.shape[2:]), np.bool_)
    for t in range(changed.shape[1]):  # frame by frame: an episode may hold thousands
        step = np.abs(frames[t + 1].astype(np.int16) - frames[t]).max(axis=0)
        changed[:, t] = step > _CHANGE, step > _MOTION
    near = _spread(_spread(changed[1], 1), 2)
    busy = np.zeros_like(near)
    for back in range(1, _PAST):
        busy[back:] |= near[:-back]
    new = _cells(changed[0] & ~busy)
    new[: _PAST - 1] = False  # too little is known of what moved before
    at, cell = np.nonzero(new)
    at, first = np.unique(at, return_index=True)
    return np.column_stack((at, cell[first])).astype(np.int64), _cells(changed[1]).sum(axis=0)


def _cells(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which cells of masks (L, H, W) hold anything true, (L, cells)."""
    rows, columns = (np.arange(0, size, _CELL) for size in mask.shape[1:])
    result = np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, axis=1), columns, axis=2)
    return result.reshape(len(mask), len(rows) * len(columns))


def _spread(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    """What is true within `_REACH` pixels along an axis."""
    ends = [(0, 0)] * mask.ndim
    ends[axis] = (_REACH, _REACH)
    padded = np.moveaxis(np.pad(mask, ends), axis, 0)
    size = mask.shape[axis]
    spread = padded[:size].copy()
    for shift in range(1, 2 * _REACH + 1):
        spread |= padded[shift : shift + size]
    return np.moveaxis(spread, 0, axis)
