"""Actions of every kind: what recordings hold, what networks take, and the space that environments show.

A codec belongs to a world. Cards (`spaces.actions`) and stores (`About.actions`) name it by a table of plain data, the
kind and what the kind needs; numbered actions need none but their count.

>>> codec = Box(low=[-2.0, 0.0], high=[2.0, 1.0])
>>> codec.table["kind"], codec.num_inputs, codec.encode([1.0, 0.0]).tolist()
('box', 2, [0.5, -1.0])
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from diamond_gym.errors import BadConfig
from diamond_gym.schema import MOST_ACTIONS

Array = npt.NDArray[Any]

# Keys of a keyboard: digits for buttons; a row for the values of each choice; a pair for the bounds of each number
DIGITS = "1234567890"
_ROWS = (DIGITS, "qwertyuiop", "asdfghjkl", "zxcvbnm")
_PAIRS = ("ad", "sw", "qe", "zc", "12", "34", "56", "78", "90")


class ActionCodec:
    """A world's actions, and how networks take them.

    Numbered actions go to the networks as they are, int64. All others become vectors of A numbers, which the table of
    the actions' embedding maps linearly: zeros and ones as they are, of several choices a one-hot part each, and
    numbers within bounds as float32 from -1 to 1.

    Attributes:
        space: Of one action, as environments show it.
        num_inputs: Rows of the networks' table: how many numbered actions there are, or A.
        table: What a card or a store says of it, plain data; empty for numbered actions, whose count says all.
        lowest: The smallest number that the networks are given.
        highest: The largest one.
    """

    kind: ClassVar[str]
    lowest: ClassVar[int] = 0
    part_names: ClassVar[tuple[str, ...]] = ()
    """A word for each part of an action, where the kind itself has them."""
    is_vector: ClassVar[bool] = True
    """Whether networks are given A numbers for an action, and not the number of one."""

    def __init__(self, space: spaces.Space[Any], num_inputs: int, table: Mapping[str, Any]) -> None:
        if not 1 <= num_inputs <= MOST_ACTIONS:
            raise BadConfig(f"actions are 1 to {MOST_ACTIONS} numbers for the networks, not {num_inputs}")
        self.space, self.num_inputs, self.highest = space, num_inputs, 1
        self.table: dict[str, Any] = {"kind": self.kind, **table} if table or self.kind != "discrete" else {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionCodec) and (self.kind, self.space) == (other.kind, other.space)

    __hash__ = None  # type: ignore[assignment]  # spaces have none

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.space})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""
        return tuple(self.space.shape or ())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of actions as environments take them and as recordings hold them."""
        return np.dtype(self.space.dtype or np.int64)

    @property
    def words(self) -> str:
        """What an action is, such as "3 integers"."""
        return f"{math.prod(self.shape)} {'numbers' if self.dtype.kind == 'f' else 'integers'}"

    def encode(self, act: npt.ArrayLike) -> Array:
        """Actions (..., *shape) as the networks take them: (...) or (..., A), int64 or float32. It checks nothing."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, rows: int) -> Array:
        """Uniform random actions, (rows, *shape)."""
        raise NotImplementedError

    @property
    def rest(self) -> Array:
        """The action that does nothing, as far as the kind tells: 0, or in a box the number nearest to 0."""
        return np.zeros(self.shape, self.dtype)

    @property
    def keys(self) -> dict[str, tuple[int, float]]:
        """What each key of a keyboard sets: a place in the flattened action, and the number that it puts there.

        Keys are few: the parts of an action for which none is left rest. Numbered actions have none here but by their
        words (`diamond_gym.registry.games.keys_to_action`).
        """
        return {}

    def held(self, keys: Collection[str]) -> Array:
        """The action, of the space's shape and type, while these keys are held down."""
        act = self.rest.copy().reshape(-1)
        for key, (place, value) in self.keys.items():
            if key in keys:
                act[place] = value
        return act.reshape(self.shape)

    def _wanted(self, shape: tuple[int, ...]) -> str:
        """What actions of a shape (*leading, *self.shape) are, for errors."""
        raise NotImplementedError

    def _flat(self, act: Array) -> Array:
        """Actions (..., *shape) with their parts in one dimension."""
        return act.reshape(*act.shape[: act.ndim - len(self.shape)], math.prod(self.shape))

    def _accepts(self, act: Array) -> bool:
        """Whether actions of the right shape are the space's."""
        raise NotImplementedError

    def check(self, actions: Any, leading: tuple[int, ...] = ()) -> Array:
        """Actions (*leading, *shape) in the space's type.

        Raises:
            ValueError: They are none of its actions; the message says what was wanted and what came.
        """
        act, shape = np.asarray(actions), (*leading, *self.shape)
        fits = act.shape == shape and act.dtype.kind in "biuf" and (act.size == 0 or self._accepts(act))
        if not fits or (act.dtype.kind == "b" and self.kind != "multi_binary"):
            values = " ".join(np.array2string(act, threshold=8).split())
            raise ValueError(f"actions must be {self._wanted(shape)}, got {values} ({act.dtype} {act.shape})")
        return act.astype(self.dtype)


class Discrete(ActionCodec):
    """Actions 0 to n - 1."""

    kind = "discrete"
    is_vector = False

    def __init__(self, n: int) -> None:
        super().__init__(spaces.Discrete(n), n, {})
        self.highest = n - 1

    def encode(self, act: npt.ArrayLike) -> Array:
        """The numbers themselves, int64."""
        return np.asarray(act, np.int64)

    def sample(self, rng: np.random.Generator, rows: int) -> Array:
        """Uniform numbers."""
        return rng.integers(self.num_inputs, size=rows)

    def _wanted(self, shape: tuple[int, ...]) -> str:
        count = math.prod(shape)
        return f"{f'{count} integers' if count > 1 else 'an integer'} from 0 to {self.highest}"

    def _accepts(self, act: Array) -> bool:
        return act.dtype.kind in "iu" and bool(act.min() >= 0 and act.max() <= self.highest)


class MultiBinary(ActionCodec):
    """Several buttons, each pressed or not."""

    kind = "multi_binary"

    def __init__(self, shape: Sequence[int]) -> None:
        space = spaces.MultiBinary(shape[0] if len(shape) == 1 else list(shape))
        super().__init__(space, math.prod(shape), {"shape": list(shape)})

    def encode(self, act: npt.ArrayLike) -> Array:
        """The zeros and ones, int64, flat."""
        return self._flat(np.asarray(act)).astype(np.int64)

    def sample(self, rng: np.random.Generator, rows: int) -> Array:
        """Each button by a fair coin."""
        return rng.integers(2, size=(rows, *self.shape)).astype(self.dtype)

    @property
    def keys(self) -> dict[str, tuple[int, float]]:
        """A digit for each button."""
        return {key: (i, 1) for i, key in zip(range(self.num_inputs), DIGITS, strict=False)}

    def _wanted(self, shape: tuple[int, ...]) -> str:
        return f"zeros and ones of shape {shape}"

    def _accepts(self, act: Array) -> bool:
        return bool(np.isin(act, (0, 1)).all())  # of any type: Stable-Baselines3 gives floats


class MultiDiscrete(ActionCodec):
    """Several choices at once, each a number from 0 on."""

    kind = "multi_discrete"

    def __init__(self, sizes: Sequence[int], shape: Sequence[int] | None = None) -> None:
        self.sizes = np.array(sizes, np.int64)
        shape = [len(sizes)] if shape is None else list(shape)
        space = spaces.MultiDiscrete(self.sizes.reshape(shape))
        table: dict[str, Any] = {"sizes": self.sizes.tolist()} | ({"shape": shape} if len(shape) > 1 else {})
        super().__init__(space, int(self.sizes.sum()), table)

    def encode(self, act: npt.ArrayLike) -> Array:
        """A one-hot part for each choice, int64, one after the other."""
        flat = self._flat(np.asarray(act)).astype(np.int64)
        begin = np.cumsum(self.sizes) - self.sizes
        result = np.zeros((*flat.shape[:-1], self.num_inputs), np.int64)
        np.put_along_axis(result, flat + begin, 1, axis=-1)
        return result

    def sample(self, rng: np.random.Generator, rows: int) -> Array:
        """Each choice uniform."""
        return rng.integers(self.sizes, size=(rows, len(self.sizes))).reshape(rows, *self.shape)

    @property
    def keys(self) -> dict[str, tuple[int, float]]:
        """A row of the keyboard for each choice, whose keys are its values from 1 on; it is 0 where none is held."""
        choices = enumerate(zip(self.sizes.tolist(), _ROWS, strict=False))
        return {key: (i, n) for i, (size, row) in choices for n, key in zip(range(1, size), row, strict=False)}

    def _wanted(self, shape: tuple[int, ...]) -> str:
        return f"integers of shape {shape}, each row below {tuple(self.sizes.tolist())}"

    def _accepts(self, act: Array) -> bool:
        nvec = self.sizes.reshape(self.shape)
        return act.dtype.kind in "iu" and bool((act >= 0).all() and (act < nvec).all())


class Box(ActionCodec):
    """Numbers within bounds, such as steering and gas."""

    kind = "box"
    lowest = -1

    def __init__(
        self, low: Sequence[float], high: Sequence[float], shape: Sequence[int] | None = None, dtype: str = "float32"
    ) -> None:
        self._low, self._high = np.array(low, np.float64), np.array(high, np.float64)
        shape = [len(self._low)] if shape is None else list(shape)
        if np.dtype(dtype).kind not in "iuf" or not np.dtype(dtype).isnative:
            raise BadConfig(f"a box holds numbers, not {dtype}")
        lowest, highest = (bound.reshape(shape).astype(dtype) for bound in (self._low, self._high))
        kind: Any = np.dtype(dtype).type
        space = spaces.Box(lowest, highest, dtype=kind)
        table: dict[str, Any] = {"low": self._low.tolist(), "high": self._high.tolist()}
        table |= {"shape": shape} if len(shape) != 1 else {}
        super().__init__(space, len(self._low), table | ({"dtype": dtype} if dtype != "float32" else {}))

    def encode(self, act: npt.ArrayLike) -> Array:
        """Each number between its bounds from -1 to 1, float32; what lies beyond a bound counts as the bound."""
        flat = self._flat(np.asarray(act, np.float64))
        span = np.where(self._high > self._low, self._high - self._low, 1.0)
        return np.clip((flat - self._low) / span * 2 - 1, -1, 1).astype(np.float32)

    def sample(self, rng: np.random.Generator, rows: int) -> Array:
        """Each number uniform between its bounds; whole ones with both bounds."""
        size = (rows, self.num_inputs)
        if self.dtype.kind == "f":
            drawn = rng.uniform(self._low, self._high, size)
        else:
            drawn = rng.integers(self._low.astype(np.int64), self._high.astype(np.int64) + 1, size).astype(np.float64)
        act = drawn.reshape(rows, *self.shape).astype(self.dtype)
        return np.clip(act, self.space.low, self.space.high)  # type: ignore[attr-defined]  # rounding to float32

    @property
    def rest(self) -> Array:
        """The numbers nearest to 0."""
        box: Any = self.space
        return np.clip(np.zeros(self.shape, self.dtype), box.low, box.high)

    @property
    def keys(self) -> dict[str, tuple[int, float]]:
        """Two keys for each number, for its lowest and its highest value."""
        box: Any = self.space
        numbers = enumerate(zip(_PAIRS, box.low.ravel().tolist(), box.high.ravel().tolist(), strict=False))
        return {key: (i, bound) for i, (pair, *bounds) in numbers for key, bound in zip(pair, bounds, strict=True)}

    def _wanted(self, shape: tuple[int, ...]) -> str:
        low, high = (np.unique(bound) for bound in (self._low, self._high))
        bounds = f"from {low[0]:g} to {high[0]:g}" if len(low) == len(high) == 1 else f"within {self.space}"
        return f"{'numbers' if self.dtype.kind == 'f' else 'integers'} of shape {shape}, {bounds}"

    def _accepts(self, act: Array) -> bool:
        if act.dtype.kind == "f" != self.dtype.kind:
            return False
        if act.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and lies outside then
                act = act.astype(self.dtype)  # as float64, 0.7 lies above the float32 bound 0.7
        box: Any = self.space
        return bool((act >= box.low).all() and (act <= box.high).all())  # not of NaN
