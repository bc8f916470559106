"""The fields that a model's configuration may have and their bounds, checked before anything is made of it.

One schema for the tables of a card, of a released checkpoint and of the command line: the configuration classes check
themselves with it, and cards are checked without loading torch.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypedDict, TypeVar

from diamond_gym.errors import BadArgument, BadConfig

LARGEST, LARGEST_IMAGE, MOST_ACTIONS, MOST_LEVELS, DEEPEST = 1 << 13, 1 << 12, 1 << 12, 12, 64
Config = TypeVar("Config")
_DEEPEST_TABLE, _MOST_VALUES, _INT64 = 16, 100_000, 1 << 63


@dataclass(frozen=True)
class Number:
    """A number between two bounds, which are allowed themselves."""

    low: float
    high: float
    whole: bool = True
    optional: bool = False

    def __str__(self) -> str:
        return f"a {'whole ' * self.whole}number from {self.low:g} to {self.high:.15g}"

    def accepts(self, value: object) -> bool:
        """Whether a value is such a number; NaN is none, and neither is true."""
        kinds = int if self.whole else int | float
        number = isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high
        return number or (self.optional and value is None)


@dataclass(frozen=True)
class Levels:
    """A list of whole numbers, one for each level of a network."""

    each: Number

    def __str__(self) -> str:
        return f"a list of 1 to {MOST_LEVELS} whole numbers from {self.each.low:g} to {self.each.high:g}"

    def accepts(self, value: object) -> bool:
        """Whether a value is such a list."""
        return isinstance(value, list | tuple) and 0 < len(value) <= MOST_LEVELS and all(map(self.each.accepts, value))


@dataclass(frozen=True)
class Kind:
    """Any other kind of value: what an error calls it, and the test."""

    wanted: str
    accepts: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.wanted


_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_NAME = Kind("the name of a network", lambda value: value is None or (isinstance(value, str) and len(value) <= 60))
OBJECTIVES = ("edm", "ddpm", "flow")
"""What a denoiser may learn to predict, by name: see `diamond_gym.networks.preconditioning`."""
OBJECTIVE_SAMPLER = ("num_denoising_steps",)
"""The fields of a sampler that every objective knows; the others are EDM's."""
_OBJECTIVE = Kind(f"one of {', '.join(OBJECTIVES)}", lambda value: value is None or value in OBJECTIVES)
Fields = Mapping[str, "Number | Levels | Kind | Fields"]

_SIZE, _ACTIONS = Number(1, LARGEST), Number(1, MOST_ACTIONS, optional=True)
_UNET: Fields = {
    "cond_channels": _SIZE,
    "depths": Levels(Number(1, DEEPEST)),
    "channels": Levels(_SIZE),
    "attn_depths": Levels(Number(0, DEEPEST)),
    "num_actions": _ACTIONS,
    "img_channels": Number(1, 64),
    "patch_size": Number(1, 64),
}
INNER_MODEL: Fields = {
    **_UNET,
    "num_steps_conditioning": Number(1, 256),
    "num_actions_conditioning": Number(1, 256, optional=True),
    "num_extra_images": Number(0, 16),
    "noise_cond": _FLAG,
    "network": _NAME,
}
DENOISER: Fields = {
    "inner_model": INNER_MODEL,
    "sigma_data": Number(1e-3, 1e3, whole=False),
    "sigma_offset_noise": Number(0, 1e3, whole=False),
    "noise_previous_obs": _FLAG,
    "upsampling_factor": Number(1, 64, optional=True),
    "residual": _FLAG,
    "change_threshold": Number(0, 255, whole=False),
    "objective": _OBJECTIVE,
}
_FRAME: Fields = {"img_size": Number(1, LARGEST_IMAGE), "img_width": Number(1, LARGEST_IMAGE, optional=True)}
REWARD_END: Fields = {**_UNET, **_FRAME, "lstm_dim": _SIZE, "difference": _FLAG}
ACTOR_CRITIC: Fields = {
    "lstm_dim": _SIZE,
    "img_channels": Number(1, 64),
    **_FRAME,
    "channels": Levels(_SIZE),
    "down": Levels(Number(0, 1)),
    "num_actions": _ACTIONS,
}
_SIGMA = Number(1e-6, 1e6, whole=False)
_STRENGTH = Number(0, 1e6, whole=False)
SAMPLER: Fields = {
    "num_denoising_steps": Number(1, 10_000),
    "sigma_min": _SIGMA,
    "sigma_max": _SIGMA,
    "rho": Number(1e-3, 1e3, whole=False),
    "order": Number(1, 2),
    "s_churn": _STRENGTH,
    "s_tmin": _STRENGTH,
    "s_tmax": Number(0, math.inf, whole=False),
    "s_noise": _STRENGTH,
    "s_cond": _STRENGTH,
    "eta": Number(0, 1, whole=False),
}


class SamplerFields(TypedDict, total=False):
    """The sampler's own fields, each optional: see `diamond_gym.sampler.SamplerConfig`. Type checkers read them."""

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


TRAINING_SIGMA: Fields = {
    "loc": Number(-20, 20, whole=False),
    "scale": Number(0, 20, whole=False),
    "sigma_min": _SIGMA,
    "sigma_max": _SIGMA,
}
_PART = Number(0, 1, whole=False)
AGENT_LOSS: Fields = {
    "gamma": _PART,
    "lambda_": _PART,
    "weight_value_loss": _STRENGTH,
    "weight_entropy_loss": _STRENGTH,
}
NETWORKS: Mapping[str, Fields] = {
    "denoiser": DENOISER,
    "reward_end": REWARD_END,
    "actor_critic": ACTOR_CRITIC,
    "upsampler": DENOISER,
}


def check_table(table: Mapping[str, Any], fields: Fields, above: str = "") -> None:
    """Checks a table of fields; those that are left out mean their defaults.

    Args:
        table: The values.
        fields: What they may be.
        above: What goes before a field's name in an error, such as `"denoiser."`.

    Raises:
        BadConfig: A field is unknown, of another kind, out of bounds, or does not fit another.
    """
    for key, value in table.items():
        if key not in fields:
            raise BadConfig(f"unknown key {_shown(above + key)}")
        wanted = fields[key]
        if isinstance(wanted, Mapping):
            if not isinstance(value, Mapping):
                raise BadConfig(f"key '{above}{key}' must be a table, not {_shown(value)}")
            check_table(value, wanted, f"{above}{key}.")
        elif not wanted.accepts(value):
            raise BadConfig(f"key '{above}{key}' must be {wanted}, not {_shown(value)}")
    lists = {key: table[key] for key, wanted in fields.items() if isinstance(wanted, Levels) and key in table}
    if len({len(value) for value in lists.values()}) > 1:
        lengths = ", ".join(f"{above}{key} has {len(value)}" for key, value in lists.items())
        raise BadConfig(f"these lists describe the same levels, but {lengths}")


def check_config(config: Any, fields: Fields) -> None:
    """Checks a configuration's own fields, as its class does when one is made; nested ones have done so themselves.

    Raises:
        BadConfig: A field cannot be used.
    """
    own = {key: wanted for key, wanted in fields.items() if not isinstance(wanted, Mapping)}
    check_table({key: getattr(config, key) for key in own}, own)


def fill_in(config: Config, option: str, **world: Any) -> Config:
    """A configuration with the fields filled in that follow from a world.

    Args:
        config: A dataclass, whose defaults stand for what is not known yet.
        option: How its fields' options begin, for errors.
        **world: The fields' values.

    Raises:
        BadArgument: One of them was given another value already, which would be lost.
    """
    defaults = {each.name: each.default for each in fields(config)}  # type: ignore[arg-type]
    for name, value in world.items():
        if (given := getattr(config, name)) not in (defaults[name], value):
            what = f"--{option}.{name}".replace("_", "-")
            raise BadArgument(f"{what} follows from the world and must be {value}, not {given}: leave it out")
    return replace(config, **world)  # type: ignore[type-var]


def parameters(networks: Mapping[str, Mapping[str, Any]]) -> int:
    """About how many numbers the networks of checked tables hold: rather more than fewer, as a bound on memory."""
    total = 0
    for name, table in networks.items():
        table = {**table, **table.get("inner_model", {})}
        channels, cond = table.get("channels", [64] * 4), table.get("cond_channels", 256)
        images = table.get("num_steps_conditioning", 4) + table.get("num_extra_images", 0) + 1
        patch, before = table.get("patch_size", 1), channels[0]
        total += 9 * images * table.get("img_channels", 3) * patch**2 * before + 3 * cond**2
        total += (table.get("num_actions") or 0) * max(cond, table.get("lstm_dim", 0))
        for depth, width in zip(table.get("depths", [2] * len(channels)), channels, strict=False):
            wide = max(before, width)
            total += (2 * depth + 3) * (24 * wide**2 + 5 * cond * wide)
            before = width
        if name in ("reward_end", "actor_critic"):  # what is left of the image goes into an LSTM
            halvings = sum(table["down"]) if "down" in table else len(channels) - 1
            h = table.get("img_size", 64)
            area = math.prod(-(-side // (patch * 2**halvings)) for side in (h, table.get("img_width") or h))
            total += 4 * table.get("lstm_dim", 512) * (channels[-1] * area + 2 * table.get("lstm_dim", 512))
    return total


def check_plain(table: Any) -> None:
    """Checks that a table read from a file is plain data of limited size: texts, 64-bit numbers, lists and tables.

    Raises:
        BadConfig: It is nested too deeply, too large, or holds something else.
    """
    count, left = 0, [("", table, 0)]
    while left:
        where, value, depth = left.pop()
        count += 1
        if depth > _DEEPEST_TABLE:
            raise BadConfig("nested too deeply")
        if count > _MOST_VALUES:
            raise BadConfig("it holds too many values")
        if isinstance(value, Mapping | list | tuple):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            left += [(f"{where}.{key}" if where else str(key), item, depth + 1) for key, item in items]
        elif isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise BadConfig(f"key {_shown(where)} is a number of more than 64 bits")
        elif not isinstance(value, str | int | float | bool | None):
            raise BadConfig(f"key {_shown(where)} is a {type(value).__name__}, which has no place here")


def _shown(value: object) -> str:
    """A value as an error shows it, texts in quotes, shortened; Python refuses to write very large numbers out."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "that"
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_least(command: Any, **least: int) -> None:
    """Refuses options that are smaller than they may be, as in `check_least(self, steps=1, seed=0)`.

    Args:
        command: The command; of a list every number is checked, and what was left out is not.
        **least: The smallest value of each option, by its attribute.

    Raises:
        BadArgument: The first that is smaller; so do the other checks here.
    """
    for name, smallest in least.items():
        check_option(command, name, partial(operator.le, smallest), f"at least {smallest}")


def check_option(command: Any, name: str, accepts: Callable[[float], bool], wanted: str) -> None:
    """Refuses an option whose value, or one of whose values, is not accepted; `wanted` says what it must be."""
    given = getattr(command, name)
    for value in given if isinstance(given, list | tuple) else (given,):
        if isinstance(value, int | float) and not accepts(value):
            raise BadArgument(f"--{name.replace('_', '-')} must be {wanted}, not {value:,}")


def check_shares(command: Any, *names: str) -> None:
    """Refuses options that are no share or chance, from 0 to 1."""
    for name in names:
        check_option(command, name, lambda value: 0 <= value <= 1, "from 0 to 1")
