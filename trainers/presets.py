"""Presets: sets of training flags, one TOML file each, read before the user's own flags."""

import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import did_you_mean


def preset_names() -> list[str]:
    """The presets that come with the package, sorted."""
    files = resources.files("diamond_gym.trainers").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def preset_table(name: str) -> dict[str, Any]:
    """A preset's nested table.

    Raises:
        BadArgument: There is no such preset.
    """
    names = preset_names()
    if name not in names:
        raise BadArgument(f"unknown preset '{name}'{did_you_mean(name, names)} (presets: {', '.join(names)})")
    return tomllib.loads((resources.files("diamond_gym.trainers") / f"{name}.toml").read_text())


def preset_flags(name: str) -> list[str]:
    """A preset as the words one would type: nested keys joined by dots, underscores as hyphens, lists spread out."""
    return list(_flags(preset_table(name), ""))


def _flags(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        flag = prefix + key.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _flags(value, flag + ".")
            continue
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--{prefix}no-{key.replace('_', '-')}"
            continue
        yield f"--{flag}"
        yield from (str(item) for item in value) if isinstance(value, list) else (str(value),)
