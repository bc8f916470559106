"""Presets: sets of training options, one TOML file each, which the user's own options come on top of."""

import os
import shlex
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from diamond_gym.device import pick_device
from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import did_you_mean

WORLD_MODEL, AGENT, LOOP, OBJECTIVE = "world_model", "agent", "loop", "objective"
"""What a preset is for, and the folder it lies in: a world model's fitting, an agent's training, the whole loop, what
another objective than EDM's changes in a world model's."""

_OF_RECORDINGS = "steps", "collect-steps", "age-weights"  # what does not fit a loop, which plays as it learns


def preset_names(kind: str = WORLD_MODEL) -> list[str]:
    """The presets of a kind that come with the package, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in _folder(kind).iterdir() if file.name.endswith(".toml"))


def preset_table(name: str, kind: str = WORLD_MODEL) -> dict[str, Any]:
    """A preset's nested table, its keys called as the options are.

    Args:
        name: Of one that comes with the package, or a TOML file of the user's. A file may name, as `preset`, another
            one that it goes on top of.
        kind: What it is for.

    Raises:
        BadArgument: There is no such preset, or the file is not TOML.
    """
    names = preset_names(kind)
    if not name.endswith(".toml") and name not in names:
        raise BadArgument(f"unknown preset '{name}'{did_you_mean(name, names)} (presets: {', '.join(names)})")
    try:
        file = Path(name) if name.endswith(".toml") else _folder(kind) / f"{name}.toml"
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArgument(f"the preset {name} cannot be read: {' '.join(str(error).split())[:160]}") from None
    below = preset_table(str(table.pop("preset")), kind) if "preset" in table else {}
    for part, other in table.pop("networks", {}).items():  # the whole loop takes its networks from their own presets
        networks = preset_table(other, AGENT if part == "agent" else WORLD_MODEL)
        below[part] = {key: value for key, value in networks.items() if key not in _OF_RECORDINGS}
    return _over(below, table)


def preset_flags(name: str, kind: str = WORLD_MODEL, objective: str | None = None) -> list[str]:
    """A preset as the words one would type: nested keys joined by dots, underscores as hyphens, lists spread out.

    An `objective` that has a preset of its own comes on top.
    """
    table = preset_table(name, kind)
    if objective in preset_names(OBJECTIVE):
        table = _over(table, preset_table(objective, OBJECTIVE))
    return list(flags(table))


def last_value(words: Sequence[str], option: str, default: str) -> str:
    """The value of an option among the words of a command line; the last one counts, as with any option."""
    value = default
    for word, following in zip(words, [*words[1:], default], strict=True):
        if word == option:
            value = following
        elif word.startswith(f"{option}="):
            value = word.removeprefix(f"{option}=")
    return value


def flags(table: Mapping[str, Any]) -> Iterator[str]:
    """A nested table as the words one would type; false is what every switch is unless it is named."""
    for option, value in _leaves(table):
        if value is not False:
            yield f"--{option}"
        if not isinstance(value, bool):
            yield from (str(item) for item in value) if isinstance(value, list) else (str(value),)


def command_line(name: str, command: Any, kind: str, left_out: Collection[str] = ()) -> str:
    """The command that does what an options object says: its preset, and all that differs from it.

    A user's own preset, which nobody else has, is written out as what differs from the paper's.

    Args:
        name: The command's name.
        command: A dataclass of options with a `preset`; what lies in a field named "" is typed without its name.
        kind: What the preset is for.
        left_out: Fields that make no difference to the result.
    """
    preset = command.preset if command.preset in preset_names(kind) else "paper"
    base = _typed(type(command)()) | dict(_leaves(preset_table(preset, kind)))
    return plain_command_line(f"{name} --preset {preset}", replace(command, preset=preset), base, (*left_out, "preset"))


def plain_command_line(name: str, command: Any, base: Any, left_out: Collection[str] = ()) -> str:
    """The command that does what an options object says: all that differs from what holds without options.

    Args:
        name: The command's name, and its words that are no options.
        command: A dataclass of options.
        base: That without options, or a table of its options by the names that one types.
        left_out: Fields that make no difference to the result.
    """
    base = base if isinstance(base, Mapping) else _typed(base)
    words = ["diamond-gym", *shlex.split(name)]
    for option, value in _typed(command).items():
        if option in left_out or value == base.get(option) or value is None:
            continue
        if value is False:
            path, _, last = option.rpartition(".")
            words.append(f"--{path}.no-{last}" if path else f"--no-{last}")
        else:
            words += flags({option: value})
    return shlex.join(words)


def _typed(command: Any) -> dict[str, Any]:
    """All options of a command by the names that one types."""
    hints = get_type_hints(type(command), include_extras=True)
    table = {}
    for item in fields(command):
        renamed = [arg.name for arg in get_args(hints[item.name])[1:] if getattr(arg, "name", None) is not None]
        value = getattr(command, item.name)
        table[renamed[0] if renamed else item.name] = (
            asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        )
    return dict(_leaves(table | table.pop("", {})))


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = prefix + key.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, list(value) if isinstance(value, tuple) else value


def _over(table: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """One nested table on top of another."""
    merged = dict(table)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def _folder(kind: str) -> Traversable:
    return resources.files("diamond_gym.trainers") / "presets" / kind


def settled_preset(words: Sequence[str]) -> str:
    """The preset that the words name; "auto", as without one, is settled by the machine, and said."""
    preset = last_value(words, "--preset", "auto")
    if preset != "auto":
        return preset
    preset = "paper" if pick_device().type == "cuda" else "nano"
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(f"preset: {preset} (the one that suits this machine)", file=sys.stderr)
    return preset
