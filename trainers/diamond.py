"""DIAMOND's outer loop: play, train the world model, train the agent in its dreams, and so on.

Alonso et al. 2024 (arXiv 2405.12399): algorithm 1.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from diamond_gym.data.about import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.sampling import order_of_play
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.agent_dreams import AgentDreams
from diamond_gym.trainers.collect import CollectConfig, Collector
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.held_out import HeldOut
from diamond_gym.trainers.loop import ALONE, Loop, Processes, any_process, mean_of_processes
from diamond_gym.trainers.policies import AgentPolicy
from diamond_gym.trainers.run import Means, RunFolder
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.world_model import WorldModel

_CHUNK = 100  # real steps between two looks at the time


@dataclass(frozen=True)
class Phase:
    """A part of an epoch: "playing", "world model", "agent" or "testing", from one count of steps to another."""

    name: str
    begun: int
    target: int


@dataclass(frozen=True)
class Learnt:
    """What a training has learnt by the end of an epoch.

    Attributes:
        world_model: To dream with: of averaged weights, if there is an average.
        agent: Acts.
        counts: "epochs", real "steps" and "episodes", "updates" of the world model and "windows" of the agent.
        score: Mean of the test after that epoch; None without one.
    """

    world_model: WorldModel
    agent: ActorCritic
    counts: dict[str, int]
    score: float | None = None


class DiamondTrainer:
    """The state of a training, and one epoch of it.

    A checkpoint is made after each epoch, and every two minutes within it. What was collected after it is forgotten
    when the training goes on from there, so that a training which was killed ends with the same weights as one which
    was not, where an environment does the same from the same seed (`games.Games`). On a GPU the dreams of an epoch in
    hand begin anew, and the weights differ.

    Attributes:
        config: The whole of it, with the game's sizes filled in.
        epoch: Epochs done.
        world_model: The world model's training.
        agent: The agent's training.
        store: The experience.
        collector: Plays, in the first process.
    """

    def __init__(
        self,
        config: DiamondConfig,
        run: RunFolder,
        about: About,
        envs: VectorEnv[Any, Any, Any] | None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        fabric: Processes = ALONE,
        compile: bool = False,
        test_envs: Callable[[int], VectorEnv[Any, Any, Any]] | None = None,
        data: EpisodeStore | None = None,
    ) -> None:
        """Begins a training, or goes on with the one in the folder.

        Args:
            config: The whole of it.
            run: Where experience, checkpoints and metrics go.
            about: The game.
            envs: `config.num_envs` to play in; None in other processes than the first, and with recordings alone.
            seed: Seeds everything.
            device: Where the networks live.
            precision: Of the world model's networks.
            fabric: The processes that train together. The first one plays, and writes all that is written.
            compile: Compile the world model's networks with torch.compile.
            test_envs: Makes so many environments for a test collection; None for none of those.
            data: Experience to begin with, which counts among the real steps.
        """
        self._fabric, main = fabric, fabric.is_global_zero
        self.config = config = config.for_game(about)
        self.run, self.seed, self.epoch = run, seed, 0
        state = run.load()
        folder, tests = run.path / "experience", run.path / "test-experience"
        with fabric.rank_zero_first():
            with run.resuming():
                mark, known = (0, 0) if state is None else (state["experience"], state["held_out"])
            self.store = EpisodeStore(folder, "a", about, mark) if main else EpisodeStore(folder)
            if data is not None and state is None and main:
                for episode in data:
                    self.store.append(episode)
        total = config.updates(config.epochs)[0]
        self.world_model = WorldModelTrainer(config.fit, self.store, total, seed, device, precision, compile, fabric)
        self.agent = ActorCriticTrainer(config.agent, seed=seed, device=device, fabric=fabric)
        self._dreams = AgentDreams(self.agent, self.store, config, seed)
        rng = np.random.default_rng([seed, 5])
        self._policy = AgentPolicy(self.agent.agent, config.num_envs, rng, config.temperature or 1.0)
        self.held_out = HeldOut(tests, about, test_envs, seed, known) if test_envs is not None and main else None
        collect = CollectConfig(epsilon=config.epsilon, seed=seed)
        self.collector = Collector(self.store, envs, collect, self._policy) if envs is not None else None
        self._means = Means()  # of the epoch in hand
        self._play: dict[str, Any] = {}  # what this epoch's play has to reach, and brought so far
        self._best: dict[str, Any] | None = None  # counts, score and weights of the best test
        if state is not None:
            with run.resuming():
                self._load(state)

    def train_epoch(
        self, loop: Loop | None = None, progress: Callable[[Phase, int], None] = lambda phase, done: None
    ) -> dict[str, float] | None:
        """Plays, trains the world model, trains the agent, and makes a checkpoint; returns the epoch's figures.

        They are None where the loop was stopped before the epoch's end: the next call goes on with it.

        Args:
            loop: Runs both trainings, and saves by this trainer's `save`.
            progress: Called after each step of a phase with how many are done by then; of playing by the first process.
        """
        config, loop = self.config, loop or Loop(self.save, fabric=self._fabric)
        before, after = config.updates(self.epoch), config.updates(self.epoch + 1)
        fitting, dreaming = Phase("world model", before[0], after[0]), Phase("agent", before[1], after[1])
        with self._fabric.rank_zero_first():
            self._collect(loop, progress)
        if not loop.run(self.world_model, fitting.target, self._means, partial(progress, fitting)):
            return None
        windows, dreamed = (before[1], after[1]), partial(progress, dreaming)
        if not self._dreams.train(self.epoch, self.world_model.averaged, windows, loop, self._means, dreamed):
            return None
        tested: dict[str, float] | None = {}
        if config.test_every and (self.epoch + 1) % config.test_every == 0:
            tested = self._test(loop, progress)
            if any_process(self._fabric, tested is None):
                loop.agree()
                return None
        assert tested is not None
        figures = {"real/steps": float(self.store.num_steps), "real/episodes": float(len(self.store))}
        figures |= mean_of_processes(self._fabric, self._means.take(self.agent.step))
        if scores := self._play.get("scores"):
            figures["real/score"] = float(np.mean(scores))
        figures |= tested
        self.epoch += 1
        self._play = {}
        if tested:
            self._keep_best(tested["test/score"])
        self.run.log(self.epoch, figures)  # before the checkpoint: what it does not hold yet is logged anew
        self.save()
        return figures

    def _test(self, loop: Loop, progress: Callable[[Phase, int], None]) -> dict[str, float] | None:
        """The figures of a test collection, of the first process alone; None where it was asked to stop meanwhile."""
        if self.held_out is None:
            return {}
        self.save()  # it may take minutes: whoever leaves or kills it loses nothing of the epoch
        config, agent = self.config, self.agent.agent
        progress(Phase("testing", 0, config.test_episodes), 0)
        amounts = config.test_episodes, config.test_steps_at_most
        return self.held_out.measure(self.epoch + 1, self.world_model, agent, *amounts, lambda: loop.asked)

    def learnt(self) -> Learnt:
        """What there is to register: of the best test if that is wanted and there was one, else of now.

        Its networks are copies, so that the training can go on.
        """
        model, agent = self.world_model.averaged(), deepcopy(self.agent.agent)
        if self._best is None:
            return Learnt(model, agent, self._counts())
        model.load_weights(self._best["world_model"])
        agent.load_state_dict(self._best["agent"])
        return Learnt(model, agent, self._best["counts"], self._best["score"])

    def _counts(self) -> dict[str, int]:
        real = {"steps": self.store.num_steps, "episodes": len(self.store)}
        return {"epochs": self.epoch, **real, "updates": self.world_model.step, "windows": self.agent.step}

    def _keep_best(self, score: float) -> None:
        if self.config.register_best and (self._best is None or score >= self._best["score"]):
            weights = {"world_model": self.world_model.averaged().weights(), "agent": self.agent.agent.state_dict()}
            copies = {name: {key: value.cpu().clone() for key, value in part.items()} for name, part in weights.items()}
            self._best = {"counts": self._counts(), "score": score, **copies}

    def close(self) -> None:
        """Ends the games and lets go of the experience."""
        for part in (self.collector, self.held_out, self.store):
            if part is not None:
                part.close()

    def _collect(self, loop: Loop, progress: Callable[[Phase, int], None]) -> None:
        """Plays until the epoch has its real steps, or reads what the first process has played."""
        if self.collector is None:
            self.store.refresh()
            return
        config, store = self.config, self.store
        if not self._play:
            wanted = config.first_steps if self.epoch == 0 else store.num_steps + config.steps_per_epoch
            target = min(wanted, config.real_steps)
            signs = [0, 0, 0] if self.epoch else _reward_signs(store)
            self._play = {"begun": store.num_steps, "target": target, "scores": [], "signs": signs}
        play, before = self._play, store.num_steps

        def played(new: int) -> None:
            progress(Phase("playing", play["begun"], play["target"]), before + new)

        while not loop.stopped:
            if store.num_steps >= play["target"]:
                enough = sum(sorted(play["signs"])[:2]) >= config.first_rewards
                if self.epoch or enough or store.num_steps >= min(config.first_steps_at_most, config.real_steps):
                    return
                play["target"] = store.num_steps + config.steps_per_epoch
            before = store.num_steps
            stats = self.collector.collect(min(_CHUNK, play["target"] - before), played)
            play["scores"] += stats.scores
            play["signs"] = [old + new for old, new in zip(play["signs"], stats.reward_signs, strict=True)]
            if self._fabric.world_size == 1:  # else the others wait, and cannot be asked
                loop.look_up(store.num_steps, self._means)

    def save(self) -> None:
        """Makes a checkpoint."""
        state = {
            "epoch": self.epoch,
            "experience": self.store.mark,
            "held_out": 0 if self.held_out is None else self.held_out.store.mark,
            "world_model": self.world_model.state_dict(),
            "agent": {**self.agent.state_dict(), "imagination": None},
            "dreams": self._dreams.state_dict(self.epoch),
            "policy": self._policy.state_dict(),
            "collector": None if self.collector is None else self.collector.state_dict(),
            "play": self._play,
            "means": self._means.state_dict(),
            "best": self._best,
        }
        self.run.save(state)

    def _load(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.world_model.load_state_dict(state["world_model"])
        self.agent.load_state_dict(state["agent"])
        self._dreams.load_state_dict(state["dreams"])
        self._play = state["play"]
        self._means.load_state_dict(state["means"])
        self._best = state["best"]
        if self.collector is not None and state["collector"] is not None:
            self.collector.load_state_dict(state["collector"])
            self._policy.load_state_dict(state["policy"])


def _reward_signs(store: EpisodeStore) -> list[int]:
    """How many steps of a store have a negative reward, none, and a positive one."""
    signs = np.sign(store.steps(*order_of_play(store))["rew"])
    return [int((signs == sign).sum()) for sign in (-1, 0, 1)]
