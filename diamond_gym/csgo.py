"""CS:GO's actions: keys, clicks and the mouse, as people write them and as the networks take them.

The data of Pearce & Zhu (Counter-Strike Behavioural Cloning) and the engine made from it (Alonso et al. 2024) write an
action as 51 numbers of 0 and 1: eleven keys, two buttons, and one-hot bins of the mouse's motion, 23 sideways and 15
up and down. The environments take the same as 15 small integers, `SIZES`, a `gymnasium.spaces.MultiDiscrete`: 13 that
are pressed or not, and the two bins.

>>> from diamond_gym import csgo
>>> forward_firing = csgo.action("w", "left", mouse_x=-30)
>>> csgo.describe(forward_firing)
(('w', 'left'), -30, 0)
"""

import numpy as np
import numpy.typing as npt

from diamond_gym.actions import MultiDiscrete

KEYS = ("w", "a", "s", "d", "space", "ctrl", "shift", "1", "2", "3", "r")
CLICKS = ("left", "right")
BUTTONS = KEYS + CLICKS
_X, _Y = (1000, 500, 300, 200, 100, 60, 30, 20, 10, 4, 2), (200, 100, 50, 20, 10, 4, 2)
MOUSE_X = (*(-x for x in _X), 0, *reversed(_X))
"""Motions of the mouse that have a bin, to the left and to the right, ascending."""
MOUSE_Y = (*(-y for y in _Y), 0, *reversed(_Y))
"""The same up and down."""

SIZES = (*[2] * len(BUTTONS), len(MOUSE_X), len(MOUSE_Y))
"""How many values each of the 15 parts of an action has."""
NAMES = (*BUTTONS, "mouse_x", "mouse_y")
NUM_INPUTS = len(BUTTONS) + len(MOUSE_X) + len(MOUSE_Y)

Array = npt.NDArray[np.int64]


def action(*pressed: str, mouse_x: float = 0, mouse_y: float = 0) -> Array:
    """An action by name; without arguments, the one that does nothing (which is not all zeros).

    Args:
        *pressed: Keys and mouse buttons held down, of `BUTTONS`.
        mouse_x: Motion of the mouse to the right; the nearest bin of `MOUSE_X` is taken.
        mouse_y: Motion down; the nearest bin of `MOUSE_Y`.

    Returns:
        int64 (15,), as `SIZES` has it.

    Raises:
        ValueError: There is no such key or button.
    """
    for name in pressed:
        if name not in BUTTONS:
            raise ValueError(f"there is no key or button {name!r}: there are {' '.join(BUTTONS)}.")
    mouse = [int(np.abs(np.array(bins) - x).argmin()) for bins, x in ((MOUSE_X, mouse_x), (MOUSE_Y, mouse_y))]
    return np.array([*(name in pressed for name in BUTTONS), *mouse], dtype=np.int64)


def describe(act: npt.ArrayLike) -> tuple[tuple[str, ...], int, int]:
    """What an action (15,) does: the keys and buttons held down, and the mouse's motion in x and y."""
    *pressed, x, y = _checked(act).tolist()
    return tuple(name for name, down in zip(BUTTONS, pressed, strict=True) if down), MOUSE_X[x], MOUSE_Y[y]


def encode(act: npt.ArrayLike) -> Array:
    """Actions (..., 15) as the networks take them: int64 (..., 51) of 0 and 1.

    Raises:
        ValueError: They are not actions as `SIZES` has them.
    """
    act = _checked(act)
    mouse = [np.eye(size, dtype=np.int64)[act[..., i]] for i, size in ((-2, len(MOUSE_X)), (-1, len(MOUSE_Y)))]
    return np.concatenate([act[..., :-2], *mouse], axis=-1)


def decode(inputs: npt.ArrayLike) -> Array:
    """The inverse of `encode`: (..., 51) -> int64 (..., 15).

    Raises:
        ValueError: They are not 51 numbers of 0 and 1 with exactly one bin of each of the mouse's motions.
    """
    numbers = np.asarray(inputs)
    if numbers.shape[-1:] != (NUM_INPUTS,) or not np.isin(numbers, (0, 1)).all():
        raise ValueError(f"encoded actions are {NUM_INPUTS} numbers of 0 and 1, got shape {numbers.shape}.")
    buttons, x, y = np.split(numbers, [len(BUTTONS), len(BUTTONS) + len(MOUSE_X)], axis=-1)
    if not ((x.sum(-1) == 1).all() and (y.sum(-1) == 1).all()):
        raise ValueError("an encoded action has exactly one bin of the mouse's motion in x, and one in y.")
    mouse = np.stack([x.argmax(-1), y.argmax(-1)], axis=-1)
    return np.concatenate([buttons, mouse], axis=-1).astype(np.int64)


def _checked(act: npt.ArrayLike) -> Array:
    array = np.asarray(act)
    fits = array.shape[-1:] == (len(SIZES),) and array.dtype.kind in "iub"
    if not fits or ((array < 0) | (array >= np.array(SIZES))).any():
        raise ValueError(f"an action is {len(SIZES)} integers below {SIZES}, got {array.dtype} {array.shape}.")
    return array.astype(np.int64)


class CsgoActions(MultiDiscrete):
    """The codec of these actions; recordings may hold them encoded already."""

    kind = "csgo"
    part_names = NAMES

    def __init__(self) -> None:
        super().__init__(SIZES)
        self.num_inputs, self.table = NUM_INPUTS, {"kind": self.kind}

    def encode(self, act: npt.ArrayLike) -> Array:
        """Zeros and ones, int64 (..., 51), from actions (..., 15) or from such zeros and ones."""
        act = np.asarray(act)
        return act.astype(np.int64) if act.shape[-1:] == (NUM_INPUTS,) else encode(act)

    @property
    def rest(self) -> Array:
        """Nothing pressed, and a mouse that stays where it is."""
        return action()

    @property
    def keys(self) -> dict[str, tuple[int, float]]:
        """The keys and mouse buttons by their names."""
        return {name: (i, 1) for i, name in enumerate(BUTTONS)}
