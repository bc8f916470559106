"""Measuring a world model from end to end: held-out play, policies in dream and game, free dreams, diversity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.fidelity import (
    HORIZONS,
    SeenColours,
    Table,
    artefacts,
    calibration,
    compare_returns,
    course,
    diversity,
    drift,
    figures,
    similarity,
)
from diamond_gym.trainers.rollouts import (
    Progress,
    Rollouts,
    dream_rollouts,
    horizon_within,
    policy_maker,
    real_rollouts,
)
from diamond_gym.trainers.sb3_files import SavedAgent
from diamond_gym.trainers.worlds import World
from diamond_gym.world_model import WorldModel

_FEWER = 5  # the part of everything that --quick measures


@dataclass(frozen=True)
class Sizes:
    """How much to measure; at 65 dreamed frames a second the defaults would take five minutes."""

    windows: int = 500
    """Held-out windows to dream over again with the same actions."""
    horizon: int = 16
    """Steps of each."""
    rollouts: int = 100
    """Dreams of each policy, and as many pieces of real play, for returns; 0 for none."""
    rollout_steps: int = 50
    """Steps of each."""
    free_dreams: int = 16
    """Dreams whose drift is followed; 0 for none."""
    free_steps: int = 200
    """Steps of each."""
    starts: int = 4
    """Starts from which to dream several times over."""
    dreams_per_start: int = 8
    """Dreams of each of those starts, at least 2; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("windows", "horizon", "rollout_steps", "free_steps", "starts"):
            if getattr(self, name) < 1:
                raise BadArgument(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        for name in ("rollouts", "free_dreams"):
            if getattr(self, name) < 0:
                raise BadArgument(f"--{name.replace('_', '-')} must be at least 0, not {getattr(self, name)}")
        if self.dreams_per_start < 0 or self.dreams_per_start == 1:
            raise BadArgument(f"--dreams-per-start must be 0 or at least 2, not {self.dreams_per_start}")

    def quicker(self) -> "Sizes":
        """A fifth of everything but the steps of windows and rollouts."""
        names = ("windows", "rollouts", "free_dreams", "starts", "dreams_per_start")
        return replace(self, **{name: min(n := getattr(self, name), max(2, n // _FEWER)) for name in names})

    def frames(self, stores: int, policies: int) -> int:
        """How many frames will be dreamed."""
        return (
            stores * self.windows * self.horizon
            + policies * self.rollouts * self.rollout_steps
            + (self.free_dreams * self.free_steps if policies else 0)
            + self.starts * self.dreams_per_start * (self.rollout_steps if policies and self.rollouts else self.horizon)
        )


Pair = tuple[Rollouts, Rollouts]  # real play, and dreams in its place


@dataclass
class Fidelity:
    """All that was measured; a part that was not is missing.

    Attributes:
        name: The model's name.
        world: What it dreams, to be played where there are policies.
        table: The figures of a card: those of the first held-out play by their plain names, all others in tables.
        loops: Closed-loop rollouts by the name of the held-out play, the first of them the one that counts.
        replays: Some starts with the actions that were really taken, for strips and videos.
        courses: Statistics of frames by step, of the game and of free dreams.
    """

    name: str
    game: str
    table: Table = field(default_factory=dict)
    loops: dict[str, Pair] = field(default_factory=dict)
    replays: Pair | None = None
    courses: tuple[dict[str, Any], dict[str, Any]] | None = None


def describe(store: EpisodeStore, played_by: str | None = None) -> dict[str, Any]:
    """What held-out play is, for the card: by which policy it was made, and how much of it there is."""
    noted = sorted({str(store.info(i).get("policy", "not recorded")) for i in range(len(store))})
    return {"policy": played_by or " and ".join(noted), "steps": store.num_steps, "episodes": len(store)}


def measure(
    model: WorldModel,
    name: str,
    world: World,
    held_out: Mapping[str, tuple[EpisodeStore, dict[str, Any]]],
    sizes: Sizes,
    policies: Sequence[str],
    sampler: SamplerConfig,
    seed: int = 0,
    progress: Progress | None = None,
    saved: SavedAgent | None = None,
) -> Fidelity:
    """Measures everything that `sizes` asks for.

    Args:
        model: The world model, of one stage.
        name: Its name.
        world: What it dreams, to be played where there are policies.
        held_out: Stores of real play with what they are, by their names; the first is the one that counts.
        sizes: How much of everything.
        policies: Whom to compare in dream and game; none where it cannot be played.
        sampler: How frames are sampled.
        seed: Seeds everything.
        progress: Called with the number of frames dreamed since the last call.
        saved: The model's own agent, where it lies in a file beside it.
    """
    result = Fidelity(name, world.name)
    table, t = result.table, model.denoiser.num_steps_conditioning
    for i, (label, (store, about)) in enumerate(held_out.items()):
        horizon = horizon_within(store, t, sizes.horizon)
        horizons = [h for h in HORIZONS if h <= horizon]
        real = Rollouts.held_out(store, sizes.windows, t, horizon, seed)
        dreamed = dream_rollouts(model, real, sampler, None, seed, progress)
        result.loops[label] = real, dreamed
        part = figures(real, dreamed, horizons) | similarity(real, dreamed, horizons) | calibration(model, real)
        part["held_out"] = about
        table |= part if i == 0 else {label: part}
    to_replay = [real for real, _ in result.loops.values()]
    for policy in policies if sizes.rollouts else ():
        make = policy_maker(model, world.name, policy, saved)
        real = real_rollouts(model, world, make, sizes.rollouts, sizes.rollout_steps, seed)
        dreamed = dream_rollouts(model, real, sampler, make, seed, progress)
        table.setdefault("returns", {})[policy] = compare_returns(real, dreamed)
        to_replay.insert(0, real)
    if policies and sizes.free_dreams:
        make = policy_maker(model, world.name, policies[0], saved)
        real = real_rollouts(model, world, make, sizes.free_dreams, sizes.free_steps, seed)
        dreamed = dream_rollouts(model, real, sampler, make, seed, progress)
        result.courses = course(real), course(dreamed)
        table["drift"] = drift(*result.courses)
        if held_out and real.obs.shape[2] <= 3:
            frames = [torch.from_numpy(episode.obs).movedim(-1, 1) for episode in next(iter(held_out.values()))[0]]
            table["drift"] |= artefacts(SeenColours(torch.cat(frames)), real, dreamed)
    if sizes.dreams_per_start and to_replay:
        real, k = to_replay[0][: sizes.starts], sizes.dreams_per_start
        dreams = dream_rollouts(model, real[np.repeat(np.arange(len(real)), k)], sampler, None, seed, progress)
        step = min(max(HORIZONS), real.rew.shape[1])
        table[f"diversity_{step}"] = diversity(real, dreams, step)
        result.replays = real, dreams[::k]
    return result
