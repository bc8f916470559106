"""Measuring a world model from end to end: held-out play, policies in dream and game, free dreams, diversity."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.sampler import SamplerConfig
from diamond_gym.schema import check_least
from diamond_gym.trainers import fidelity
from diamond_gym.trainers.fidelity import HORIZONS, Table
from diamond_gym.trainers.games import Games
from diamond_gym.trainers.looks import Looks
from diamond_gym.trainers.policies import AgentPolicy, MakePolicy, Policy, ScriptedPolicy, StickyPolicy, check_scripted
from diamond_gym.trainers.rollouts import (
    WARM_UP,
    Progress,
    Rollouts,
    dream_rollouts,
    horizon_within,
    real_rollouts,
)
from diamond_gym.trainers.worlds import World
from diamond_gym.two_stage import TwoStageSampler, enlarge_planes
from diamond_gym.world_model import WorldModel

if TYPE_CHECKING:
    from diamond_gym.trainers.sb3_files import SavedAgent

POLICIES = ("random", "scripted", "agent")
OTHER_PLAY = "other_play"
"""The name of the table of the figures of further held-out play, by what that is."""
_FEWER = 5  # the part of everything that --quick measures


@dataclass(frozen=True)
class Sizes:
    """How much to measure; at 65 dreamed frames a second the defaults would take five minutes."""

    windows: int = 500
    """Held-out windows to dream over again with the same actions; 0 for none."""
    horizon: int = 16
    """Steps of each."""
    rollouts: int = 100
    """Dreams of each policy, and the same number of pieces of real play, for returns and looks; 0 for no returns.
    Where there are more --free-dreams, all of those count instead."""
    rollout_steps: int = 50
    """Steps of each, over which returns are added up."""
    free_dreams: int = 32
    """How many of them go on, so that their drift can be followed; 0 for none."""
    free_steps: int = 200
    """Steps of each of these, no fewer than --rollout-steps."""
    warm_up: int = WARM_UP
    """Steps of the game that are played before each of them begins, at most: 0 to so many. Cards have the first steps
    of a game; a model that has learnt little of the rest shows it only with more."""
    starts: int = 4
    """Starts from which to dream several times."""
    dreams_per_start: int = 8
    """Dreams of each of those starts, at least 2; 0 for none."""

    def __post_init__(self) -> None:
        check_least(self, windows=0, horizon=1, rollouts=0, rollout_steps=1, free_dreams=0, free_steps=1, starts=1)
        check_least(self, warm_up=0, dreams_per_start=0)
        if self.dreams_per_start == 1:
            raise BadArgument("--dreams-per-start must be 0 or at least 2, not 1")
        if self.rollouts and self.free_dreams and self.free_steps < self.rollout_steps:
            raise BadArgument(
                f"--free-steps must be at least --rollout-steps, {self.rollout_steps}, not {self.free_steps}: "
                "free dreams are rollouts that go on"
            )

    def quicker(self) -> "Sizes":
        """A fifth of everything but the steps of windows and rollouts."""
        names = ("windows", "rollouts", "free_dreams", "starts", "dreams_per_start")
        return replace(self, **{name: min(n := getattr(self, name), max(2, n // _FEWER)) for name in names})

    def frames(self, stores: int, policies: int) -> int:
        """How many frames will be dreamed."""
        replayed = self.rollout_steps if policies and self.rollouts else self.horizon
        return (
            stores * self.windows * self.horizon
            + policies * self.free_dreams * self.free_steps
            + policies * max(0, self.rollouts - self.free_dreams) * self.rollout_steps
            + self.starts * self.dreams_per_start * min(max(HORIZONS), replayed)
            + (self.starts * replayed if self.dreams_per_start else 0)
        )


def closed_loop(real: Rollouts, dreamed: Rollouts) -> Table:
    """Figures of held-out play and of its dreams; of two stages, those of the small frames too, as "low_res".

    There is also the error of the large frames over that of the small ones, enlarged: what the upsampler adds; NaN
    where these have no error.
    """
    table = fidelity.figures(real, dreamed)
    if dreamed.low_res is None:
        return table
    size = dreamed.low_res.shape[-2:]
    enlarged = replace(dreamed, obs=enlarge_planes(dreamed.low_res, real.obs.shape[-1] // size[1]))
    ratio = fidelity.over(fidelity.mse(real.after, dreamed.after), fidelity.mse(real.after, enlarged.after))
    table |= {f"mse_over_enlarged_{h}": float(ratio[h - 1]) for h in fidelity.horizons_of(real)}
    small = fidelity.figures(real.small(size), dreamed.small(size))
    return table | {"low_res": {name: value for name, value in small.items() if name.startswith("mse")}}


Pair = tuple[Rollouts, Rollouts]  # real play, and dreams in its place


@dataclass
class Fidelity:
    """All that was measured; a part that was not is missing.

    Attributes:
        table: The figures of a card: those of the first held-out play by their plain names, those of further ones in
            tables under `other_play` by theirs, all others in tables of their own.
        loops: Closed-loop rollouts by the name of the held-out play, the first of them the one that counts.
        replays: Some starts with the actions that were really taken, for strips and videos.
        courses: Statistics of frames by step, of the game and of free dreams.
        free: The first policy's free dreams, and the real play from the same frames.
    """

    table: Table = field(default_factory=dict)
    loops: dict[str, Pair] = field(default_factory=dict)
    replays: Pair | None = None
    courses: tuple[dict[str, Any], dict[str, Any]] | None = None
    free: Pair | None = None


def describe(store: EpisodeStore, played_by: str | None = None) -> dict[str, Any]:
    """What held-out play is, for the card: by which policy it was made, and how much of it there is."""
    noted = sorted({str(store.info(i).get("policy", "not recorded")) for i in range(len(store))})
    return {"policy": played_by or " and ".join(noted), "steps": store.num_steps, "episodes": len(store)}


def policies_of(has_agent: bool, game: str, wanted: Sequence[str] = ()) -> list[str]:
    """The policies to compare: those wanted, else random and, where the model has one, its own agent.

    Raises:
        BadArgument: There is no such policy, or the model has no agent.
    """
    for name in wanted:
        if name not in POLICIES:
            raise BadArgument(f"a policy must be one of {', '.join(POLICIES)}, not {name}")
        if name == "scripted":
            check_scripted(game)
    if "agent" in wanted and not has_agent:
        raise BadArgument("this model has no agent of its own")
    return list(wanted) or (["random", "agent"] if has_agent else ["random"])


def policy_maker(model: WorldModel, game: str, name: str, saved: "SavedAgent | None" = None) -> MakePolicy:
    """Makes policies by name, for any number of rows; the model's own agent may be a saved one beside it."""

    def make(rows: int, rng: np.random.Generator) -> Policy:
        if name == "scripted":
            return ScriptedPolicy(game, rows, rng)
        if name == "agent" and saved is not None:
            return saved.playing(rows, seed=int(rng.integers(2**31)))
        if name == "agent":
            assert model.actor_critic is not None
            return AgentPolicy(model.actor_critic, rows, rng)
        return StickyPolicy(model.codec, np.zeros(rows), rng)

    return make


def measure(
    model: WorldModel,
    world: World,
    held_out: Mapping[str, tuple[EpisodeStore, dict[str, Any]]],
    sizes: Sizes,
    policies: Sequence[str],
    sampler: SamplerConfig | TwoStageSampler,
    seed: int = 0,
    progress: Progress | None = None,
    saved: "SavedAgent | None" = None,
) -> Fidelity:
    """Measures everything that `sizes` asks for.

    Args:
        model: The world model.
        world: What it dreams, to be played where there are policies.
        held_out: Stores of real play with what they are, by their names; the first is the one that counts.
        sizes: How much of everything.
        policies: Whom to compare in dream and game; none where it cannot be played.
        sampler: How frames are sampled.
        seed: Seeds everything.
        progress: Called with the number of frames dreamed since the last call.
        saved: The model's own agent, where it lies in a file beside it.
    """
    model.use_kernels()
    result = Fidelity()
    table, t = result.table, model.denoiser.num_steps_conditioning
    for i, (label, (store, about)) in enumerate(held_out.items() if sizes.windows else ()):
        horizon = horizon_within(store, t, sizes.horizon)
        real = Rollouts.held_out(store, sizes.windows, t, horizon, seed)
        dreamed = dream_rollouts(model, real, sampler, None, seed, progress)
        result.loops[label] = real, dreamed
        part = closed_loop(real, dreamed) | fidelity.similarity(real, dreamed)
        seen = real if dreamed.low_res is None else real.small(dreamed.low_res.shape[-2:])
        part |= fidelity.calibration(model, seen) | {"held_out": about}
        if i == 0:
            table |= part
        else:  # in a table of their own: a folder may be called drift
            table.setdefault(OTHER_PLAY, {})[label] = part
    to_replay = next(iter(result.loops.values()))[0] if result.loops else None
    makers = {policy: policy_maker(model, world.name, policy, saved) for policy in policies}
    counted = next(iter(held_out.values()), None)
    looks = None if counted is None else Looks.beside(world.name, counted[0])
    for policy, make in makers.items():
        pieces: list[Pair] = []
        for n, steps in (
            (sizes.free_dreams, sizes.free_steps),
            (sizes.rollouts - sizes.free_dreams, sizes.rollout_steps),
        ):
            if n <= 0:
                continue
            done = sum(len(dreamed) for _, dreamed in pieces)
            with closing(Games(world.envs(n))) as playing:
                real = real_rollouts(playing, make, t, steps, seed + done, world.codec, sizes.warm_up)
            # random play is the same in the dream: it takes no notice of what it sees
            same = None if policy == "random" else make
            pieces.append((real, dream_rollouts(model, real, sampler, same, seed + done, progress)))
        if sizes.rollouts and pieces:
            both = [Rollouts.joined([pair[side].cut(sizes.rollout_steps) for pair in pieces]) for side in (0, 1)]
            table.setdefault("returns", {})[policy] = fidelity.compare_returns(*both)
            to_replay = both[0]
        if pieces and sizes.free_dreams and result.free is None:
            result.free = pieces[0]
            result.courses = fidelity.course(pieces[0][0]), fidelity.course(pieces[0][1])
            table["drift"] = fidelity.drift(*result.courses)
        if looks is not None and (figures := looks.table(pieces)):
            table.setdefault("looks", {})[policy] = figures
    if sizes.dreams_per_start and to_replay is not None:
        real, step = to_replay[: sizes.starts], min(max(HORIZONS), to_replay.rew.shape[1])
        repeated = real[np.repeat(np.arange(len(real)), sizes.dreams_per_start)]
        dreams = dream_rollouts(model, repeated, sampler, None, seed, progress, step)
        table[f"diversity_{step}"] = fidelity.diversity(real, dreams, step)
        result.replays = real, dream_rollouts(model, real, sampler, None, seed, progress)
    return result
