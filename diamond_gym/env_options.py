"""What comes in through `step` and `reset`, checked before it reaches the model."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

RESET_OPTIONS = ("reset_mask", "obs", "act", "start")


def check_actions(actions: Any, space: gym.Space[Any]) -> npt.NDArray[np.int64]:
    """Actions of all rows as int64.

    Raises:
        gymnasium.error.InvalidAction: They are not of the batched space.
    """
    act = np.asarray(actions)
    if isinstance(space, gym.spaces.MultiDiscrete):
        wanted = f"{space.shape[0]} integers from 0 to {highest_action(space)}"
    else:
        wanted = f"zeros and ones of shape {space.shape}"
    if (
        act.shape != space.shape
        or act.dtype.kind not in "iu"
        or act.min() < 0
        or act.max() > highest_action(space)
    ):
        values = " ".join(np.array2string(act, threshold=8).split())
        raise gym.error.InvalidAction(f"actions must be {wanted}, got {values} ({act.dtype} {act.shape}).")
    return act.astype(np.int64)


def highest_action(space: gym.Space[Any]) -> int:
    """The largest number in an action of a batched space: of discrete actions, or 1 of multi-hot ones."""
    return int(space.nvec.flat[0]) - 1 if isinstance(space, gym.spaces.MultiDiscrete) else 1


def check_mask(mask: Any, num_envs: int) -> npt.NDArray[np.bool_]:
    """The rows to reset; all of them without a mask.

    Raises:
        TypeError: It is not a numpy array of bool.
        ValueError: It has the wrong length or names no row.
    """
    if mask is None:
        return np.ones(num_envs, dtype=np.bool_)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError("options['reset_mask'] must be a numpy array of bool.")
    if mask.shape != (num_envs,):
        raise ValueError(f"options['reset_mask'] must have shape ({num_envs},), got {mask.shape}.")
    if not mask.any():
        raise ValueError("options['reset_mask'] must name at least one row.")
    return mask.copy()


def check_beginning(options: dict[str, Any], space: gym.Space[Any], num_starts: int) -> dict[str, Tensor]:
    """The keywords for `Dream.reset` that say where to begin: none, frames with actions, or a start.

    Args:
        options: Those of `reset`.
        space: The batched action space.
        num_starts: Stored starts.

    Raises:
        ValueError: An option is unknown, or of the wrong shape, type or range.
    """
    for name in options:
        if name not in RESET_OPTIONS:
            raise ValueError(f"options know {', '.join(RESET_OPTIONS)}, not {name!r}.")
    assert space.shape is not None
    num_envs, highest = space.shape[0], highest_action(space)
    obs, act, start = (options.get(name) for name in ("obs", "act", "start"))
    if (obs is None) != (act is None) or (obs is not None and start is not None):
        raise ValueError("options take 'obs' together with 'act', or 'start' alone.")
    if obs is not None:
        given = {name: _as_tensor(name, value) for name, value in (("obs", obs), ("act", act))}
        discrete = not given["act"].is_floating_point()
        if discrete and given["act"].numel() and not 0 <= given["act"].min() <= given["act"].max() <= highest:
            raise ValueError(f"options['act'] must be actions from 0 to {highest}, got {act}.")
        return given
    if start is None:
        return {}
    index = np.asarray(start)
    if index.shape not in ((), (num_envs,)) or index.dtype.kind not in "iu":
        raise ValueError(f"options['start'] must be an index or {num_envs} of them, got {start!r}.")
    if index.min() < 0 or index.max() >= num_starts:
        raise ValueError(f"options['start'] must be from 0 to {num_starts - 1}, got {start!r}.")
    return {"start": torch.from_numpy(index.astype(np.int64))}


def _as_tensor(name: str, value: Any) -> Tensor:
    array = np.array(value)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"options['{name}'] must be an array of numbers, got {array.dtype}.")
    return torch.from_numpy(array)
