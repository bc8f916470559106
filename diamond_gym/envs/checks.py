"""What is asked of an environment, checked before it reaches a model: sampler, modes, actions, masks, reset options."""

import dataclasses
import enum
from os import PathLike, fspath
from typing import Any, Literal, TypedDict

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym import csgo
from diamond_gym.device import settle_threads
from diamond_gym.envs.batch_env import ObsDtype
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.registry.loading import Precision, load_world_model
from diamond_gym.registry.models import Entry, find_again, resolve
from diamond_gym.sampler import QUALITIES, SamplerConfig
from diamond_gym.two_stage import TWO_STAGE_QUALITIES, TwoStageSampler
from diamond_gym.world_model import WorldModel

Quality = Literal["fast", "paper", "fine", "quality"]


class SamplerFields(TypedDict, total=False):
    """The sampler's own fields, each optional: see `diamond_gym.sampler.SamplerConfig`."""

    num_denoising_steps: int
    sigma_min: float
    sigma_max: float
    rho: float
    order: int
    s_churn: float
    s_tmin: float
    s_tmax: float
    s_noise: float
    s_cond: float
    eta: float
    upsampler: "SamplerFields"
    """The same of the second stage, for models of two."""


class DreamArguments(SamplerFields, total=False):
    """What both environments of dreams take alike: see `diamond_gym.envs.DreamVectorEnv`."""

    game: str | None
    model: str | PathLike[str] | WorldModel | Entry | None
    device: str
    precision: Precision
    compile: bool
    quality: Quality | None
    starts: str | int
    denoising_trajectory: bool
    replay: bool
    obs_dtype: ObsDtype
    channels_first: bool


def open_model(
    game: str | None,
    model: str | PathLike[str] | WorldModel | Entry | None,
    device: str,
    precision: Precision,
    compile: bool,
) -> tuple[WorldModel, Entry | None]:
    """The world model that is meant, on its device, and the entry that it was loaded from.

    Raises:
        BadArgument: Neither a game nor a model is given; or compiling was asked for and cannot work.
        ModelNotFound: There is no such model.
        DamagedModel: It cannot be used.
    """
    settle_threads()
    entry: Entry | None = None
    if model is not None and not isinstance(model, str | PathLike | Entry):
        world_model = model  # already in memory, where and as precise as its owner wants it
    elif model is None and game is None:
        raise BadArgument('which dream? Give model="name or folder of a world model", or game="Breakout".')
    else:
        wanted = model if model is not None else game
        assert wanted is not None
        result = find_again(wanted) if isinstance(wanted, Entry) else resolve(wanted)
        world_model = load_world_model(result, device, precision)
        assert world_model.card is not None
        entry = Entry(world_model.card, result.path.absolute())
        if isinstance(wanted, Entry) and entry.dreams != wanted.dreams:
            raise ModelNotFound(f"the model '{wanted.name}' was replaced while it was being read; make a new dream")
    if compile:
        world_model.compile_networks()
    return world_model, entry


def choose_sampler(
    world_model: WorldModel, quality: Quality | None, fields: SamplerFields
) -> SamplerConfig | TwoStageSampler:
    """The sampler of a quality, or the model's own, with single fields replaced; of two stages, both.

    Raises:
        BadArgument: There is no such quality, or a field has an impossible value.
        TypeError: A field is unknown.
    """
    two_stages = world_model.upsampler is not None
    qualities = TWO_STAGE_QUALITIES if two_stages else QUALITIES
    if quality is not None and quality not in qualities:
        raise BadArgument(f"quality must be one of {', '.join(qualities)}, got {quality!r}.")
    own = world_model.card.sampler if world_model.card is not None else {}
    first: dict[str, Any] = {**fields}
    second = first.pop("upsampler", {}) if two_stages else {}
    known = {field.name for field in dataclasses.fields(SamplerConfig)}
    for name in (*first, *second):
        if name not in known:
            raise TypeError(f"got an unexpected keyword argument '{name}'")
    try:
        if not two_stages:
            sampler = SamplerConfig(**own) if quality is None else QUALITIES[quality]
            return dataclasses.replace(sampler, **first)
        both = TWO_STAGE_QUALITIES[quality or "fast"]
        dynamics = SamplerConfig(**own) if own and quality is None else both.dynamics
        return TwoStageSampler(dataclasses.replace(dynamics, **first), dataclasses.replace(both.upsampler, **second))
    except ValueError as error:
        raise BadArgument(f"{error}.") from None


def plain(value: Any) -> Any:
    """An argument as plain data, which survives JSON."""
    if isinstance(value, enum.Enum):
        return value.value
    return fspath(value) if isinstance(value, PathLike) else value


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
