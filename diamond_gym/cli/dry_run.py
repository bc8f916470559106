"""`--dry-run`: how long a training would take, from one step of each kind measured here."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from diamond_gym.cli.terminal import clock, console
from diamond_gym.cuda_graphs import WARM_UP
from diamond_gym.data.episode_files import Episode
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.files import temporary_folder
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.collect import CollectConfig, Collector
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.start_states import replay_starts
from diamond_gym.trainers.two_stage import trainer_of
from diamond_gym.trainers.worlds import World
from diamond_gym.world_model import WorldModel

_REAL_STEPS = 200
_SLOW = 5.0  # seconds: a first step that takes longer is not repeated without what only the first time costs


@dataclass(frozen=True)
class Phase:
    """One kind of work: how much of it there is, in which unit, and the seconds that one takes on this machine."""

    name: str
    amount: int
    unit: str
    seconds_each: float


def measure(
    config: DiamondConfig,
    world: World,
    amounts: tuple[int, int, int],
    num_envs: int,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> list[Phase]:
    """Measures one step of each kind that has an amount, and leaves nothing behind.

    Args:
        config: The training.
        world: What would be learned.
        amounts: Real steps, updates of the world model, and windows of the agent, in all.
        num_envs: Environments to play in, side by side.
        device: Where the networks would live.
        precision: Of the world model's networks.
    """
    (real_steps, updates, windows), about = amounts, world.about
    fit = config.fit.for_frames(about.frame_shape, world.codec.num_inputs)
    config = config.for_game(about) if windows else replace(config, fit=fit)
    with played(world, real_steps, num_envs) as (store, phases):
        world_model = trainer_of(config.fit)(config.fit, store, updates, 0, device, precision)
        every = config.fit.reward_end_every
        each = seconds(lambda: [world_model.train_step() for _ in range(every)][-1], device) / every
        phases.append(Phase("world model", updates, "updates", each))
        if windows:
            agent = dreaming_agent(config, world_model.averaged(), store, device)
            phases.append(Phase("agent", windows, "windows", seconds(agent.train_step, device)))
    return phases


def dreaming_agent(
    config: DiamondConfig, model: WorldModel, store: EpisodeStore, device: torch.device | str
) -> ActorCriticTrainer:
    """A new agent's training in a model's dreams, as many as its batch has, from pieces of recorded play."""
    rows = config.agent.optimizer.batch_size
    model.starts = replay_starts(store, model.denoiser.num_steps_conditioning, rows, np.random.default_rng(0))
    agent = ActorCriticTrainer(config.agent, device=device)
    agent.dream_in(model.dream(rows, sampler=config.sampler, horizon=config.agent.horizon))
    return agent


@contextmanager
def played(world: World, real_steps: int, num_envs: int) -> Iterator[tuple[EpisodeStore, list[Phase]]]:
    """A little of a world's play, and the phase of playing; torch's chance, and what is left behind, are as before.

    Args:
        world: What is played; where it cannot be, nothing happens in the play, and there is no such phase.
        real_steps: To be played in all.
        num_envs: Environments to play in, side by side.
    """
    about, codec = world.about, world.codec
    phases: list[Phase] = []
    with (
        torch.random.fork_rng(devices=[]),
        temporary_folder(Path(tempfile.gettempdir())) as folder,
        EpisodeStore(folder / "experience", "a", world.about) as store,
    ):
        if world.env:
            with Collector(store, world.envs(num_envs), CollectConfig("random")) as collector:
                began = time.perf_counter()
                steps = collector.collect(_REAL_STEPS).steps
                phases.append(Phase("playing", real_steps, "real steps", (time.perf_counter() - began) / steps))
        else:
            obs = np.zeros((_REAL_STEPS + 1, *about.frame_shape), np.uint8)
            act = np.zeros((_REAL_STEPS, *about.action_shape), about.action_dtype)
            if codec.shape == about.action_shape:
                act[:] = codec.rest
            store.append(Episode(obs, act))
        yield store, phases


def print_phases(phases: list[Phase], where: str) -> None:
    """Prints the work, the measured rates and the times, phase by phase and together."""
    console.print(f"the whole training on {where}, none of which has been done:")
    for phase in phases:
        rate, total = 1 / phase.seconds_each, clock(phase.amount * phase.seconds_each)
        print(f"{phase.name:<12}{phase.amount:>14,} {phase.unit:<11}{rate:>10,.3g}/s {total:>16}")
    print(f"{'together':<50}{clock(sum(phase.amount * phase.seconds_each for phase in phases)):>17}")
    console.print("(estimated from one step of each kind; the games that score an agent are not included)")


def seconds(step: Callable[[], dict[str, float | torch.Tensor]], device: torch.device | str = "cpu") -> float:
    """How long a step takes, the device's work included."""
    if torch.device(device).type == "cuda":
        for _ in range(WARM_UP + 1):  # until it is recorded
            step()
    took = _SLOW + 1
    for _ in range(2):
        began = time.perf_counter()
        float(next(iter(step().values())))  # waits for the device
        took = time.perf_counter() - began
        if took > _SLOW:
            break
    return took
