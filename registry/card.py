"""A model's card: what it is, where it came from, how it is built, and which files belong to it."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from diamond_gym.action_spaces import codec_of_table
from diamond_gym.actions import ActionCodec
from diamond_gym.errors import BadArgument, BadConfig, DamagedModel
from diamond_gym.registry.card_fields import AGENT, Table, check_card
from diamond_gym.schema import NETWORKS, check_plain

FORMAT = 1
LONGEST = 1 << 20
"""Characters that a card may have, a hundred times as many as one has."""


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
    def env(self) -> str:
        """The id of the environment that its experience is from; empty for the 26 games, and where it is not known."""
        return str(self.training.get("data", {}).get("env", ""))

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """The shape of the frames that the denoiser sees: in models of two stages a fraction of an observation's."""
        height, width, channels = self.obs_shape
        factor = (self.upsampler or {}).get("upsampling_factor") or 1
        return height // factor, width // factor, channels

    @property
    def num_steps_conditioning(self) -> int:
        """How many frames a dream begins from, T."""
        return int(self.denoiser.get("inner_model", {}).get("num_steps_conditioning", 4))

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
        """A word for each action, or for each part of one: of their kind, else the card's; empty if there are none."""
        return self.codec.part_names or tuple(self.spaces.get("action_meanings", ()))

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

    def check_game(self, game: str | None) -> None:
        """Refuses the model where a game is named beside it that it does not dream (BadArgument)."""
        if game not in (None, self.game):
            raise BadArgument(f"the model {self.name} dreams {self.game}, not {game}")

    def check(self, where: str) -> None:
        """Checks every key as `from_toml` does, before anything is made of a card that was not read.

        Raises:
            DamagedModel: A key is unknown, of the wrong kind, out of bounds, or does not fit another.
        """
        check_card(self._table(), where)

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
        check_card(table, where)
        table["files"] = {kind: FileRecord(**record) for kind, record in table["files"].items()}
        return cls(**table)

    def to_toml(self) -> str:
        """The card as TOML, which `from_toml` reads back equal; tables that are None are left out.

        Raises:
            DamagedModel: A key is of the wrong kind, so that the card could not be read again.
        """
        import tomli_w

        table = self._table()
        check_card(table, f"card '{self.name}'")
        # TOML wants a table's plain values before its sub-tables.
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        return tomli_w.dumps({"format": FORMAT, **plain, **{key: value for key, value in table.items() if value}})

    def _table(self) -> Table:
        table = {key: value for key, value in vars(self).items() if value is not None}
        table["files"] = {kind: vars(record) for kind, record in self.files.items()}
        result: Table = _writable(table)
        return result


def now() -> str:
    """The present time as cards write it, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _writable(value: Any) -> Any:
    """What TOML can hold: it has no null, and to leave a key out means its default, too."""
    if isinstance(value, Mapping):
        return {key: _writable(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value
