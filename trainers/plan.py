"""What a training will cost: its work counted, the machine's rates measured in short pieces of it, and the time."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from diamond_gym.data.episode_files import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.files import temporary_folder
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.collect import CollectConfig, Collector, Policy
from diamond_gym.trainers.collect_games import Games
from diamond_gym.trainers.diamond import DiamondConfig, replay_starts
from diamond_gym.trainers.flop import Flop, count, count_fit, denoiser_calls, predictions
from diamond_gym.trainers.policies import AgentPolicy
from diamond_gym.trainers.world_model import WorldModelConfig, WorldModelTrainer

_STARTS = 16
_LEAST_STEPS = 200  # at least, so that there is something to fit to


@dataclass(frozen=True)
class Phase:
    """One kind of work of a training.

    Attributes:
        name: What is done.
        amount: How many units of it there are in the whole training.
        unit: What is counted.
        flop: Floating-point operations of all of them, as torch counts them; 0 where no network is trained.
        per_second: Units per second on this machine.
        facts: Further counts, by name.
    """

    name: str
    amount: int
    unit: str
    flop: float
    per_second: float
    facts: dict[str, int]

    @property
    def seconds(self) -> float:
        """How long it all takes at the measured rate."""
        return self.amount / self.per_second

    @property
    def flop_per_second(self) -> float:
        """What the machine achieves at it."""
        return self.flop / self.seconds if self.amount else 0.0


def plan(
    config: DiamondConfig,
    about: About,
    games: Games,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    seconds: float = 60.0,
) -> list[Phase]:
    """Measures a whole training, without leaving anything behind.

    Args:
        config: The training.
        about: The game.
        games: To play in, `config.num_envs` of them; they are closed afterwards.
        device: Where the networks would live.
        precision: Of the world model's networks.
        seconds: About how long to measure.

    Raises:
        BadArgument: The training is model-free, without dreams to plan.
    """
    if config.model_free:
        games.close()
        raise BadArgument("a model-free run dreams nothing: --dry-run plans those that do")
    config = config.for_game(about)
    updates, windows = config.updates(config.epochs)
    agent = ActorCriticTrainer(config.agent, device=device)
    policy = AgentPolicy(agent.agent, config.num_envs, np.random.default_rng(0), config.temperature or 1.0)
    collect = CollectConfig(about.game, config.num_envs, epsilon=config.epsilon)
    with _some_play(about, collect, policy, games, seconds / 6) as (store, rate):
        flop = count(config, about.frame_shape)
        return [
            Phase("playing", config.real_steps, "real steps", 0.0, rate, {}),
            _plan_fit(config.fit, store, updates, device, precision, seconds * 5 / 12, flop),
            _plan_agent(config, store, windows, device, precision, seconds * 5 / 12, flop),
        ]


def plan_world_model(
    config: WorldModelConfig,
    about: About,
    games: Games | None,
    real_steps: int,
    steps: int,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    seconds: float = 30.0,
) -> list[Phase]:
    """Measures the fitting of a world model, and the play before it.

    Args:
        config: What is fitted, with the game filled in.
        about: The game.
        games: To play in, sixteen of them; None for the game in ALE.
        real_steps: What is to be played.
        steps: Steps of the fitting.
        device: Where the networks would live.
        precision: Of the networks.
        seconds: About how long to measure.
    """
    with _some_play(about, CollectConfig(about.game), None, games, seconds / 6) as (store, rate):
        call, training, _, score_training = count_fit(config, about.frame_shape)
        flop = Flop(call, training, score_training, 0.0)
        return [
            Phase("playing", real_steps, "real steps", 0.0, rate, {}),
            _plan_fit(config, store, steps, device, precision, seconds * 5 / 6, flop),
        ]


@contextmanager
def _some_play(
    about: About, config: CollectConfig, policy: Policy | None, games: Games | None, seconds: float
) -> Iterator[tuple[EpisodeStore, float]]:
    """A store with a little real play, gone after the block, and how many steps a second it took."""
    with torch.random.fork_rng(devices=[]), temporary_folder(Path(tempfile.gettempdir())) as folder:
        store = EpisodeStore(folder / "experience", "a", about)
        with Collector(store, config, policy, games) as collector:
            steps, began = 0, time.perf_counter()
            while steps < _LEAST_STEPS or time.perf_counter() - began < seconds:
                steps += collector.collect(_LEAST_STEPS).steps
            rate = steps / (time.perf_counter() - began)
        try:
            yield store, rate
        finally:
            store.close()


def _plan_fit(
    config: WorldModelConfig,
    store: EpisodeStore,
    steps: int,
    device: torch.device | str,
    precision: str,
    seconds: float,
    flop: Flop,
) -> Phase:
    rows, every = config.denoiser_optimizer.batch_size, config.reward_end_every
    rows_of_other = config.reward_end_optimizer.batch_size

    def piece(part: float) -> Callable[[], None]:
        made = replace(
            config,
            denoiser_optimizer=replace(config.denoiser_optimizer, batch_size=max(1, round(rows * part))),
            reward_end_optimizer=replace(config.reward_end_optimizer, batch_size=max(1, round(rows_of_other * part))),
        )
        fit = WorldModelTrainer(made, store, steps, 0, device, precision)

        def run() -> None:
            for _ in range(every):
                _settle(fit.train_step())

        return run

    per_step = _seconds_of(piece, max(rows, rows_of_other), seconds) / every
    segments = -(-steps // every) * rows_of_other
    facts = {
        "denoiser calls, forwards and back": int(steps * rows * predictions(config)),
        "reward/end segments": segments,
    }
    work = steps * rows * flop.denoiser_row + segments * flop.reward_end_row
    return Phase("world model", steps, "updates", work, 1 / per_step, facts)


def _plan_agent(
    config: DiamondConfig,
    store: EpisodeStore,
    windows: int,
    device: torch.device | str,
    precision: str,
    seconds: float,
    flop: Flop,
) -> Phase:
    model = WorldModelTrainer(config.fit, store, 1, 0, device, precision).averaged()
    t = model.denoiser.num_steps_conditioning
    model.starts = replay_starts(store, t, _STARTS, np.random.default_rng(0))
    rows, horizon = config.agent.optimizer.batch_size, config.agent.horizon

    def piece(part: float) -> Callable[[], None]:
        """Part of a window: fewer dreams first, and where one alone is too many, fewer steps of it."""
        few = max(1, round(rows * part))
        length = max(1, round(horizon * min(1.0, part * rows)))
        made: AgentFitConfig = replace(config.agent, optimizer=replace(config.agent.optimizer, batch_size=few))
        fit = ActorCriticTrainer(replace(made, horizon=length), device=device)
        fit.dream_in(model.dream(few, sampler=config.sampler, horizon=horizon))
        return lambda: _settle(fit.train_step())

    per_window = _seconds_of(piece, rows * horizon, seconds)
    frames = windows * rows * horizon
    facts = {"dreamed frames": frames, "denoiser calls": frames * denoiser_calls(config.sampler)}
    return Phase("agent", windows, "windows", frames * flop.dreamed_frame, 1 / per_window, facts)


def _seconds_of(piece: Callable[[float], Callable[[], None]], rows: int, budget: float) -> float:
    """How long the whole piece takes, from itself if that is quick enough, else from two smaller parts of it.

    Part of the time does not depend on the size: what two sizes have in common is taken for it.

    Args:
        piece: Makes ready a part of it, 0 to 1; what is returned does it once.
        rows: What it can be divided into.
        budget: Seconds to spend, about.
    """
    began, part = time.perf_counter(), 1 / rows
    known: list[tuple[float, float]] = []
    while True:
        run = piece(part)
        run()  # once for what only the first time costs
        start = time.perf_counter()
        run()
        took = time.perf_counter() - start
        known.append((part, took))
        left = budget - (time.perf_counter() - began)
        # The next part has to be done twice, too. It may be small again if even the smallest is slow.
        growth = max(2.0, left / (3 * took)) if len(known) > 1 else max(4.0, left / (3 * took))
        if part >= 1 or (len(known) > 1 and 3 * took > left):
            break
        part = min(1.0, part * growth)
    if part >= 1:
        while time.perf_counter() - began < budget / 2:  # the least of several is what the machine can do
            start = time.perf_counter()
            run()
            took = min(took, time.perf_counter() - start)
        return took
    (small, quick), (large, slow) = known[-2:]
    growing = (slow - quick) / (large - small) * (1 - large)
    return slow + min(max(growing, 0.0), slow * (1 / large - 1))  # never less than the part, nor than in proportion


def _settle(metrics: dict[str, float | torch.Tensor]) -> None:
    """Waits for the device to have done a step."""
    float(next(iter(metrics.values())))
