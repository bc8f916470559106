"""From a finished fitting to a registered model: start states, figures, card."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import cut, windows
from diamond_gym.registry import Card
from diamond_gym.registry.card import now
from diamond_gym.sampler import SamplerConfig
from diamond_gym.starts import Starts
from diamond_gym.trainers.fit_config import FitConfig
from diamond_gym.world_model import WorldModel


def draw_starts(store: EpisodeStore, t: int, n: int = 1024, seed: int = 0) -> Starts:
    """Draws real pieces of T frames: up to a quarter of them beginnings of games, the others from anywhere.

    Args:
        store: Where from.
        t: Frames per piece.
        n: Pieces.
        seed: Seeds the choice.
    """
    rng = np.random.default_rng(seed)
    lengths = store.lengths
    firsts = [i for i in range(store.num_episodes) if store.info(i).get("first") and lengths[i] >= t]
    firsts = sorted(rng.permutation(firsts)[: n // 4].tolist())
    beginning = cut(store, np.array(firsts, np.int64), np.zeros(len(firsts), np.int64), t)
    anywhere = windows(store, n - len(firsts), t, seed, past=t - 1)
    obs = np.concatenate((beginning.obs, anywhere.obs)).transpose(0, 1, 3, 4, 2)
    act = np.concatenate((beginning.act, anywhere.act))[:, : t - 1]
    return Starts(np.ascontiguousarray(obs), act, np.arange(len(act)) < len(firsts))


def make_card(
    name: str,
    store: EpisodeStore,
    config: FitConfig,
    training: Mapping[str, Any],
    figures: Mapping[str, float],
    command: str,
    sampler: SamplerConfig,
) -> Card:
    """The card of a fitted model.

    Args:
        name: The registry name.
        store: The experience it was fitted to.
        config: What was fitted, and how.
        training: What else to say about the training.
        figures: What was measured.
        command: The command that made it.
        sampler: How it samples frames unless a user says otherwise; the card names what is not the paper's.
    """
    about, paper = store.about, asdict(SamplerConfig())
    return Card(
        name=name,
        game=about.game,
        created=now(),
        summary=f"A small DIAMOND world model of {about.game}, fitted to {store.num_steps} steps of real play.",
        source=command,
        spaces={
            "obs_shape": list(about.frame_shape),
            "num_actions": about.num_actions,
            "action_meanings": list(about.action_meanings),
        },
        denoiser=asdict(config.denoiser),
        reward_end=asdict(config.reward_end),
        sampler={key: value for key, value in asdict(sampler).items() if value != paper[key]},
        training={
            **training,
            "data": {
                "steps": store.num_steps,
                "episodes": store.num_episodes,
                "source": "the Arcade Learning Environment, as the paper preprocesses it",
                **{f"versions.{package}": number for package, number in about.versions.items()},
            },
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "versions": {name: version(name) for name in ("diamond-gym", "torch", "numpy", "gymnasium")},
        },
        figures={key: float(f"{value:.4g}") for key, value in figures.items()},
    )


def half(model: WorldModel) -> dict[str, torch.Tensor]:
    """A model's weights as float16, half the file; an error of 2^-11 of each weight, far below training's own noise."""
    return {key: value.half().cpu().contiguous() for key, value in model.weights().items()}
