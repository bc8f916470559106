"""What a card may hold: its keys, and what their values have to be."""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from diamond_gym.action_spaces import codec_of_table
from diamond_gym.errors import BadConfig, DamagedModel
from diamond_gym.schema import (
    LARGEST_IMAGE,
    MOST_ACTIONS,
    NETWORKS,
    OBJECTIVE_SAMPLER,
    SAMPLER,
    Fields,
    Kind,
    Number,
    check_table,
)

AGENT = "agent"
"""The kind of file that is an agent of Stable-Baselines3, as it saves one."""
Table = dict[str, Any]

# A name becomes a folder, a file and part of an environment id: no separators, no dot at either end.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")


def _text(wanted: str = "a string", pattern: str = r"(?s:.*)") -> Kind:
    return Kind(wanted, lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value)))


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _are_words(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


_SIDE = Number(1, LARGEST_IMAGE)
_SHAPE = Kind(
    f"three whole numbers up to {LARGEST_IMAGE}: height, width, channels",
    lambda value: isinstance(value, list | tuple) and len(value) == 3 and all(map(_SIDE.accepts, value)),
)
_TABLE = Kind("a table", lambda value: isinstance(value, Mapping))
_FAILURES = {"known_failures": Kind("a list of texts", _are_words)}
_RECORD: Fields = {
    "name": _text("the plain name of a file beside the card", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"),
    "sha256": _text("64 lower-case hexadecimal digits", r"[0-9a-f]{64}"),
    "bytes": Number(0, 1 << 50),
}
# These tables may hold more than the keys that are checked.
_FREE: dict[str, Fields] = {
    "spaces": {"obs_shape": _SHAPE, "low_res_shape": _SHAPE, "num_actions": Number(1, MOST_ACTIONS), "actions": _TABLE},
    "training": {"data": _TABLE, "teacher": _TABLE, "pulled": _TABLE, **_FAILURES},
    "figures": _FAILURES,
}
_FIELDS: Fields = {
    **dict.fromkeys(("name", "game", "license", "summary", "source"), _text()),
    "created": Kind("a time such as 2026-01-31T12:00:00Z", _is_time),
    **dict.fromkeys(_FREE, _TABLE),
    **NETWORKS,
    "sampler": SAMPLER,
    "files": dict.fromkeys(("weights", "starts", "preview", AGENT), _RECORD),
}


def check_name(name: str, what: str = "model name") -> str:
    """Returns the name if it can be a folder, a file and part of an environment id.

    Raises:
        DamagedModel: It cannot, for instance because it would lead out of its folder.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DamagedModel(
            f"{what} {name!r:.80} cannot be used: up to 64 letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit"
        )
    return name


def check_card(table: Table, where: str) -> None:
    """Raises DamagedModel for the first key that is missing, or whose value is not what a card may hold."""
    try:
        _require(table, "name", "game", "created", "spaces", "denoiser", "files")
        check_table(table, _FIELDS)
        objective = table["denoiser"].get("objective") or "edm"
        for key in table.get("sampler", {}) if objective != "edm" else ():
            if key not in OBJECTIVE_SAMPLER:
                raise BadConfig(f"key 'sampler.{key}' is for denoisers of the objective edm, not {objective}")
        for name, known in _FREE.items():
            check_table({key: value for key, value in table.get(name, {}).items() if key in known}, known, f"{name}.")
        for kind, record in table["files"].items():
            _require(record, *_RECORD, above=f"files.{kind}.")
        _require(table["spaces"], "obs_shape", "num_actions", above="spaces.")
        count, meanings = table["spaces"]["num_actions"], table["spaces"].get("action_meanings")
        actions = table["spaces"].get("actions", {})
        try:
            codec = codec_of_table(actions, count)
        except BadConfig as error:
            raise BadConfig(f"key 'spaces.actions': {error}") from None
        if codec.is_vector:
            count = math.prod(codec.shape)
        if meanings is not None and not (_are_words(meanings) and len(meanings) == count):
            raise BadConfig(f"key 'spaces.action_meanings' must be a list of {count} words, one for each action")
    except BadConfig as error:
        raise DamagedModel(f"{where}: {error}") from None
    for key in ("name", "game"):
        check_name(table[key], f"{where}: {key}")


def _require(table: Mapping[str, Any], *keys: str, above: str = "") -> None:
    for key in keys:
        if key not in table:
            raise BadConfig(f"key '{above}{key}' is missing")
