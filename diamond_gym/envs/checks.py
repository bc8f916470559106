"""Checks what is asked of a dream before it reaches a model: which model, its sampler, actions, where it begins."""

import dataclasses
import enum
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from diamond_gym.actions import ActionCodec
from diamond_gym.device import settle_threads
from diamond_gym.envs.arguments import ObsDtype, known_options
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.frames import SeenColours
from diamond_gym.registry.loading import Precision, load_world_model
from diamond_gym.registry.models import Entry, find_again, resolve
from diamond_gym.sampler import QUALITIES, SamplerConfig, check_sampler, objective_of
from diamond_gym.schema import SamplerFields
from diamond_gym.starts import PADDING
from diamond_gym.world_model import WorldModel, check_steps

if TYPE_CHECKING:
    from diamond_gym.two_stage import TwoStageSampler

Quality = Literal["fast", "paper", "fine", "quality"]


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
    hallucination: bool
    replay: bool
    obs_dtype: ObsDtype
    channels_first: bool


def start_colours(model: WorldModel) -> SeenColours:
    """Collects the colours of a model's start frames, on its device.

    Raises:
        BadArgument: The model has two stages, or frames of more than three channels.
    """
    assert model.starts is not None
    if model.upsampler is not None or model.starts.obs.shape[-1] > 3:
        raise BadArgument(
            "hallucination is for models of one stage whose frames have at most three channels: leave it out."
        )
    frames = torch.from_numpy(model.starts.obs).flatten(0, 1)
    shown = (frames != PADDING).flatten(1).any(dim=1)
    return SeenColours(frames[shown].movedim(-1, 1).to(model.device))


def open_model(
    game: str | None,
    model: str | PathLike[str] | WorldModel | Entry | None,
    device: str,
    precision: Precision,
    compile: bool,
) -> tuple[WorldModel, Entry | None]:
    """Finds the world model that is meant, on its device, and the entry that it was loaded from.

    Raises:
        BadArgument: Neither a game nor a model is given, or a model of another game; or compiling was asked for and
            cannot work.
        ModelNotFound: There is no such model.
        DamagedModel: It cannot be used.
    """
    settle_threads()
    entry: Entry | None = None
    if model is not None and not isinstance(model, str | PathLike | Entry):
        world_model = model  # already in memory, where and as precise as its owner wants it
        if game is not None and model.card is not None:
            model.card.check_game(game)
    else:
        wanted = game if model is None else model
        if wanted is None:
            raise BadArgument('which dream? Give model="name or folder of a world model", or game="Breakout".')
        result = find_again(wanted) if isinstance(wanted, Entry) else resolve(wanted)
        if model is not None:
            result.card.check_game(game)
        world_model = load_world_model(result, device, precision)
        assert world_model.card is not None
        entry = Entry(world_model.card, result.path.absolute())
        if isinstance(wanted, Entry) and entry.dreams != wanted.dreams:
            raise ModelNotFound(f"the model '{wanted.name}' was replaced while it was being read; make a new dream")
    if compile:
        world_model.compile_networks()
    return world_model, entry


def choose_sampler(
    world_model: WorldModel, quality: str | None, fields: SamplerFields
) -> "SamplerConfig | TwoStageSampler":
    """The sampler of a quality, or the model's own, with single fields replaced; of two stages, both.

    Raises:
        BadArgument: There is no such quality, or a field has an impossible value.
        TypeError: A field is unknown.
    """
    own = {} if world_model.card is None else world_model.card.sampler
    two_stages, qualities = world_model.upsampler is not None, dict[str, Any](QUALITIES)
    if two_stages:
        from diamond_gym.two_stage import TWO_STAGE_QUALITIES, sampler_of

        qualities = dict(TWO_STAGE_QUALITIES)
    if quality is not None and quality not in qualities:
        raise BadArgument(f"quality must be one of {', '.join(qualities)}, got {quality!r}.")
    first: dict[str, Any] = {**fields}
    second = first.pop("upsampler", {}) if two_stages else {}
    known = {field.name for field in dataclasses.fields(SamplerConfig)}
    for name in (*first, *second):
        if name not in known:
            raise TypeError(f"got an unexpected keyword argument '{name}'")
    try:
        if two_stages:
            both: TwoStageSampler = sampler_of(own) if quality is None else qualities[quality]
            upsampler = dataclasses.replace(both.upsampler, **second)
            return dataclasses.replace(both, dynamics=dataclasses.replace(both.dynamics, **first), upsampler=upsampler)
        config: SamplerConfig = SamplerConfig(**own) if quality is None else qualities[quality]
        sampler = dataclasses.replace(config, **first)
        check_sampler(sampler, objective_of(world_model.denoiser))
        check_steps(world_model.card, sampler)
        return sampler
    except ValueError as error:
        raise BadArgument(f"{error}.") from None


def plain(value: Any) -> Any:
    """An argument as plain data, which survives JSON."""
    if isinstance(value, enum.Enum):
        return value.value
    return fspath(value) if isinstance(value, PathLike) else value


def past_actions(codec: ActionCodec, act: Any) -> Tensor:
    """The actions between given frames as the model takes them.

    Raises:
        ValueError: They are none of its actions.
    """
    if codec.is_vector:
        array = np.asarray(act)
        try:
            return torch.from_numpy(codec.encode(codec.check(array, array.shape[: array.ndim - len(codec.shape)])))
        except ValueError as error:
            raise ValueError(f"options['act']: an action is {codec.words}; {error}.") from None
    tensor = as_tensor("act", act)
    if not tensor.is_floating_point() and tensor.numel() and not 0 <= tensor.min() <= tensor.max() <= codec.highest:
        raise ValueError(f"options['act'] must be actions from 0 to {codec.highest}, got {act}.")
    return tensor


def check_beginning(options: dict[str, Any], codec: ActionCodec, num_envs: int, num_starts: int) -> dict[str, Tensor]:
    """The keywords for `Dream.reset` that say where to begin: none, frames with actions, or a start.

    Args:
        options: Those of `reset` besides `reset_mask`.
        codec: Of the model's actions.
        num_envs: Rows.
        num_starts: Stored starts.

    Raises:
        ValueError: An option is unknown, or of the wrong shape, type or range.
    """
    known_options(options, "reset_mask", "obs", "act", "start")
    obs, act, start = (options.get(name) for name in ("obs", "act", "start"))
    if (obs is None) != (act is None) or (obs is not None and start is not None):
        raise ValueError("options take 'obs' together with 'act', or 'start' alone.")
    if obs is not None:
        return {"obs": as_tensor("obs", obs), "act": past_actions(codec, act)}
    if start is None:
        return {}
    index = np.asarray(start)
    if index.shape not in ((), (num_envs,)) or index.dtype.kind not in "iu":
        raise ValueError(f"options['start'] must be an index or {num_envs} of them, got {start!r}.")
    if index.min() < 0 or index.max() >= num_starts:
        raise ValueError(f"options['start'] must be from 0 to {num_starts - 1}, got {start!r}.")
    return {"start": torch.from_numpy(index.astype(np.int64))}


def as_tensor(name: str, value: Any) -> Tensor:
    """An option of numbers as a tensor; ValueError for others."""
    array = np.array(value)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"options['{name}'] must be an array of numbers, got {array.dtype}.")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # of which torch can compare nothing
        array = np.minimum(array, min(np.iinfo(np.int64).max, np.iinfo(array.dtype).max)).astype(np.int64)
    return torch.from_numpy(array)
