"""Which model a name or a game means: the user's own before those that came with the package."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from diamond_gym.errors import BadArgument, DamagedModel, ModelNotFound
from diamond_gym.files import user_folder
from diamond_gym.registry.card import LONGEST, Card
from diamond_gym.registry.card_fields import check_name
from diamond_gym.registry.games import did_you_mean, games


def bundled_folder() -> Path:
    """The folder of the models in the package; they lie flat in it."""
    return Path(__file__).parent


def home_folder() -> Path:
    """This user's folder: `$DIAMOND_GYM_HOME`, else the system's place for data. It may not exist yet.

    Raises:
        BadArgument: It would lie in the home folder of a user who has none, as in many containers.
    """
    chosen = os.environ.get("DIAMOND_GYM_HOME")
    # os.path leaves a "~" that leads nowhere where pathlib raises a RuntimeError
    folder = Path(os.path.expanduser(chosen)) if chosen else user_folder("data")  # noqa: PTH111
    if folder is None or folder.parts[0].startswith("~"):
        raise BadArgument("there is no home folder to keep models, data and runs in: set DIAMOND_GYM_HOME to a folder")
    return folder


def models_folder() -> Path:
    """The user's registry: one folder per model, named as the model."""
    return home_folder() / "models"


_SEPARATORS = {os.sep, os.altsep or os.sep, "/"}
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_-])?"
_ADDRESS = re.compile(rf"(?:hf:)?({_WORD}/{_WORD})(?:@([A-Za-z0-9][A-Za-z0-9_./-]{{0,99}}))?")


@dataclass(frozen=True)
class Address:
    """A repository on the hub, perhaps at one revision.

    Attributes:
        repository: `user/repo`.
        revision: A commit, tag or branch; None for any.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `hf:user/repo@revision`, the first and the last part optional.

        Raises:
            BadArgument: It is no such address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or ".." in text:
            raise BadArgument(f"'{text}' is not an address such as hf:user/repo@revision")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"hf:{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Entry:
    """A model on this machine: its card has been read and checked, its files have not been opened yet.

    Attributes:
        card: What it is.
        path: The card's own path; the model's files lie beside it.
    """

    card: Card
    path: Path

    @property
    def name(self) -> str:
        """The model's name in the registry."""
        return self.card.name

    @property
    def bundled(self) -> bool:
        """Whether it came with the package."""
        return self.folder == bundled_folder()

    @property
    def folder(self) -> Path:
        """Where the model's files lie."""
        return self.path.parent

    @property
    def bytes(self) -> int:
        """The size of all its files, as the card says."""
        return sum(record.bytes for record in self.card.files.values())

    @property
    def rank(self) -> tuple[bool, datetime]:
        """Of several models of one game the greatest counts: the user's own first, then the newest."""
        return not self.bundled, datetime.fromisoformat(self.card.created)

    @property
    def dreams(self) -> tuple[object, ...]:
        """What its dreams depend on: equal for two models that dream the same frames, whatever they are called."""
        card, starts = self.card, self.card.files.get("starts")
        networks = (card.denoiser, card.reward_end, card.upsampler, card.sampler, card.spaces)
        return (*networks, card.files["weights"].sha256, starts and starts.sha256)

    def file(self, kind: str) -> Path | None:
        """The path of the model's file of that kind, such as `"weights"`; None if the card names none."""
        record = self.card.files.get(kind)
        return self.folder / record.name if record else None


def survey() -> tuple[list[Entry], dict[str, str]]:
    """All models at hand, the user's own first, each group by name; and a line for each damaged one, by its name."""
    result: list[Entry] = []
    problems: dict[str, str] = {}
    cards: list[Path] = []
    try:
        cards += [models_folder() / name / f"{name}.toml" for name in own_names()]
    except (FileNotFoundError, NotADirectoryError, BadArgument):
        pass  # there are none, or there is no home
    except OSError as error:
        problems[models_folder().name] = f"{models_folder()}: cannot be read ({error.strerror})"
    # The tables that lie beside the bundled cards, such as the games', have no human card.
    cards += sorted(path for path in bundled_folder().glob("*.toml") if path.with_suffix(".md").exists())
    for card in cards:
        try:
            result.append(read_entry(card))
        except DamagedModel as error:
            problems[card.stem] = " ".join(str(error).split())
    return result, problems


def entries() -> list[Entry]:
    """All models at hand whose cards can be read, the user's own first."""
    return survey()[0]


def resolve(wanted: str | os.PathLike[str]) -> Entry:
    """The model that a name, a game or a folder means.

    A folder is taken as such when it is written as a path, or when nothing else answers to the word. One of the 26
    games is always the game; of other words a model's name goes before a game's. Of several models of one game the
    user's own go before the bundled ones, and then the newest counts.

    Args:
        wanted: A model's name, a game's name, the folder of a model, or `hf:user/repo@revision` for a model that
            has been pulled from there.

    Raises:
        ModelNotFound: Nothing answers; the message suggests the nearest name or the commands that help.
        DamagedModel: The model was found and its card cannot be used.
    """
    word = os.fspath(wanted)
    if isinstance(wanted, str) and word.startswith("hf:"):
        return _pulled(Address.parse(word))
    if not isinstance(wanted, str) or word.startswith(("~", ".")) or any(mark in word for mark in _SEPARATORS):
        return read_entry(_card_in(Path(os.path.expanduser(word))))  # noqa: PTH111 - pathlib's can raise
    result = entries()
    of_game = max((entry for entry in result if entry.card.game == word), key=lambda entry: entry.rank, default=None)
    if of_game and word in games():
        return of_game
    for entry in result:
        if entry.name == word:
            return entry
    with suppress(BadArgument):  # no home, so nothing of that name in it
        if word and (models_folder() / word).is_dir():  # it is there, so its card must be damaged: say how
            return read_entry(_card_in(models_folder() / word))
    if of_game:
        return of_game
    if word and Path(word).is_dir():
        return read_entry(_card_in(Path(word)))

    if word.upper() == "CSGO":  # nobody trains it here: there is no game to collect from
        raise ModelNotFound("no world model for 'CSGO' yet; fetch the authors' engine with `diamond-gym pull csgo`")
    nearest = did_you_mean(word, [*games(), *(entry.name for entry in result)])
    if nearest and word not in games():
        raise ModelNotFound(f"unknown game or model '{word}'{nearest}")
    advice = f"`diamond-gym train-wm --game {word}` or fetch one with `diamond-gym pull {word}`"
    if word not in games():
        advice = (
            "`diamond-gym train-wm --data NAME`, from recordings, or `--env ID`; `diamond-gym list` shows what there is"
        )
    raise ModelNotFound(f"no world model for '{word}' yet; train one with {advice}")


def find_again(entry: Entry) -> Entry:
    """The very model of an entry: where it was, or under whatever name it is at hand.

    Raises:
        ModelNotFound: It has been removed or replaced since.
    """
    with suppress(DamagedModel):
        there = read_entry(entry.path)
        if there.dreams == entry.dreams:
            return there
    for other in entries():
        if other.dreams == entry.dreams:
            return other
    raise ModelNotFound(
        f"the model '{entry.name}' that this dream was made with is no longer at hand: it was removed, or replaced by "
        f"another of that name; make a new dream"
    )


def _pulled(address: Address) -> Entry:
    """The newest model that was pulled from an address; nothing is fetched here."""

    def fits(entry: Entry) -> bool:
        table = entry.card.training.get("pulled", {})
        revisions = (None, table.get("revision"), table.get("asked"))
        return not entry.bundled and table.get("repository") == address.repository and address.revision in revisions

    try:
        return max(filter(fits, entries()), key=lambda entry: entry.rank)
    except ValueError:
        raise ModelNotFound(f"{address} is not here yet; fetch it with `diamond-gym pull {address}`") from None


def read_entry(card: Path) -> Entry:
    """Reads one card from its path.

    Raises:
        DamagedModel: There is no such file, or its content is not a card.
    """
    try:
        if not card.is_file() and card.exists():
            raise OSError("not a file")  # reading from a pipe would wait for ever
        with card.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except FileNotFoundError:
        raise DamagedModel(f"{card}: the card is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedModel(f"{card}: the card cannot be read ({error})") from None
    return Entry(Card.from_toml(text, str(card)), card)


def own_names() -> list[str]:
    """The names of the user's own models, in order.

    Raises:
        OSError: There are none, or their folder cannot be read.
    """
    return sorted(path.name for path in models_folder().iterdir() if path.name[0] != "." and path.is_dir())


def local_folder(name: str) -> Path:
    """Where the user's own model of that name lies or would lie; a name cannot lead anywhere else.

    Raises:
        DamagedModel: It is no name for a model.
        BadArgument: There is no home folder, or the file system takes the name for that of another model.
    """
    folder = models_folder() / check_name(name)
    if not os.path.lexists(folder) or name in (names := own_names()):
        return folder
    for other in names:
        with suppress(OSError):
            if folder.samefile(folder.with_name(other)):
                raise BadArgument(
                    f"'{name}' and your model '{other}' have the same folder here, where upper- and lower-case letters "
                    "count as equal: choose another --name"
                )
    return folder


def _card_in(folder: Path) -> Path:
    """The card of the one model in a folder, whatever the folder is called."""
    if not folder.is_dir():
        raise ModelNotFound(f"no folder {folder}")
    named = folder / f"{folder.resolve().name}.toml"
    if named.exists():
        return named
    cards = sorted(path for path in folder.glob("*.toml") if path.name[0] != ".")  # the others are half-written
    if len(cards) != 1:
        result = f"{len(cards)} TOML files" if cards else "no card (a .toml file)"
        raise DamagedModel(f"{folder}: the folder of one model is wanted, but it holds {result}")
    return cards[0]
