"""What the environments are told, as plain data, made into a model, a sampler and a mode."""

import dataclasses
import enum
from os import PathLike, fspath
from typing import Any, Literal, TypedDict

from diamond_gym.device import settle_threads
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
        found = find_again(wanted) if isinstance(wanted, Entry) else resolve(wanted)
        world_model = load_world_model(found, device, precision)
        assert world_model.card is not None
        entry = Entry(world_model.card, found.path.absolute(), found.bundled)
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
