"""Steps with which something appears where nothing moved: a ball that is served, a digit that changes.

Such steps are few, and nothing in the frames before them points to the place: a fitting that draws its segments
evenly hardly learns them, and a ball that is lost in the dream never comes back.
"""

import numpy as np
import numpy.typing as npt

from diamond_gym.data import EpisodeStore
from diamond_gym.segments import cut

_Int = npt.NDArray[np.int64]

_PAST = 4  # frames in which nothing may have moved near the place
_CHANGE, _MOTION = 48, 24  # levels of 255: of what appears, and of what counts as motion before it
_REACH = 6  # pixels around what moved: further than a ball flies in a step
_CELL = 8  # pixels: the places that are told apart
_MOST = 1000  # of one place's appearances


class Appearances:
    """Finds the appearances of a store; episodes that are known are not searched again."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, _Int]] = {}

    def __call__(self, store: EpisodeStore) -> _Int:
        """All (episode, step), int64 (N, 2), with whose next frame something appears.

        Each place of the frame makes up about the same part of them, some being listed again and again: a paddle that
        starts to move appears a hundred times as often as a ball.
        """
        for number, length in enumerate(store.lengths.tolist()):
            if number not in self._known or self._known[number][0] != length:
                segment = cut(store, np.array([number]), np.array([0]), length)
                frames = np.concatenate((segment.obs[0], segment.final_obs))
                found = appearances(frames)
                self._known[number] = (length, np.column_stack((np.full(len(found), number), found)))
        rows = [self._known[number][1] for number in range(store.num_episodes)]
        if not sum(map(len, rows)):
            return np.zeros((0, 2), np.int64)
        table = np.concatenate(rows)
        places = [table[table[:, 2] == place, :2] for place in np.unique(table[:, 2])]
        each = min(_MOST, max(map(len, places)))
        return np.concatenate([np.resize(events, (each, 2)) for events in places])


def appearances(frames: npt.NDArray[np.uint8]) -> _Int:
    """The steps t of an episode with which something appears, and where: int64 (N, 2), t and a cell's number.

    Args:
        frames: uint8 (L + 1, C, H, W). Frame t + 1 changes where frames t - 3 to t stood still all around.
    """
    changed = np.zeros((2, max(0, len(frames) - 1), *frames.shape[2:]), np.bool_)
    for t in range(changed.shape[1]):  # frame by frame: an episode may hold thousands
        step = np.abs(frames[t + 1].astype(np.int16) - frames[t]).max(axis=0)
        changed[:, t] = step > _CHANGE, step > _MOTION
    near = _spread(_spread(changed[1], 1), 2)
    busy = np.zeros_like(near)
    for back in range(1, _PAST):
        busy[back:] |= near[:-back]
    new = changed[0] & ~busy
    new[: _PAST - 1] = False  # too little is known of what moved before
    height, width = new.shape[1:]
    t, pixel = np.nonzero(new.reshape(len(new), height * width))
    t, first = np.unique(t, return_index=True)
    row, column = np.divmod(pixel[first], width)
    return np.column_stack((t, row // _CELL * (width // _CELL + 1) + column // _CELL)).astype(np.int64)


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
