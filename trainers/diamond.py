"""DIAMOND's outer loop: play, fit the world model, train the agent in its dreams, and so on.

Alonso et al. 2024 (arXiv 2405.12399), algorithm 1.

Alonso et al. 2024 (arXiv 2405.12399), appendix; the defaults are the paper's for Atari 100k.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diamond_gym.data.episode_files import INDEX, About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import SegmentSampler
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.starts import Starts
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.collect import CollectConfig, Collector, CollectStats
from diamond_gym.trainers.collect_games import Games
from diamond_gym.trainers.held_out import HeldOut
from diamond_gym.trainers.loop import ALONE, Means, Processes, check_finite
from diamond_gym.trainers.policies import AgentPolicy
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.world_model import WorldModelConfig, WorldModelTrainer


@dataclass(frozen=True)
class DiamondConfig:
    """The whole of a training; the defaults are the paper's for Atari 100k."""

    fit: WorldModelConfig = field(default_factory=WorldModelConfig)
    agent: AgentFitConfig = field(default_factory=AgentFitConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    epochs: int = 1000
    """Epochs in all; the last ones, when the real steps are used up, train without collecting."""
    real_steps: int = 100_000
    """Steps of the real game, in all."""
    first_steps: int = 5_000
    """Real steps of the first epoch; more follow, by `steps_per_epoch`, while there are too few rewards."""
    first_steps_at_most: int = 10_000
    first_rewards: int = 10
    """How often the two rarer signs of reward have to be seen, together, to end the first collection."""
    steps_per_epoch: int = 100
    world_model_steps: int = 400
    """Updates of denoiser and reward/end model per epoch."""
    agent_steps: int = 400
    first_world_model_steps: int = 10_000
    first_agent_steps: int = 5_000
    num_envs: int = 1
    """Real games side by side."""
    epsilon: float = 0.01
    """Chance of a random action while collecting."""
    temperature: float = 1.0
    """Of the policy while collecting; Freeway needs less than 1."""
    num_starts: int = 1024
    """Pieces of real play, drawn anew each epoch, that its dreams begin from."""
    test_every: int = 20
    """Epochs between test collections: whole games that nothing learns from; 0 for none."""
    test_episodes: int = 4
    test_steps_at_most: int = 27_000
    """Steps after which a game of a test collection is left as it stands (27,000 are ALE's own half hour)."""
    final_episodes: int = 100
    """Whole games that score the agent at the end."""

    def __post_init__(self) -> None:
        """Refuses what makes no sense, in one line."""
        least = {"epochs": 1, "real_steps": 1, "first_steps": 1, "steps_per_epoch": 1, "num_envs": 1, "num_starts": 1}
        least |= {"test_episodes": 1, "test_steps_at_most": 1}
        least |= dict.fromkeys(("first_rewards", "test_every", "final_episodes", "world_model_steps"), 0)
        least |= dict.fromkeys(("agent_steps", "first_world_model_steps", "first_agent_steps"), 0)
        for name, bound in least.items():
            if getattr(self, name) < bound:
                flag = name.replace("_", "-")
                raise BadArgument(f"--{flag} must be at least {bound}, not {getattr(self, name)}")
        if not 0 <= self.epsilon <= 1:
            raise BadArgument(f"--epsilon is a chance, 0 to 1, not {self.epsilon}")
        if not self.temperature > 0:
            raise BadArgument(f"--temperature must be more than 0, not {self.temperature}")

    def updates(self, epochs: int) -> tuple[int, int]:
        """Updates of the world model and of the agent in the first so many epochs."""
        if epochs == 0:
            return 0, 0
        model = self.first_world_model_steps + (epochs - 1) * self.world_model_steps
        return model, self.first_agent_steps + (epochs - 1) * self.agent_steps

    def for_game(self, about: About) -> "DiamondConfig":
        """The same with a game's image size and actions filled in.

        Raises:
            BadArgument: Its frames are not square.
        """
        h, w, c = about.frame_shape
        if h != w:
            raise BadArgument(f"the networks see square frames, and those of {about.game} have {h}x{w} pixels")
        image: dict[str, Any] = {"img_channels": c, "num_actions": about.num_actions}
        inner = replace(self.fit.denoiser.inner_model, **image)
        fit = replace(
            self.fit,
            denoiser=replace(self.fit.denoiser, inner_model=inner),
            reward_end=replace(self.fit.reward_end, img_size=h, **image),
        )
        network: ActorCriticConfig = replace(self.agent.network, img_size=h, **image)
        return replace(self, fit=fit, agent=replace(self.agent, network=network))


_CHECK_STEPS = 100  # a diverged phase of an epoch should not take its hours before that is noticed
_GREY = 128  # what padding before an episode's first frame looks like in pixels


class DiamondTrainer:
    """The state of a training, and one epoch of it.

    A checkpoint is made between epochs. The store is part of it: what was collected after the checkpoint is
    forgotten when the training goes on from there, so that a training which was killed ends with the same
    weights, where the games' state can be had (`Games.state_dict`), as one which was not.

    Attributes:
        config: See there.
        epoch: Epochs done.
        world_model: The world model's fitting.
        agent: The agent's training.
        store: The experience.
        processes: Who shares the batches. The main one plays, and writes all that is written.
        collector: Plays; None in other processes than the main one.
    """

    def __init__(
        self,
        config: DiamondConfig,
        run: RunFolder,
        about: About,
        games: Games | None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        processes: Processes = ALONE,
        compile: bool = False,
        test_games: Callable[[int], Games] | None = None,
    ) -> None:
        """Begins a training, or goes on with the one in the folder.

        Args:
            config: The whole of it.
            run: Where experience, checkpoints and metrics go.
            about: The game.
            games: To play in, `config.num_envs` of them; None in other processes than the main one.
            seed: Seeds everything.
            device: Where the networks live.
            precision: Of the world model's networks.
            processes: Who shares the batches.
            compile: Compile the world model's networks with torch.compile.
            test_games: Makes so many games for a test collection; None for none of those.
        """
        self.processes = processes
        self.config = config = config.for_game(about)
        self.run, self.seed, self.epoch = run, seed, 0
        state = run.load()
        folder = run.path / "experience"
        with processes.main_first():
            if processes.main and (folder / INDEX).exists():
                os.truncate(folder / INDEX, 0 if state is None else state["experience"])
            self.store = EpisodeStore(folder, "a", about) if processes.main else EpisodeStore(folder)
        total = config.epochs * config.world_model_steps
        self.world_model = WorldModelTrainer(config.fit, self.store, total, seed, device, precision, compile, processes)
        self.agent = ActorCriticTrainer(config.agent, seed=seed, device=device, processes=processes)
        self._policy = AgentPolicy(
            self.agent.agent, config.num_envs, np.random.default_rng([seed, 5]), config.temperature
        )
        self.held_out: HeldOut | None = None
        if test_games is not None and processes.main:
            known = 0 if state is None else state["held_out"]
            self.held_out = HeldOut(run.path / "test-experience", about, test_games, seed, known)
        self.collector: Collector | None = None
        if processes.main:
            collect = CollectConfig(about.game, config.num_envs, epsilon=config.epsilon, seed=seed)
            self.collector = Collector(self.store, collect, self._policy, games)
        if state is not None:
            self._load(state)

    def train_epoch(self, progress: Callable[[str, int], None] | None = None) -> dict[str, float]:
        """Plays, fits the world model, trains the agent, and makes a checkpoint.

        Args:
            progress: Called after each step of "playing" (by the main process) and each update of "world model" and
                "agent", with their number in this epoch. What it raises ends the epoch, which is then lost.

        Raises:
            DiamondGymError: A loss is not finite; the last good checkpoint is kept.
        """
        config, first = self.config, self.epoch == 0
        means = Means()
        with self.processes.main_first():
            figures = self._collect(progress)
        for i in range(config.first_world_model_steps if first else config.world_model_steps):
            self._add(means, self.world_model.train_step(), self.world_model.step)
            if progress is not None:
                progress("world model", i + 1)
        figures |= means.take()
        check_finite(figures, self.world_model.step)
        self._begin_dreams()
        for i in range(config.first_agent_steps if first else config.agent_steps):
            self._add(means, self.agent.train_step(), self.agent.step)
            if progress is not None:
                progress("agent", i + 1)
        figures |= means.take()
        check_finite(figures, self.agent.step)
        self.epoch += 1
        if self.held_out is not None and config.test_every and self.epoch % config.test_every == 0:
            figures |= self.held_out.measure(
                self.epoch, self.world_model, self.agent.agent, config.test_episodes, config.test_steps_at_most
            )
        self.run.log(self.epoch, figures)  # before the checkpoint: what it does not hold yet is logged anew
        self.run.save(self._state())
        return figures

    def close(self) -> None:
        """Ends the games and lets go of the experience."""
        if self.collector is not None:
            self.collector.close()
        if self.held_out is not None:
            self.held_out.close()
        self.store.close()

    @staticmethod
    def _add(means: Means, metrics: dict[str, float | Tensor], step: int) -> None:
        """Takes in a step's metrics, and looks at them now and then."""
        means.add(metrics)
        if step % _CHECK_STEPS == 0:
            check_finite({name: float(value) for name, value in metrics.items()}, step)

    def _collect(self, progress: Callable[[str, int], None] | None = None) -> dict[str, float]:
        """Plays, or reads what the main process has played."""
        if self.collector is None:
            self.store.refresh()
            return {}
        collector, config = self.collector, self.config
        wanted = config.first_steps if self.epoch == 0 else config.steps_per_epoch
        wanted = min(wanted, config.real_steps - self.store.num_steps)
        scores, signs = list[float](), np.zeros(3, np.int64)
        before = self.store.num_steps

        def told(steps: int) -> None:
            if progress is not None:
                progress("playing", self.store.num_steps - before + steps)

        def add(stats: CollectStats) -> None:
            scores.extend(stats.scores)
            signs[:] += stats.reward_signs

        if wanted > 0:
            add(collector.collect(wanted, told))
        while self.epoch == 0 and np.sort(signs)[:2].sum() < config.first_rewards:
            if self.store.num_steps >= min(config.first_steps_at_most, config.real_steps):
                break
            add(collector.collect(config.steps_per_epoch, told))
        figures = {"real/steps": float(self.store.num_steps), "real/episodes": float(len(self.store))}
        if scores:
            figures["real/score"] = float(np.mean(scores))
        return figures

    def _begin_dreams(self) -> None:
        """Dreams in the world model as it is by now, from pieces of real play of which the newest count most."""
        model, batch = self.world_model.averaged(), self.agent.num_dreams
        rng = np.random.default_rng([self.seed, self.epoch, 7])
        model.starts = replay_starts(self.store, model.denoiser.num_steps_conditioning, self.config.num_starts, rng)
        dream = model.dream(batch, sampler=self.config.sampler, horizon=self.config.agent.horizon)
        self.agent.dream_in(dream, int(rng.integers(2**31)))

    def _state(self) -> dict[str, Any]:
        agent = self.agent.state_dict() | {"imagination": None}  # every epoch dreams anew
        return {
            "epoch": self.epoch,
            "experience": (self.store.folder / INDEX).stat().st_size,
            "held_out": 0 if self.held_out is None else self.held_out.size,
            "world_model": self.world_model.state_dict(),
            "agent": agent,
            "policy": self._policy.state_dict(),
            "collector": None if self.collector is None else self.collector.state_dict(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.world_model.load_state_dict(state["world_model"])
        self.agent.load_state_dict(state["agent"])
        if self.collector is not None and state["collector"] is not None:  # else the games begin anew
            self.collector.load_state_dict(state["collector"])
            self._policy.load_state_dict(state["policy"])


def replay_starts(store: EpisodeStore, t: int, n: int, rng: np.random.Generator) -> Starts:
    """Draws pieces of T frames as the denoiser's segments are drawn: newer episodes more often.

    Where a piece reaches over the beginning of its episode, the frames there are mid-grey, the padding with
    which the networks were trained.

    Args:
        store: Where from.
        t: Frames per piece, T.
        n: Pieces.
        rng: The source of chance.
    """
    if not store.num_steps:
        raise DiamondGymError(f"there is no experience in {store.folder} to dream from")
    batch = SegmentSampler(store, t, n, False, rng).sample()
    obs = np.where(batch.mask_padding[:, :, None, None, None], batch.obs, np.uint8(_GREY))
    return Starts(np.ascontiguousarray(obs.transpose(0, 1, 3, 4, 2)), batch.act[:, : t - 1], batch.start < 1)
