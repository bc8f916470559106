"""An environment of the user's, held to what it declares: where it breaks that, one line names it and says how."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from diamond_gym.errors import BadArgument, one_line

_GYMNASIUM = ("gymnasium.core", "gymnasium.utils.", "gymnasium.wrappers.")
_LARGEST = float(np.finfo(np.float32).max)  # rewards are stored as float32


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Passes on what an environment answers, if its frames, rewards, flags and lives are such as can be recorded.

    Args:
        env: The environment, whose frames are as its observation space says.
        name: What errors call it, its id.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name, self._frame, self._steps = name, env.observation_space, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins a game.

        Raises:
            BadArgument: The environment does not answer as it declares.
        """
        result: Any = held_to_interface(self._name, lambda: self.env.reset(seed=seed, options=options))
        if not isinstance(result, tuple) or len(result) != 2:
            raise BadArgument(f"{self._name}: reset gives {_kind(result)}, not a frame and info")
        self._steps = 0
        self._check(*result)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Plays a step; raises as `reset` does."""
        result: Any = held_to_interface(self._name, lambda: self.env.step(action))
        if not isinstance(result, tuple) or len(result) != 5:
            raise BadArgument(
                f"{self._name}: step gives {_kind(result)}, not a frame, a reward, terminated, truncated and info"
            )
        obs, reward, terminated, truncated, info = result
        at = f"of step {self._steps} of a game"
        if not _is_number(reward) or not abs(float(reward)) <= _LARGEST:  # NaN is not below anything
            raise BadArgument(f"{self._name}: the reward {at} is {one_line(repr(reward))}, not a finite number")
        for word, flag in (("terminated", terminated), ("truncated", truncated)):
            if not _is_number(flag):
                raise BadArgument(f"{self._name}: {word} {at} is {one_line(repr(flag))}, neither true nor false")
        self._check(obs, info)
        self._steps += 1
        return result

    def _check(self, obs: Any, info: Any) -> None:
        shape, dtype = self._frame.shape, self._frame.dtype
        if not isinstance(obs, np.ndarray) or (obs.shape, obs.dtype) != (shape, dtype):
            raise BadArgument(f"{self._name} declares frames {dtype} {shape}, but shows {_kind(obs)}")
        if not isinstance(info, dict):
            raise BadArgument(f"{self._name}: info is {_kind(info)}, not a dictionary")
        if "lives" in info and not (_is_number(info["lives"]) and np.isfinite(info["lives"])):
            raise BadArgument(f"{self._name}: info['lives'] is {one_line(repr(info['lives']))}, not a number")


def held_to_interface(name: str, call: Callable[[], Any]) -> Any:
    """What a call of an environment gives; where Gymnasium stumbles over it, one line names the environment.

    An error of the environment's own code goes on as it is: its traceback shows where to look.

    Raises:
        BadArgument: Gymnasium's wrappers cannot call the environment, or cannot take what it answers.
    """
    try:
        return call()
    except (TypeError, ValueError, AssertionError, AttributeError, NotImplementedError) as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        if last is None or not str(last.tb_frame.f_globals.get("__name__")).startswith(_GYMNASIUM):
            raise
        raise BadArgument(f"{name} does not keep to Gymnasium's interface: {one_line(error)}") from error


def _is_number(value: Any) -> bool:
    """Whether a value is one number, true and false included."""
    if isinstance(value, int | float):
        return True
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    return array.ndim == 0 and array.dtype.kind in "biuf"


def _kind(value: Any) -> str:
    """What an answer is, in words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
