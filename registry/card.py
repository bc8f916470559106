"""A model's card: what it is, where it came from, how it is built, and which files belong to it."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Self

from diamond_gym.errors import DamagedModel

FORMAT = 1
_WORDS = ("name", "game", "created", "license", "summary", "source")
_NETWORKS = ("denoiser", "reward_end", "actor_critic", "upsampler")
_TABLES = ("spaces", *_NETWORKS, "sampler", "training", "figures", "files")
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

    The tables of the networks and of the sampler are passed as they are to the configuration classes that
    they describe; the card does not know the networks.

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
        return tuple(name for name in _NETWORKS if getattr(self, name) is not None)

    @property
    def has_agent(self) -> bool:
        """Whether an agent came with the model, in its weights or in a file of its own."""
        return self.actor_critic is not None or "agent" in self.files

    @property
    def created_at(self) -> datetime:
        """`created`, to compare."""
        return datetime.fromisoformat(self.created)

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
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DamagedModel(f"{where}: not readable as TOML ({error})") from None
        version = table.pop("format", None)
        if version != FORMAT:
            raise DamagedModel(f"{where}: key 'format' is {version!r}, but this version of diamond-gym reads {FORMAT}")
        known = {f.name for f in fields(cls)}
        for key in table:
            if key not in known:
                raise DamagedModel(f"{where}: unknown key '{key}'")
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
            f"{what} {name!r} cannot be used: up to 64 letters, digits, '-', '_' and '.', "
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

    shape = table["spaces"].get("obs_shape")
    if not (isinstance(shape, list | tuple) and len(shape) == 3 and all(_is_count(size) for size in shape)):
        raise wrong("spaces.obs_shape", "three whole numbers: height, width, channels")
    num_actions = table["spaces"].get("num_actions")
    if not _is_count(num_actions):
        raise wrong("spaces.num_actions", "a whole number of at least 1")
    meanings = table["spaces"].get("action_meanings")
    if meanings is not None and len(meanings) != num_actions:
        raise wrong("spaces.action_meanings", f"a list of {num_actions} words, as spaces.num_actions says")

    for kind, record in table["files"].items():
        key = f"files.{kind}"
        if not isinstance(record, dict) or set(record) != {"name", "sha256", "bytes"}:
            raise wrong(key, "a table of name, sha256 and bytes")
        if not isinstance(record["name"], str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", record["name"]):
            raise wrong(f"{key}.name", "the plain name of a file beside the card")
        if not isinstance(record["sha256"], str) or not re.fullmatch(r"[0-9a-f]{64}", record["sha256"]):
            raise wrong(f"{key}.sha256", "64 lower-case hexadecimal digits")
        if isinstance(record["bytes"], bool) or not isinstance(record["bytes"], int) or record["bytes"] < 0:
            raise wrong(f"{key}.bytes", "the file's length in bytes")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _without_none(value: Any) -> Any:
    """TOML has no null: a None in a table means the default, which leaving the key out says too."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
