"""What can be pulled: the authors' models of the 26 games of Atari 100k, and their CS:GO engine."""

import statistics
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diamond_gym.registry.card import Card, Table
from diamond_gym.registry.games import games

REVISION = "5d4abca9af6ab1b3ab1c6fc228cacb7281130f7f"
"""The commit of the authors' repository that is asked for: that of 2024-10-21, after which it had not changed until
September 2026 by two public records of it. The hashes of its files are kept at the first pull."""
CSGO = "CSGO"
_TABLE = Path(__file__).with_name("published.toml")
_PAPER_UNET: Table = {"depths": [2, 2, 2, 2], "attn_depths": [0, 0, 0, 0]}
_BYTES_PER_PARAMETER = 4


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
        obs_shape: What a user sees: (height, width, channels).
        num_actions: How many actions there are, or the length of one that is made of several.
        action_meanings: A word for each, where they are a list.
        scores: Of the authors' agents, one per seed; empty where the model has no agent.
    """

    game: str
    repository: str
    checkpoint: str
    config: str
    env_config: str
    license: str
    parameters: int
    obs_shape: tuple[int, int, int]
    num_actions: int
    action_meanings: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    spawn: str | None = None

    @property
    def name(self) -> str:
        """The model's name in the registry once it has been pulled."""
        return f"{self.game.lower()}-diamond"

    @property
    def bytes(self) -> int:
        """What has to be fetched, about."""
        return self.parameters * _BYTES_PER_PARAMETER

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the files in the repository, without those of the spawn folder."""
        return self.checkpoint, self.config, self.env_config

    @property
    def source(self) -> str:
        """Where a person can look it up."""
        return f"https://huggingface.co/{self.repository} ({self.checkpoint})"

    @property
    def summary(self) -> str:
        """One line for a card."""
        what = (
            "the authors' CS:GO engine" if self.game == CSGO else f"the authors' world model and agent of {self.game}"
        )
        return f"DIAMOND, {what} (Alonso et al. 2024)."

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

    def card(self) -> Card:
        """The card as far as it is known before the model is pulled: sizes, source, licence, published figures."""
        spaces: Table = {"obs_shape": list(self.obs_shape), "num_actions": self.num_actions}
        if self.action_meanings:
            spaces["action_meanings"] = list(self.action_meanings)
        return Card(
            name=self.name,
            game=self.game,
            created="2024-10-31T00:00:00Z",
            license=self.license,
            summary=self.summary,
            source=self.source,
            spaces=spaces,
            figures=self.figures,
            training={"parameters": self.parameters, "paper": "arXiv 2405.12399"},
            **(_csgo_networks if self.game == CSGO else _atari_networks)(self.num_actions),
        )


@cache
def published() -> dict[str, Published]:
    """All that can be pulled, by game: the 26 in alphabetical order, then CS:GO."""
    with open(_TABLE, "rb") as file:
        table = tomllib.load(file)
    rows = {kind: {**table[kind], "obs_shape": tuple(table[kind]["obs_shape"])} for kind in ("atari", "csgo")}
    atari, per_action = rows["atari"], rows["atari"].pop("parameters_per_action")
    result = {
        game.name: Published(
            **{
                **atari,
                "checkpoint": atari["checkpoint"].format(game=game.name),
                "parameters": atari["parameters"] + per_action * game.num_actions,
            },
            game=game.name,
            num_actions=game.num_actions,
            action_meanings=game.action_meanings,
            scores=tuple(table["scores"][game.name]),
        )
        for game in games().values()
    }
    return result | {CSGO: Published(**rows["csgo"], game=CSGO, num_actions=51)}


def _atari_networks(num_actions: int) -> dict[str, Table]:
    frames: Table = {"img_channels": 3, "num_actions": num_actions}
    inner = {**frames, **_PAPER_UNET, "num_steps_conditioning": 4, "cond_channels": 256, "channels": [64] * 4}
    square: Table = {**frames, "img_size": 64, "lstm_dim": 512}
    return {
        "denoiser": {"sigma_data": 0.5, "sigma_offset_noise": 0.3, "inner_model": inner},
        "reward_end": {**square, **_PAPER_UNET, "cond_channels": 128, "channels": [32] * 4},
        "actor_critic": {**square, "channels": [32, 32, 64, 64], "down": [1, 1, 1, 1]},
    }


def _csgo_networks(num_actions: int) -> dict[str, Table]:
    frames: Table = {**_PAPER_UNET, "img_channels": 3, "cond_channels": 2048, "noise_cond": True}
    dynamics = {
        **frames,
        "num_steps_conditioning": 4,
        "channels": [128, 256, 512, 1024],
        "attn_depths": [0, 0, 1, 1],
        "num_actions": num_actions,
    }
    upsampler = {
        **frames,
        "num_steps_conditioning": 1,
        "channels": [64, 64, 128, 256],
        "attn_depths": [0, 0, 0, 1],
        "num_extra_images": 1,
    }
    edm: Table = {"sigma_data": 0.5, "sigma_offset_noise": 0.1}
    return {
        "denoiser": {**edm, "noise_previous_obs": True, "inner_model": dynamics},
        "upsampler": {**edm, "upsampling_factor": 5, "inner_model": upsampler},
    }
