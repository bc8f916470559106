"""What batches of dreams and of real games share: the attributes of their rows, and the form of observations."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from diamond_gym.errors import BadArgument

Array = npt.NDArray[Any]
ObsDtype = Literal["uint8", "float32"]
Autoreset = Literal["NextStep", "SameStep", "Disabled"] | AutoresetMode

_SINGLE = {"observation_space": "single_observation_space", "action_space": "single_action_space"}
_ROW_METHODS = ("get_action_meanings", "render")


@dataclass(frozen=True)
class ObsFormat:
    """How observations are given out.

    Attributes:
        dtype: "uint8" for levels from 0 to 255, "float32" for the same divided by 255.
        channels_first: Whether they are (C, H, W), as torch's convolutions take them, instead of (H, W, C).
    """

    dtype: ObsDtype = "uint8"
    channels_first: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ("uint8", "float32"):
            raise BadArgument(f'obs_dtype must be "uint8" or "float32", got {self.dtype!r}.')
        if self.channels_first not in (True, False):
            raise BadArgument(f"channels_first must be True or False, got {self.channels_first!r}.")

    def space(self, height: int, width: int, channels: int) -> gym.spaces.Box:
        """The space of one observation."""
        shape = (channels, height, width) if self.channels_first else (height, width, channels)
        return gym.spaces.Box(0, 255 if self.dtype == "uint8" else 1, shape, np.dtype(self.dtype).type)

    def __call__(self, pixels: Array) -> Array:
        """Frames uint8 (..., H, W, C) as observations, in memory of their own."""
        moved = np.moveaxis(pixels, -1, -3) if self.channels_first else pixels
        obs = np.array(moved, self.dtype, order="C")
        return obs if self.dtype == "uint8" else np.divide(obs, np.float32(255), out=obs)


class Rows:
    """What a vector environment without single ones inside answers for its rows, as `SyncVectorEnv` does.

    It is mixed in: skrl looks for Gymnasium's `VectorEnv` among the direct bases of an environment's class.
    """

    num_envs: int
    _meanings: Sequence[str]
    _row_attributes: dict[str, list[Any]]

    def get_action_meanings(self) -> list[str]:
        """A word for each action, the same in all rows, as the single environment has them."""
        return list(self._meanings)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What each row answers: an attribute, or what the method `get_action_meanings` or `render` returns.

        Raises:
            BadArgument: The method acts on all rows at once.
        """
        if name in (own := self.__dict__.get("_row_attributes", {})):
            return tuple(own[name])
        value = getattr(self, _SINGLE.get(name, name))
        if inspect.ismethod(value):
            if name not in _ROW_METHODS:
                raise BadArgument(f"{name} acts on all rows at once: use the batch's own {name}().")
            value = value(*args, **kwargs)
        by_row = name == "render" and isinstance(value, tuple)
        by_row |= isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,)
        return tuple(value) if by_row else (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each row; most belong to the whole batch and are the same in all."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every row: a list or tuple has one value each, anything else is for all.

        Raises:
            ValueError: There are not as many values as rows.
            BadArgument: The rows share the attribute, and the values differ; or it cannot be set.
        """
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"{self.num_envs} rows need {self.num_envs} values, got {len(each)}.")
        if not hasattr(self, name):
            self.__dict__.setdefault("_row_attributes", {})[name] = each
            return
        if name in _SINGLE or name == "num_envs" or inspect.ismethod(getattr(self, name)):
            raise BadArgument(f"{name} cannot be set: make another batch.")
        if any(value is not each[0] and value != each[0] for value in each):
            raise BadArgument(f"the rows share {name}: give one value for all.")
        setattr(self, name, each[0])
