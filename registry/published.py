"""What can be pulled: the authors' models of the 26 games of Atari 100k, and their CS:GO engine."""

import statistics
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diamond_gym.registry.card_fields import Table
from diamond_gym.registry.games import games

REVISION = "5d4abca9af6ab1b3ab1c6fc228cacb7281130f7f"
"""The commit of the authors' repository that is asked for: that of 2024-10-21, after which it had not changed until
September 2026 by two public records of it. The hashes of its files are kept at the first pull."""
CSGO = "CSGO"
_TABLE = Path(__file__).with_name("published.toml")


@dataclass(frozen=True)
class Published:
    """A model in the authors' repository.

    Attributes:
        game: What it dreams.
        repository: Where it lies on the hub.
        checkpoint: The path of its weights there.
        config: The path of its networks' configuration.
        env_config: The path of its environment's configuration.
        spawn: The folder of its start states, if they come with it.
        license: Of the weights, as far as the authors state one.
        parameters: How many numbers the checkpoint holds.
        num_actions: How many actions there are, or the length of one that is made of several.
        scores: Of the authors' agents, one per seed; empty where the model has no agent.
    """

    game: str
    repository: str
    checkpoint: str
    config: str
    env_config: str
    license: str
    parameters: int
    num_actions: int
    scores: tuple[float, ...] = ()
    spawn: str | None = None

    @property
    def name(self) -> str:
        """The model's name in the registry once it has been pulled."""
        return f"{self.game.lower()}-diamond"

    @property
    def bytes(self) -> int:
        """About how many bytes have to be fetched."""
        return 4 * self.parameters  # float32

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the files in the repository, without those of the spawn folder."""
        return self.checkpoint, self.config, self.env_config

    @property
    def source(self) -> str:
        """Where it is on the web, for the card."""
        return f"https://huggingface.co/{self.repository} ({self.checkpoint})"

    @property
    def summary(self) -> str:
        """One line for a card."""
        what = "CS:GO engine" if self.game == CSGO else f"world model and agent of {self.game}"
        return f"DIAMOND, the authors' {what} (Alonso et al. 2024)."

    @property
    def figures(self) -> Table:
        """What the paper reports of agents made like this one; a table for a card."""
        game = games().get(self.game)
        if game is None or not self.scores:
            return {}
        mean = statistics.fmean(self.scores)
        return {
            "published": {
                "scores": list(self.scores),
                "mean_score": round(mean, 2),
                "std_score": round(statistics.pstdev(self.scores), 2),
                "human_normalised": round(game.human_normalised(mean), 3),
                "random_score": game.random,
                "human_score": game.human,
            }
        }


@cache
def published() -> dict[str, Published]:
    """All that can be pulled, by game: the 26 in alphabetical order, then CS:GO."""
    with open(_TABLE, "rb") as file:
        table = tomllib.load(file)
    result = {}
    for game in games().values():
        row = {**table["atari"], "game": game.name, "num_actions": game.num_actions}
        row["parameters"] += row.pop("parameters_per_action") * game.num_actions
        row["checkpoint"] = row["checkpoint"].format(game=game.name)
        result[game.name] = Published(**row, scores=tuple(table["scores"][game.name]))
    return result | {CSGO: Published(**table["csgo"], game=CSGO, num_actions=51)}
