"""From keys and the mouse to an action."""

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym import csgo
from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import keys_to_action

Action = int | npt.NDArray[np.int64]

_OPPOSITE = (("w", "s"), ("a", "d"))
_DIGITS = "1234567890"


def key_table(space: gym.Space[Any], meanings: list[str]) -> list[tuple[tuple[str, ...], int]]:
    """The keys held together for each action, the space bar as "space"; without meanings the digits.

    Of actions that are no single numbers there is no table.
    """
    if not isinstance(space, gym.spaces.Discrete):
        return []
    named = {tuple("space" if key == " " else key for key in keys): i for keys, i in keys_to_action(meanings).items()}
    return list(named.items()) or [((digit,), i) for i, digit in zip(range(1, int(space.n)), _DIGITS, strict=False)]


def key_names(space: gym.Space[Any], meanings: list[str]) -> list[str]:
    """The names of the keys that do anything."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return list(csgo.BUTTONS)
    if isinstance(space, gym.spaces.MultiBinary):
        return list(_DIGITS[: int(space.shape[0])])
    return list(dict.fromkeys(key for keys, _ in key_table(space, meanings) for key in keys))


def check_action(action: Any, space: gym.Space[Any]) -> Action:
    """An action as the space has it.

    Raises:
        BadArgument: It is none of the space's.
    """
    array = np.asarray(action)
    if array.dtype.kind not in "iu" or array.shape != space.shape or not space.contains(array.astype(space.dtype)):
        raise BadArgument(f"this is no action of {space}")
    return int(array) if array.ndim == 0 else array.astype(np.int64)


def as_inputs(action: Action, space: gym.Space[Any], device: torch.device) -> Tensor:
    """An action as a dream of one row takes it: int64 (1,) or (1, A)."""
    encoded = csgo.encode(action) if isinstance(space, gym.spaces.MultiDiscrete) else np.asarray(action)
    return torch.from_numpy(encoded[None]).to(device)


class Controls:
    """The keys that a player holds down, and the mouse's movement since the last step.

    Args:
        space: The action space.
        meanings: A word per action.
    """

    def __init__(self, space: gym.Space[Any], meanings: list[str]) -> None:
        self._space = space
        self._table = [(frozenset(keys), action) for keys, action in key_table(space, meanings)]
        self._known = frozenset(key_names(space, meanings))
        self._named = next((i for i, word in enumerate(meanings) if word == "NOOP"), 0)
        self.release()

    def release(self) -> None:
        """Lets everything go."""
        self._down: frozenset[str] = frozenset()
        self._given: Action | None = None
        self._dx = self._dy = 0.0
        self._buttons = 0

    def hold(self, keys: Iterable[str]) -> None:
        """Holds these keys and no others; of two opposite ones neither."""
        down = set(keys)
        for pair in _OPPOSITE:
            if down.issuperset(pair):
                down -= set(pair)
        self._down, self._given = self._known & down, None

    def give(self, action: Any) -> None:
        """Holds an action instead of keys; None lets it go.

        Raises:
            BadArgument: It is none of the space's.
        """
        self._given = None if action is None else check_action(action, self._space)

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
        if isinstance(self._space, gym.spaces.Discrete):
            return self._named
        if isinstance(self._space, gym.spaces.MultiDiscrete):
            return csgo.action()
        return np.zeros(self._space.shape or (), np.int64)

    def take(self) -> Action:
        """The action of the next step; the mouse's motion is used up."""
        dx, dy, self._dx, self._dy = self._dx, self._dy, 0.0, 0.0
        if self._given is not None:
            return self._given
        if isinstance(self._space, gym.spaces.MultiDiscrete):
            clicks = {name for i, name in enumerate(csgo.CLICKS) if self._buttons >> i & 1}
            return csgo.action(*(self._down | clicks), mouse_x=dx, mouse_y=dy)
        if isinstance(self._space, gym.spaces.MultiBinary):
            return np.array([key in self._down for key in _DIGITS[: int(self._space.shape[0])]], np.int64)
        fitting = [(len(keys), action) for keys, action in self._table if keys <= self._down]
        return max(fitting, key=lambda pair: pair[0])[1] if fitting else self.noop
