"""Options of the command line: a parser of numbers, the most that each may be, and checks that commands share."""

import operator
import os
import re
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from diamond_gym.errors import BadArgument
from diamond_gym.schema import check_least as check_least
from diamond_gym.schema import check_option

OWN = "own"  # as the name of an agent: the one that came with the model

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_REAL = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,3})?|\+?inf", re.IGNORECASE)
_MOST = {
    "batch_size": 65_536,
    "batches": 65_536,
    "episodes": 1_000_000,
    "final_episodes": 1_000_000,
    "fps": 240,
    "frame_stack": 64,
    "horizon": 100_000,
    "max_episode_steps": 1_000_000_000,
    "n_envs": 4_096,
    "noop_max": 108_000,  # frames, as in `envs.atari_game`: half an hour of play
    "num_autoregressive_steps": 1_000,
    "num_envs": 4_096,
    "num_starts": 1_000_000,
    "repeat": 1_000_000,
    "reward_end_dream_length": 10_000,
    "reward_end_length": 10_000,
    "scale": 64,
    "seed": 2_000_000_000,  # the emulator's seeds have 31 bits
    "size": 1_024,
    "test_episodes": 1_000_000,
    "threads": 1_024,
    "windows": 10_000_000,
}
_MOST_ELSEWHERE = 1_000_000_000_000
_ENDLESS = ("s_tmax",)  # infinity means what it says


def strict_numbers() -> ConstructorRegistry:
    """Rules by which tyro reads numbers as this command line means them, to be active while it parses.

    Whole numbers are ASCII digits, without underscores; NaN is no number; and `None` is no value for an option that may
    be left out.
    """
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kind: Any = info.type
        if kind is not int and kind is not float:
            return None
        pattern, what = (_WHOLE, "a whole number") if kind is int else (_REAL, "a number")

        def read(words: list[str]) -> Any:
            if not pattern.fullmatch(words[0]):
                raise ValueError(f"{what} is wanted, not {words[0][:60]!r}")
            return kind(words[0])

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=read,
            is_instance=lambda value: isinstance(value, kind | int) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def left_out(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        members = get_args(info.type)
        if get_origin(info.type) not in (Union, UnionType) or len(members) != 2 or NoneType not in members:
            return None
        (kind,) = (member for member in members if member is not NoneType)
        spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
        if not isinstance(spec, PrimitiveConstructorSpec) or spec.nargs != 1:
            return None
        return replace(
            spec,
            is_instance=lambda value: value is None or spec.is_instance(value),
            str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
        )

    return registry


def check_positive(command: Any, *names: str) -> None:
    """Refuses options that are not above zero."""
    for name in names:
        check_option(command, name, lambda value: value > 0, "more than 0")


def check_most(command: Any, **most: float) -> None:
    """Refuses options that are larger than these."""
    for name, bound in most.items():
        check_option(command, name, partial(operator.ge, bound), f"at most {bound:,}")


def given(command: Any, *names: str) -> list[str]:
    """Those of a command's options that differ from their defaults."""
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(command)}
    return [name for name in names if getattr(command, name) != defaults[name]]


def check_files(command: Any, **suffixes: tuple[str, ...]) -> None:
    """Refuses files to write that could not be written, before hours of work for what goes into them.

    Args:
        command: The command.
        **suffixes: Of each option the suffixes that its file may have; of an empty tuple, any.
    """
    flags: dict[str, str] = {}
    for name, allowed in suffixes.items():
        flag, path = f"--{name.replace('_', '-')}", getattr(command, name)
        if path is None:
            continue
        if allowed and path.suffix not in allowed:
            raise BadArgument(f"{flag} must end in {' or '.join(allowed)}, not {path}")
        if path.is_dir():
            raise BadArgument(f"{flag} is a file to write, but {path} is a folder")
        place = os.path.realpath(path)  # as it will be written: through a link, and its folders made
        if place in flags:
            raise BadArgument(f"{flags[place]} and {flag} are the same file: {path}")
        flags[place] = flag
        check_can_write(flag, Path(place).parent)


def check_can_write(flag: str, folder: Path) -> None:
    """Refuses a folder in which nothing can be written, or which cannot be made; an option's flag says what for."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise BadArgument(f"{flag} needs a folder, but {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadArgument(f"{flag} cannot be written: nothing may be changed in {there}")


def check_horizon(command: Any, name: str) -> None:
    """Refuses a horizon of dreams that is neither at least 1 nor -1, which dreams on."""
    check_option(command, name, lambda value: value >= 1 or value == -1, "at least 1, or -1")


def check_largest(command: Any) -> None:
    """Refuses numbers that are larger than an option's could ever be, in a command and in all that it is made of."""
    for field in fields(command):
        if is_dataclass(value := getattr(command, field.name)):
            check_largest(value)
        elif field.name not in _ENDLESS:
            check_most(command, **{field.name: _MOST.get(field.name, _MOST_ELSEWHERE)})


def check_quality(quality: str | None) -> None:
    """Refuses a word that is no quality; which of them a model has is seen once it is loaded."""
    if quality is None:
        return
    from diamond_gym.sampler import QUALITIES

    if quality not in (*QUALITIES, "quality"):
        raise BadArgument(f"--quality must be {', '.join(QUALITIES)} or (for two stages) quality, not {quality}")


def check_agent(agent: str | None) -> None:
    """Refuses an agent that is neither a model's own nor a file."""
    if agent is not None and agent != OWN and not agent.endswith(".zip"):
        raise BadArgument(f"--agent must be {OWN} or an agent's .zip, not {agent}")


def missing(what: str) -> NoReturn:
    """Refuses a command line that leaves out what it is about."""
    raise BadArgument(f"say {what}")


def image_size(
    text: str | int | None, option: str, least: int = 1, most: int = _MOST["size"]
) -> tuple[int, int] | None:
    """Height and width that an option gives as a number or HEIGHTxWIDTH; BadArgument for others, or out of bounds."""
    if text is None:
        return None
    if not (found := re.fullmatch(r"(\d{1,18})(?:x(\d{1,18}))?", str(text))):
        raise BadArgument(f"{option} is a number or HEIGHTxWIDTH, not {text!r}")
    size = int(found[1]), int(found[2] or found[1])
    if not least <= min(size) <= max(size) <= most:
        raise BadArgument(f"{option} must be from {least} to {most:,} a side, not {text}")
    return size
