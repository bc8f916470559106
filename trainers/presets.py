"""Presets: sets of training flags, one TOML file each, read before the user's own flags."""

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from diamond_gym.device import pick_device
from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import did_you_mean

WORLD_MODEL, AGENT, LOOP = "world_model", "agent", "loop"
"""What a preset is for, and the folder it lies in: a world model's fitting, an agent's training, the whole loop."""


def preset_names(kind: str = WORLD_MODEL) -> list[str]:
    """The presets of a kind that come with the package, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in _folder(kind).iterdir() if file.name.endswith(".toml"))


def preset_table(name: str, kind: str = WORLD_MODEL) -> dict[str, Any]:
    """A preset's nested table.

    Raises:
        BadArgument: There is no such preset.
    """
    names = preset_names(kind)
    if name not in names:
        raise BadArgument(f"unknown preset '{name}'{did_you_mean(name, names)} (presets: {', '.join(names)})")
    return tomllib.loads((_folder(kind) / f"{name}.toml").read_text(encoding="utf-8"))


def preset_flags(name: str, kind: str = WORLD_MODEL) -> list[str]:
    """A preset as the words one would type: nested keys joined by dots, underscores as hyphens, lists spread out."""
    return list(flags(preset_table(name, kind)))


def loop_flags(name: str) -> list[str]:
    """A preset of the whole loop as words: the networks' presets that it names, with its own numbers on top."""
    table = preset_table(name, LOOP)
    names, loop = table["presets"], table["loop"]
    fit, agent = preset_table(names["world-model"]), preset_table(names["agent"], AGENT)
    for key in ("steps", "collect-steps"):  # of a fitting alone
        fit.pop(key, None)
        agent.pop(key, None)
    return list(flags(_over({"fit": fit, "agent": agent}, loop)))


def wanted_preset(words: Sequence[str], default: str = "auto") -> str:
    """The preset that the words of a command line name; the last one, as with any option."""
    preset = default
    for i, word in enumerate(words):
        if word == "--preset" and i + 1 < len(words):
            preset = words[i + 1]
        elif word.startswith("--preset="):
            preset = word.removeprefix("--preset=")
    return preset


def flags(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A nested table as the words one would type; false is what every switch is unless it is named."""
    for key, value in table.items():
        flag = prefix + key.replace("_", "-")
        if isinstance(value, Mapping):
            yield from flags(value, flag + ".")
            continue
        if isinstance(value, bool):
            if value:
                yield f"--{flag}"
            continue
        yield f"--{flag}"
        yield from (str(item) for item in value) if isinstance(value, list) else (str(value),)


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
    preset = wanted_preset(words)
    if preset != "auto":
        return preset
    preset = "paper" if pick_device().type == "cuda" else "nano"
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(f"preset: {preset} (the one that suits this machine)", file=sys.stderr)
    return preset
