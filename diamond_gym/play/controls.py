"""From keys and the mouse to an action."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym import csgo
from diamond_gym.actions import DIGITS, ActionCodec
from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import keys_to_action

Action = int | npt.NDArray[Any]

_OPPOSITE = (frozenset("ws"), frozenset("ad"))  # in the tables of Atari and CS:GO


def key_table(codec: ActionCodec, meanings: list[str]) -> list[tuple[tuple[str, ...], int]]:
    """The keys held together for each action, the space bar as "space"; without meanings the digits.

    Of actions that are no single numbers there is no table.
    """
    if codec.is_vector:
        return []
    named = {tuple("space" if key == " " else key for key in keys): i for keys, i in keys_to_action(meanings).items()}
    return list(named.items()) or [((digit,), i) for i, digit in zip(range(1, codec.num_inputs), DIGITS, strict=False)]


def key_names(codec: ActionCodec, meanings: list[str]) -> list[str]:
    """The names of the keys that do anything."""
    pressed = codec.keys or [key for keys, _ in key_table(codec, meanings) for key in keys]
    return list(dict.fromkeys(pressed))


def opposites(codec: ActionCodec) -> list[frozenset[str]]:
    """Sets of keys that cancel out: opposite directions, or all that set the same number or choice of an action."""
    if codec.kind == "csgo" or not codec.is_vector:
        return list(_OPPOSITE)
    values: dict[int, dict[str, float]] = {}
    for key, (place, value) in codec.keys.items():
        values.setdefault(place, {})[key] = value
    return [frozenset(keys) for keys in values.values() if len(set(keys.values())) > 1]


def check_action(action: Any, codec: ActionCodec) -> Action:
    """An action as the space has it.

    Raises:
        BadArgument: It is none of the space's.
    """
    try:
        checked = codec.check(action)
    except (ValueError, TypeError):  # a list of lists of different lengths is no array
        raise BadArgument(f"this is not an action of {codec.space}") from None
    return int(checked) if not codec.is_vector else checked.astype(np.int64) if checked.dtype.kind in "iu" else checked


def as_inputs(action: Action, codec: ActionCodec, device: torch.device) -> Tensor:
    """An action as a dream of one row takes it: int64 (1,), or a vector (1, A)."""
    return torch.from_numpy(codec.encode(np.asarray(action)[None])).to(device)


class Controls:
    """The keys that a player holds down, and the mouse's movement since the last step.

    Args:
        codec: Of the actions.
        meanings: A word per action.
    """

    def __init__(self, codec: ActionCodec, meanings: list[str]) -> None:
        self._codec = codec
        self._table = [(frozenset(keys), action) for keys, action in key_table(codec, meanings)]
        self._known = frozenset(key_names(codec, meanings))
        self._opposites = opposites(codec)
        self._named = next((i for i, word in enumerate(meanings) if word == "NOOP"), 0)
        self.release()

    def release(self) -> None:
        """Lets everything go."""
        self._down: frozenset[str] = frozenset()
        self._given: Action | None = None
        self._dx = self._dy = 0.0
        self._buttons = 0

    def hold(self, keys: Iterable[str]) -> None:
        """Holds these keys and no others; of opposite ones none."""
        down = set(keys)
        for apart in self._opposites:
            if len(down & apart) > 1:
                down -= apart
        self._down, self._given = self._known & down, None

    @property
    def keys(self) -> frozenset[str]:
        """The names of the keys that do anything."""
        return self._known

    def give(self, action: Any) -> None:
        """Holds an action instead of keys; None lets it go.

        Raises:
            BadArgument: It is none of the space's.
        """
        self._given = None if action is None else check_action(action, self._codec)

    def move(self, dx: float, dy: float, buttons: int) -> None:
        """Moves the mouse, and holds its buttons: 1 left, 2 right."""
        self._dx, self._dy, self._buttons = self._dx + dx, self._dy + dy, buttons

    @property
    def idle(self) -> bool:
        """Whether nothing is held or moved."""
        return self._given is None and not (self._down or self._buttons & 3 or self._dx or self._dy)

    @property
    def noop(self) -> Action:
        """The action that does nothing."""
        return self._codec.rest if self._codec.is_vector else self._named

    def take(self) -> Action:
        """The action of the next step; the mouse's motion is used up."""
        dx, dy, self._dx, self._dy = self._dx, self._dy, 0.0, 0.0
        if self._given is not None:
            return self._given
        if self._codec.kind == "csgo":
            clicks = {name for i, name in enumerate(csgo.CLICKS) if self._buttons >> i & 1}
            return csgo.action(*(self._down | clicks), mouse_x=dx, mouse_y=dy)
        if self._codec.is_vector:
            return self._codec.held(self._down)
        fitting = [(len(keys), action) for keys, action in self._table if keys <= self._down]
        return max(fitting, key=lambda pair: pair[0])[1] if fitting else self.noop
