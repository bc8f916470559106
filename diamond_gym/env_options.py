"""What comes in through `step` and `reset`, checked before it reaches the model."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym import csgo
from diamond_gym.world_model import WorldModel

RESET_OPTIONS = ("reset_mask", "obs", "act", "start")


def check_actions(actions: Any, space: gym.Space[Any]) -> npt.NDArray[np.int64]:
    """Actions of all rows as the model takes them.

    Returns:
        int64 (B,), or multi-hot (B, A); CS:GO's come encoded.

    Raises:
        gymnasium.error.InvalidAction: They are not of the batched space.
    """
    act = np.asarray(actions)
    if composed(space):
        wanted = f"integers of shape {space.shape}, each row below {csgo.SIZES}"
    elif isinstance(space, gym.spaces.MultiDiscrete):
        wanted = f"{space.shape[0]} integers from 0 to {highest_action(space)}"
    else:
        wanted = f"zeros and ones of shape {space.shape}"
    if act.shape != space.shape or act.dtype.kind not in "iu" or act.min() < 0 or (act > highest_action(space)).any():
        values = " ".join(np.array2string(act, threshold=8).split())
        raise gym.error.InvalidAction(f"actions must be {wanted}, got {values} ({act.dtype} {act.shape}).")
    return csgo.encode(act) if composed(space) else act.astype(np.int64)


def action_space(model: WorldModel, multi_hot: bool) -> gym.Space[Any]:
    """The space of one action: discrete; CS:GO's keys, clicks and mouse (`diamond_gym.csgo`); or zeros and ones."""
    if not multi_hot:
        return gym.spaces.Discrete(model.num_actions)
    if model.upsampler is not None and model.num_actions == csgo.NUM_INPUTS:
        return gym.spaces.MultiDiscrete(list(csgo.SIZES))
    return gym.spaces.MultiBinary(model.num_actions)


def action_meanings(model: WorldModel, space: gym.Space[Any]) -> list[str]:
    """A word for each action of a model; of CS:GO, the names of an action's parts."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return list(csgo.NAMES)
    return [] if model.card is None else list(model.card.action_meanings)


def composed(space: gym.Space[Any]) -> bool:
    """Whether actions of a batched space are CS:GO's, which are encoded for the model.

    Gymnasium batches a `MultiDiscrete` as a `Box` of integers, and no other action space so.
    """
    return isinstance(space, gym.spaces.Box)


def highest_action(space: gym.Space[Any]) -> int | npt.NDArray[np.int64]:
    """The largest numbers in an action of a batched space: of discrete actions, of CS:GO's, or 1 of multi-hot ones."""
    if composed(space):
        return np.array(csgo.SIZES) - 1
    return int(space.nvec.flat[0]) - 1 if isinstance(space, gym.spaces.MultiDiscrete) else 1


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
    num_envs, highest = space.shape[0], 1 if composed(space) else highest_action(space)
    obs, act, start = (options.get(name) for name in ("obs", "act", "start"))
    if (obs is None) != (act is None) or (obs is not None and start is not None):
        raise ValueError("options take 'obs' together with 'act', or 'start' alone.")
    if obs is not None:
        act = csgo.encode(np.asarray(act)) if composed(space) else act
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
