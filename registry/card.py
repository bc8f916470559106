"""A model's card: what it is, where it came from, how it is built, and which files belong to it."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Self

from diamond_gym.errors import BadConfig, DamagedModel
from diamond_gym.schema import LARGEST_IMAGE, MOST_ACTIONS, NETWORKS, SAMPLER, Number, check_plain, check_table

FORMAT = 1
_WORDS = ("name", "game", "created", "license", "summary", "source")
_TABLES = ("spaces", *NETWORKS, "sampler", "training", "figures", "files")
_KINDS = ("weights", "starts", "preview", "agent")
_LONGEST = 1 << 20  # characters; a hundred times as many as a card has
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
        spaces: `obs_shape` (height, width, channels) and `num_actions`, perhaps `action_meanings`.
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
        """How many actions there are, or the length of an action's vector where several are pressed."""
        return int(self.spaces["num_actions"])

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
        return self.actor_critic is not None or "agent" in self.files

    @property
    def created_at(self) -> datetime:
        """`created`, to compare."""
        return datetime.fromisoformat(self.created)

    def check_networks(self, where: str) -> None:
        """Checks the tables of the networks and of the sampler, field by field, before anything is made of them.

        Args:
            where: What to call the card in an error.

        Raises:
            DamagedModel: A field is unknown, of another kind, out of bounds, or does not fit another.
        """
        _check_networks({name: getattr(self, name) for name in (*self.networks, "sampler")}, where)

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
        if len(text) > _LONGEST:
            raise DamagedModel(f"{where}: too long for a card")
        try:
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
        known = {f.name for f in fields(cls)}
        for key in table:
            if key not in known:
                raise DamagedModel(f"{where}: unknown key '{key:.60}'")
        for key in ("name", "game", "created", "spaces", "denoiser", "files"):
            if key not in table:
                raise DamagedModel(f"{where}: key '{key}' is missing")
        _check(table, where)
        table["files"] = {kind: FileRecord(**record) for kind, record in table["files"].items()}
        return cls(**table)

    def to_toml(self) -> str:
        """The card as TOML, which `from_toml` reads back equal; tables that are None are left out.

        Raises:
            DamagedModel: A key is of the wrong kind, so that the card could not be read again.
        """
        import tomli_w

        table: Table = {"format": FORMAT}
        for key in (f.name for f in fields(self)):
            value = getattr(self, key)
            if key == "files":
                value = {kind: vars(record) for kind, record in value.items()}
            if value is not None and value != {}:
                table[key] = _without_none(value)
        _check({"files": {}, **table}, f"card '{self.name}'")
        # TOML wants a table's plain values before its sub-tables.
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        return tomli_w.dumps(plain | {key: value for key, value in table.items() if key not in plain})


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


def _check(table: Table, where: str) -> None:
    """Raises DamagedModel for the first key whose value is not what a card may hold."""

    def wrong(key: str, wanted: str) -> DamagedModel:
        return DamagedModel(f"{where}: key '{key}' must be {wanted}")

    for key in _WORDS:
        if not isinstance(table.get(key, ""), str):
            raise wrong(key, "a string")
    for key in _TABLES:
        if not isinstance(table.get(key, {}), dict):
            raise wrong(key, "a table")
    for key in ("name", "game"):
        check_name(table[key], f"{where}: {key}")
    try:
        aware = datetime.fromisoformat(table["created"]).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise wrong("created", "a time such as 2026-01-31T12:00:00Z")

    side, actions = Number(1, LARGEST_IMAGE), Number(1, MOST_ACTIONS)
    for key in ("obs_shape", "low_res_shape"):
        shape = table["spaces"].get(key)
        if shape is None and key != "obs_shape":
            continue
        if not (isinstance(shape, list | tuple) and len(shape) == 3 and all(map(side.accepts, shape))):
            raise wrong(f"spaces.{key}", f"three whole numbers up to {LARGEST_IMAGE}: height, width, channels")
    num_actions = table["spaces"].get("num_actions")
    if not actions.accepts(num_actions):
        raise wrong("spaces.num_actions", str(actions))
    meanings = table["spaces"].get("action_meanings")
    if meanings is not None and not (_are_words(meanings) and len(meanings) == num_actions):
        raise wrong("spaces.action_meanings", f"a list of {num_actions} words, as spaces.num_actions says")
    _check_networks({key: table[key] for key in (*NETWORKS, "sampler") if key in table}, where)
    training = table.get("training", {})
    for key in ("data", "pulled"):
        if not isinstance(training.get(key, {}), dict):
            raise wrong(f"training.{key}", "a table")
    for key in ("training", "figures"):
        if not _are_words(table.get(key, {}).get("known_failures", [])):
            raise wrong(f"{key}.known_failures", "a list of texts")

    for kind, record in table["files"].items():
        key = f"files.{kind}"
        if kind not in _KINDS:
            raise DamagedModel(f"{where}: unknown key '{key:.60}' (there are {', '.join(_KINDS)})")
        if not isinstance(record, dict) or set(record) != {"name", "sha256", "bytes"}:
            raise wrong(key, "a table of name, sha256 and bytes")
        if not isinstance(record["name"], str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", record["name"]):
            raise wrong(f"{key}.name", "the plain name of a file beside the card")
        if not isinstance(record["sha256"], str) or not re.fullmatch(r"[0-9a-f]{64}", record["sha256"]):
            raise wrong(f"{key}.sha256", "64 lower-case hexadecimal digits")
        if not Number(0, 1 << 50).accepts(record["bytes"]):
            raise wrong(f"{key}.bytes", "the file's length in bytes")


def _check_networks(tables: Mapping[str, Any], where: str) -> None:
    try:
        check_table(tables, {**NETWORKS, "sampler": SAMPLER})
    except BadConfig as error:
        raise DamagedModel(f"{where}: {error}") from None


def _are_words(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


def _without_none(value: Any) -> Any:
    """TOML has no null: a None in a table means the default, which leaving the key out says too."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
