"""DIAMOND's outer loop: play, fit the world model, train the agent in its dreams, and so on.

Alonso et al. 2024 (arXiv 2405.12399), algorithm 1.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diamond_gym.data.episode_files import INDEX, About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import SegmentSampler
from diamond_gym.errors import DiamondGymError
from diamond_gym.starts import Starts
from diamond_gym.trainers.actor_critic import AgentFit
from diamond_gym.trainers.agent_policy import AgentPolicy
from diamond_gym.trainers.collect import CollectConfig, Collector, CollectStats
from diamond_gym.trainers.collect_ale import Games
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.held_out import HeldOut
from diamond_gym.trainers.metrics import Means, check_finite
from diamond_gym.trainers.processes import ALONE, Processes
from diamond_gym.trainers.run_folder import RunFolder
from diamond_gym.trainers.world_model import Fit

__all__ = ["Diamond", "DiamondConfig", "replay_starts"]

_CHECK_STEPS = 100  # a diverged phase of an epoch should not take its hours before that is noticed
_GREY = 128  # what padding before an episode's first frame looks like in pixels


class Diamond:
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
        self.world_model = Fit(config.fit, self.store, total, seed, device, precision, compile, processes)
        self.agent = AgentFit(config.agent, seed=seed, device=device, processes=processes)
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
