"""Measuring a world model from end to end: held-out windows, policies in dream and game, free dreams, diversity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any

import numpy as np

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import games
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.closed_loop import RealPlay
from diamond_gym.trainers.collect import Policy, StickyPolicy
from diamond_gym.trainers.collect_games import AleGames
from diamond_gym.trainers.fidelity import ClosedLoop, Diversity, Drift, UnderPolicy
from diamond_gym.trainers.policies import AgentPolicy
from diamond_gym.trainers.rollouts import MakePolicy, Rollouts, record
from diamond_gym.trainers.sb3_files import SavedAgent
from diamond_gym.trainers.scripted import ScriptedPolicy
from diamond_gym.world_model import WorldModel

POLICIES = ("random", "scripted", "agent")
HORIZONS = (1, 4, 16)
_WARM_UP = 60  # steps of a game before a piece of it begins, at most, beside what it takes to have T frames
_QUICKER = 5


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
                raise BadArgument(f"--{name.replace('_', '-')} must not be negative, unlike {getattr(self, name)}")
        if self.dreams_per_start < 0 or self.dreams_per_start == 1:
            raise BadArgument(f"--dreams-per-start must be 0 or at least 2, not {self.dreams_per_start}")

    def quicker(self) -> "Sizes":
        """A fifth of everything but the steps of windows and rollouts."""

        def fewer(n: int) -> int:
            return min(n, max(2, n // _QUICKER))

        return Sizes(
            fewer(self.windows),
            self.horizon,
            fewer(self.rollouts),
            self.rollout_steps,
            fewer(self.free_dreams),
            self.free_steps,
            fewer(self.starts),
            fewer(self.dreams_per_start),
        )

    def frames(self, stores: int, policies: int) -> int:
        """How many frames will be dreamed."""
        return (
            stores * self.windows * self.horizon
            + policies * self.rollouts * self.rollout_steps
            + (self.free_dreams * self.free_steps if policies else 0)
            + self.starts * self.dreams_per_start * (self.rollout_steps if policies and self.rollouts else self.horizon)
        )


@dataclass
class Fidelity:
    """All that was measured; a part that was not is missing.

    Attributes:
        name: The model's name.
        game: Its game.
        loops: Closed-loop rollouts by the name of the held-out play, the first of them the one that counts.
        held_out: What that play is: its policy, steps and episodes.
        under: Policies in dream and game.
        drift: Of free dreams.
        diversity: Of dreams of one start.
    """

    name: str
    game: str
    loops: dict[str, ClosedLoop] = field(default_factory=dict)
    held_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    under: list[UnderPolicy] = field(default_factory=list)
    drift: Drift | None = None
    diversity: Diversity | None = None

    def table(self) -> dict[str, Any]:
        """The figures of a card: those of the first held-out play by their plain names, all others in tables."""
        table: dict[str, Any] = {}
        for i, (name, loop) in enumerate(self.loops.items()):
            steps = loop.rollout.obs.shape[1]
            result = loop.table(h for h in HORIZONS if h <= steps) | {"held_out": self.held_out[name]}
            table |= result if i == 0 else {name: result}
        for under in self.under:
            table.setdefault("returns", {})[under.policy] = under.returns()
        if self.drift is not None:
            table["drift"] = self.drift.table()
        if self.diversity is not None:
            table["diversity"] = self.diversity.table((*HORIZONS, 50))
        return table


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
            raise BadArgument(f"a policy is one of {', '.join(POLICIES)}, not {name}")
        if name == "scripted":
            ScriptedPolicy(game, 1, np.random.default_rng(0))  # which says so if there is no script
    if "agent" in wanted and not has_agent:
        raise BadArgument("this model has no agent of its own")
    return list(wanted) or (["random", "agent"] if has_agent else ["random"])


def policy_maker(model: WorldModel, game: str, name: str, saved: SavedAgent | None = None) -> MakePolicy:
    """Makes policies by name, for any number of rows; the model's own agent may be a saved one beside it."""

    def make(rows: int, rng: np.random.Generator) -> Policy:
        if name == "scripted":
            return ScriptedPolicy(game, rows, rng)
        if name == "agent" and saved is not None:
            return saved.playing(rows, seed=int(rng.integers(2**31)))
        if name == "agent":
            assert model.actor_critic is not None
            return AgentPolicy(model.actor_critic, rows, rng)
        return StickyPolicy(model.num_actions, np.zeros(rows), rng)

    return make


def real_pieces(
    model: WorldModel, game: str, make: MakePolicy, rows: int, steps: int, seed: int, size: tuple[int, int]
) -> Rollouts:
    """Plays the real game for pieces to dream on from; a lost life ends an episode, as in training."""
    playing = AleGames(game, rows, size, noop_max=30, life_loss_ends=True)
    rng = np.random.default_rng([seed, steps])
    try:
        return record(playing, make(rows, rng), model.denoiser.num_steps_conditioning, steps, _WARM_UP, rng)
    finally:
        playing.close()


def can_play(game: str) -> bool:
    """Whether the real game is at hand."""
    return game in games() and all(find_spec(module) for module in ("ale_py", "cv2"))


def measure(
    model: WorldModel,
    name: str,
    game: str,
    held_out: Mapping[str, tuple[EpisodeStore, dict[str, Any]]],
    sizes: Sizes,
    policies: Sequence[str],
    sampler: SamplerConfig,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    saved: SavedAgent | None = None,
) -> Fidelity:
    """Measures everything that `sizes` asks for.

    Args:
        model: The world model, of one stage.
        name: Its name.
        game: Its game.
        held_out: Stores of real play with what they are, by their names; the first is the one that counts.
        sizes: How much of everything.
        policies: Whom to compare in dream and game; none where the game cannot be played.
        sampler: How frames are sampled.
        seed: Seeds everything.
        progress: Called with the number of frames dreamed since the last call.
        saved: The model's own agent, where it lies in a file beside it.
    """
    result = Fidelity(name, game)
    t = model.denoiser.num_steps_conditioning
    for label, (store, about) in held_out.items():
        play = RealPlay.draw(store, sizes.windows, t, sizes.horizon, seed)
        result.loops[label] = ClosedLoop.measure(model, play, sampler, seed, progress)
        result.held_out[label] = about
    size = model.obs_shape[:2]
    for policy in policies if sizes.rollouts else ():
        make = policy_maker(model, game, policy, saved)
        real = real_pieces(model, game, make, sizes.rollouts, sizes.rollout_steps, seed, size)
        result.under.append(UnderPolicy.measure(model, game, policy, real, make, sampler, seed, progress))
    if policies and sizes.free_dreams:
        make = policy_maker(model, game, policies[0], saved)
        real = real_pieces(model, game, make, sizes.free_dreams, sizes.free_steps, seed, size)
        result.drift = Drift.measure(model, real, make, sampler, seed, progress)
    plays = [under.real.play for under in result.under] + [loop.play for loop in result.loops.values()]
    if sizes.dreams_per_start and plays:
        few = RealPlay(**{f.name: getattr(plays[0], f.name)[: sizes.starts] for f in fields(RealPlay)})
        result.diversity = Diversity.measure(model, few, sizes.dreams_per_start, sampler, seed, progress)
    return result
