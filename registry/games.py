"""The 26 games of the Atari 100k benchmark, and any other word suggested when a name is misspelt."""

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diamond_gym.errors import BadArgument

_KEYS = {"UP": "w", "DOWN": "s", "LEFT": "a", "RIGHT": "d", "FIRE": " "}
_TABLE = Path(__file__).with_name("games.toml")


@dataclass(frozen=True)
class Game:
    """One game of Atari 100k.

    Attributes:
        name: The benchmark's name, as in the environment ids: `"MsPacman"`.
        ale_id: ALE's name of the ROM: `"ms_pacman"`.
        num_actions: The size of the game's minimal set of actions.
        action_meanings: ALE's word for each action, in ALE's order.
        random: Mean score of random play.
        human: Mean score of a human player.
        diamond: Mean score of DIAMOND's agent after 100k steps, over five seeds (Alonso et al. 2024).
    """

    name: str
    ale_id: str
    num_actions: int
    action_meanings: tuple[str, ...]
    random: float
    human: float
    diamond: float

    def human_normalised(self, score: float) -> float:
        """A score on the scale where random play is 0 and a human player is 1."""
        return (score - self.random) / (self.human - self.random)


@cache
def games() -> dict[str, Game]:
    """All games by name, in alphabetical order."""
    with open(_TABLE, "rb") as file:
        table = tomllib.load(file)
    return {
        name: Game(name=name, **{**row, "action_meanings": tuple(row["action_meanings"])})
        for name, row in table.items()
    }


def game(name: str) -> Game:
    """The game of that name.

    Raises:
        BadArgument: There is none; the message suggests the nearest name.
    """
    try:
        return games()[name]
    except KeyError:
        raise BadArgument(f"unknown game '{name}'{did_you_mean(name, games())}") from None


def keys_to_action(action_meanings: Iterable[str]) -> dict[tuple[str, ...], int]:
    """The keys of `gymnasium.utils.play` for each action: w a s d to move, the space bar to fire."""
    keys = {tuple(key for word, key in _KEYS.items() if word in name): i for i, name in enumerate(action_meanings)}
    return {pressed: action for pressed, action in keys.items() if pressed}


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error's line: `"; did you mean Breakout?"`, or an empty string where nothing is near."""
    by_plain = {_plain(candidate): candidate for candidate in names}
    nearest = difflib.get_close_matches(_plain(name), by_plain, n=1, cutoff=0.65)
    return f"; did you mean {by_plain[nearest[0]]}?" if nearest else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
