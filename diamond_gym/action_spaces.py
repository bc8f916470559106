"""Where a world's codec of actions comes from: a card's or a store's table, an environment's space, or recordings."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from diamond_gym.actions import ActionCodec, Box, Discrete, MultiBinary, MultiDiscrete
from diamond_gym.errors import BadArgument, BadConfig
from diamond_gym.schema import MOST_ACTIONS

Array = npt.NDArray[Any]
_WIDEST = 1e9  # of a box: beyond it a bound is a way of saying that there is none


def _csgo() -> ActionCodec:
    from diamond_gym.csgo import CsgoActions  # which few worlds have

    return CsgoActions()


KINDS: Mapping[str, Any] = {
    "multi_binary": (MultiBinary, {"shape"}, set()),
    "multi_discrete": (MultiDiscrete, {"sizes"}, {"shape"}),
    "box": (Box, {"low", "high"}, {"shape", "dtype"}),
    "csgo": (_csgo, set(), set()),
}
"""Kinds that a table may name: the codec, the keys that it needs, and those that it may have."""


def codec_of_table(table: Mapping[str, Any], num_inputs: int | None = None) -> ActionCodec:
    """The codec that a card's or a store's table names.

    Args:
        table: The kind, and what it needs; empty for numbered actions.
        num_inputs: What the networks' table has, if it is known: the number of numbered actions.

    Raises:
        BadConfig: There is no such kind, or a key is missing, unknown or impossible.
    """
    if not table:
        return Discrete(num_inputs or 0)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadConfig(f"key 'kind' of actions is one of {', '.join(KINDS)}, not {str(kind)[:40]!r}")
    make, needed, optional = KINDS[kind]
    given = {key: value for key, value in table.items() if key != "kind"}
    for key in sorted(needed - set(given)):
        raise BadConfig(f"key '{key}' is missing, which {kind} actions need")
    for key in sorted(set(given) - needed - optional):
        raise BadConfig(f"{kind} actions have no key '{key[:40]}'")
    _check_numbers(kind, given)
    try:
        codec: ActionCodec = make(**given)
    except BadConfig:
        raise
    except (ValueError, TypeError, OverflowError, AssertionError) as error:  # of NumPy and Gymnasium
        raise BadConfig(f"{kind} actions cannot be made: {' '.join(str(error).split())[:80]}") from None
    if num_inputs is not None and codec.num_inputs != num_inputs:
        raise BadConfig(f"{kind} actions are {codec.num_inputs} numbers for the networks, not {num_inputs}")
    return codec


def _check_numbers(kind: str, given: Mapping[str, Any]) -> None:
    """Refuses lists that cannot be sizes, shapes or bounds, before anything as large as they say is made."""
    for key in {"shape", "sizes", "low", "high"} & set(given):
        whole, value = key in ("shape", "sizes"), given[key]
        if not isinstance(value, list | tuple) or len(value) > MOST_ACTIONS:
            raise BadConfig(f"key '{key}' of {kind} actions is a list of numbers")
        for number in value:
            right = (
                isinstance(number, int) and 1 <= number <= MOST_ACTIONS if whole else isinstance(number, int | float)
            )
            if not right or isinstance(number, bool) or not abs(number) <= _WIDEST:
                raise BadConfig(f"key '{key}' of {kind} actions cannot hold {str(number)[:40]}")
    counts = {len(given[key]) for key in ("sizes", "low", "high") if key in given}
    if "shape" in given:
        counts.add(math.prod(given["shape"]))
    if len(counts) > 1 or not 1 <= max(counts, default=1) <= MOST_ACTIONS:
        raise BadConfig(f"the lists of {kind} actions have {', '.join(map(str, sorted(counts)))} numbers")
    if any(low > high for low, high in zip(given.get("low", ()), given.get("high", ()), strict=True)):
        raise BadConfig("a box must have its low bounds below its high ones")
    if not re.fullmatch(r"float(32|64)|u?int(8|16|32|64)", str(given.get("dtype", "float32"))):
        raise BadConfig(f"key 'dtype' of {kind} actions is the name of a type, not {str(given['dtype'])[:40]!r}")


def codec_of_space(space: spaces.Space[Any], whose: str = "the environment") -> ActionCodec:
    """The codec of an environment's actions.

    Args:
        space: Its action space.
        whose: What the error calls the environment.

    Raises:
        BadArgument: It is of another kind, or a box without bounds.
    """
    try:
        if isinstance(space, spaces.Discrete) and space.start == 0:
            if space.n > MOST_ACTIONS:
                raise BadArgument(f"{whose} has too many actions: {space.n:,}, of at most {MOST_ACTIONS:,}")
            return Discrete(int(space.n))
        if isinstance(space, spaces.MultiBinary):
            return MultiBinary(space.shape)
        if isinstance(space, spaces.MultiDiscrete) and not np.any(space.start):
            return MultiDiscrete(space.nvec.ravel().tolist(), space.shape)
        if isinstance(space, spaces.Box):
            low, high = (np.asarray(bound, np.float64).ravel() for bound in (space.low, space.high))
            if not (np.abs([low, high]) <= _WIDEST).all():
                raise BadArgument(
                    f"{whose} takes {space}, which has no bounds: gymnasium.wrappers.TransformAction can add them"
                )
            return Box(low.tolist(), high.tolist(), space.shape, np.dtype(space.dtype).name)
    except BadConfig as error:
        raise BadArgument(f"{whose}: {error}") from None
    raise BadArgument(f"{whose} takes {space}: actions are Discrete or MultiDiscrete from 0 on, MultiBinary, or a Box")


def codec_of_model(card: ActionCodec | None, num_inputs: int, vectors: bool) -> ActionCodec:
    """The codec of a model: its card's, or what its starts suggest where the card says nothing.

    Args:
        card: What the card says, if there is one.
        num_inputs: Rows of the networks' table.
        vectors: Whether the starts hold vectors, and not numbers.
    """
    if card is not None and card.is_vector:
        return card
    return MultiBinary([num_inputs]) if vectors else Discrete(num_inputs)


def codec_of_recordings(act: Array) -> ActionCodec:
    """The codec that recorded vectors (N, ...) suggest where nothing names one: their own range.

    Zeros and ones are buttons, other whole numbers from 0 on are choices, and all others lie in a box.
    """
    flat = act.reshape(len(act), -1)
    low, high = flat.min(0), flat.max(0)
    if act.dtype.kind == "b" or (act.dtype.kind in "iu" and low.min() >= 0 and high.max() <= 1):
        return MultiBinary(act.shape[1:])
    if act.dtype.kind in "iu" and low.min() >= 0 and high.max() < MOST_ACTIONS:
        return MultiDiscrete((high + 1).tolist(), act.shape[1:])
    return Box(low.tolist(), high.tolist(), act.shape[1:], act.dtype.name)
