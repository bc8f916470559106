"""A model's card: what it is, where it came from, how it is built, and which files belong to it."""

import math
import re
import tomllib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from diamond_gym.action_spaces import codec_of_table
from diamond_gym.actions import ActionCodec
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
    check_plain,
    check_table,
)

FORMAT = 1
LONGEST = 1 << 20
"""Characters that a card may have, a hundred times as many as one has."""

AGENT = "agent"
"""The kind of file that is an agent of Stable-Baselines3, as it saves one."""
_STALE = ("reward_ece", "end_ece")  # figures that are no longer measured: read, and not written again
_STALE_TABLE = "ball"  # the same, of the outermost table alone: further in it is a thing that is counted
Table = dict[str, Any]

# A name becomes a folder, a file and part of an environment id: no separators, no dot at either end.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")


@dataclass(frozen=True)
class FileRecord:
    """A file that belongs to a model.

    Attributes:
        name: The file's name, in the card's own folder.
        sha256: The hash of its content, 64 lower-case hexadecimal digits.
        bytes: Its length.
    """

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Card:
    """The metadata of one world model, as its TOML card holds them.

    The tables of the networks and of the sampler, which `diamond_gym.schema` checks, are passed as they are to the
    configuration classes that they describe; the card does not know the networks.

    Attributes:
        name: The registry name, also the stem of the model's files.
        game: The game it dreams: one of the 26, or any word of the same characters.
        created: When it was made, ISO 8601 with a time zone; the newest model of a game is the one used.
        spaces: `obs_shape` (height, width, channels), `num_actions`, and where actions are not numbered, `actions`:
            their kind (`diamond_gym.actions`); perhaps `action_meanings`.
        denoiser: The denoiser's configuration, the inner network's in `inner_model`.
        reward_end: The reward and end model's configuration, or None if the model has none.
        actor_critic: The agent's configuration, or None.
        upsampler: The second stage's configuration, or None.
        sampler: The sampler's fields that suit this model; empty for the paper's.
        training: How it was trained: a free table.
        figures: What was measured on it: a free table.
        files: The model's files: `weights`, and `starts` if dreams have real frames to begin from.
    """

    name: str
    game: str
    created: str
    spaces: Table
    denoiser: Table
    license: str = "MIT"
    summary: str = ""
    source: str = ""
    reward_end: Table | None = None
    actor_critic: Table | None = None
    upsampler: Table | None = None
    sampler: Table = field(default_factory=dict)
    training: Table = field(default_factory=dict)
    figures: Table = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)

    @property
    def obs_shape(self) -> tuple[int, int, int]:
        """An observation's shape: (height, width, channels)."""
        height, width, channels = self.spaces["obs_shape"]
        return height, width, channels

    @property
    def num_actions(self) -> int:
        """How many actions there are, or the length of the vector that networks are given for one."""
        return int(self.spaces["num_actions"])

    @property
    def codec(self) -> ActionCodec:
        """The actions: their space, and how networks take them."""
        named = self.spaces.get("actions")
        if named is None and self.game == "CSGO" and self.upsampler is not None:  # a card of before they said so
            named = {"kind": "csgo"}
        return codec_of_table(named or {}, self.num_actions)

    @property
    def action_meanings(self) -> tuple[str, ...]:
        """A word for each action; empty if the card has none."""
        return tuple(self.spaces.get("action_meanings", ()))

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that the model has: `denoiser` first, then any of the others."""
        return tuple(name for name in NETWORKS if getattr(self, name) is not None)

    @property
    def has_agent(self) -> bool:
        """Whether an agent came with the model, in its weights or in a file of its own."""
        return self.actor_critic is not None or AGENT in self.files

    @property
    def is_student(self) -> bool:
        """Whether the model was distilled from another one, so that it knows one denoising step alone."""
        return "teacher" in self.training

    @property
    def created_at(self) -> datetime:
        """`created`, to compare."""
        return datetime.fromisoformat(self.created)

    def check(self, where: str) -> None:
        """Checks every key as `from_toml` does, before anything is made of a card that was not read.

        Raises:
            DamagedModel: A key is unknown, of the wrong kind, out of bounds, or does not fit another.
        """
        _check(self._table(), where)

    def with_files(self, files: Mapping[str, FileRecord]) -> Self:
        """The same card over other files."""
        return replace(self, files=dict(files))

    @classmethod
    def from_toml(cls, text: str, where: str = "card") -> Self:
        """Reads a card and checks it.

        Args:
            text: The card's TOML.
            where: What to call the card in an error, such as its path.

        Raises:
            DamagedModel: It is not TOML, or a key is missing, unknown or of the wrong kind.
        """
        try:
            if len(text) > LONGEST:
                raise BadConfig("too long for a card")
            table = tomllib.loads(text)
            check_plain(table)
        except RecursionError:
            raise DamagedModel(f"{where}: nested too deeply") from None
        except BadConfig as error:
            raise DamagedModel(f"{where}: {error}") from None
        except (ValueError, ArithmeticError) as error:  # ValueError alone: a number of thousands of digits
            raise DamagedModel(f"{where}: not readable as TOML ({error})") from None
        version = table.pop("format", None)
        if version != FORMAT:
            raise DamagedModel(
                f"{where}: key 'format' is {version!r:.40}, but this version of diamond-gym reads {FORMAT}"
            )
        _check(table, where)
        table["files"] = {kind: FileRecord(**record) for kind, record in table["files"].items()}
        return cls(**table)

    def to_toml(self) -> str:
        """The card as TOML, which `from_toml` reads back equal; tables that are None are left out.

        Raises:
            DamagedModel: A key is of the wrong kind, so that the card could not be read again.
        """
        import tomli_w

        table = self._table()
        _check(table, f"card '{self.name}'")
        # TOML wants a table's plain values before its sub-tables.
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        return tomli_w.dumps({"format": FORMAT, **plain, **{key: value for key, value in table.items() if value}})

    def _table(self) -> Table:
        table = {key: value for key, value in vars(self).items() if value is not None}
        table["files"] = {kind: vars(record) for kind, record in self.files.items()}
        stale = {_STALE_TABLE} if isinstance(self.figures.get(_STALE_TABLE), Mapping) else set()
        table["figures"] = _writable({k: v for k, v in self.figures.items() if k not in stale}, _STALE)
        result: Table = _writable(table)
        return result


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


def now() -> str:
    """The present time as cards write it, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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


def _check(table: Table, where: str) -> None:
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


def _writable(value: Any, left_out: Container[str] = ()) -> Any:
    """What TOML can hold: it has no null, and to leave a key out means its default, too."""
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if item is not None and key not in left_out}
        return {key: _writable(item, left_out) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value
