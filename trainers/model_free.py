"""The same agent without a world model, trained on the real game's own steps, for comparison."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from diamond_gym.data.episode_files import About
from diamond_gym.dream import Dream, DreamStep
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.diamond import DiamondConfig
from diamond_gym.trainers.grounds import Ground
from diamond_gym.trainers.loop import Means, check_finite
from diamond_gym.trainers.run import RunFolder


class RealSteps:
    """Real games where an agent's training expects dreams: frames on the device, finished rows begun anew at once.

    Nothing precedes the first frame of a game, so the agent's memory begins empty there.

    Args:
        envs: The games, in mode SAME_STEP.
        device: Where the agent is.

    Attributes:
        num_envs: Rows, B.
        obs_window: The present frames, float32 (B, 1, C, H, W) in [-1, 1]; None before the first reset.
        scores: Unclipped sums of rewards between two ends, of those that are over.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], device: torch.device | str) -> None:
        self._envs, self.device = envs, torch.device(device)
        self.num_envs: int = envs.num_envs
        self.obs_window: Tensor | None = None
        self.scores: list[float] = []
        self._score = np.zeros(self.num_envs)

    @property
    def obs(self) -> Tensor:
        """The present frames, float32 (B, C, H, W)."""
        assert self.obs_window is not None
        return self.obs_window[:, -1].clone()

    def reset(self, seed: int) -> None:
        """Begins all games."""
        obs, _ = self._envs.reset(seed=seed)
        self.obs_window = self._tensor(obs)[:, None]

    def step(self, act: Tensor) -> DreamStep:
        """Plays a step of every game; rewards are their signs, as in dreams."""
        obs, rew, end, trunc, info = self._envs.step(act.cpu().numpy())
        self._score += rew
        over = np.flatnonzero(end | trunc)
        self.scores += self._score[over].tolist()
        self._score[over] = 0
        final = np.array(obs)
        for row in over:
            final[row] = info["final_obs"][row]
        self.obs_window = self._tensor(obs)[:, None]
        nowhere = torch.full((self.num_envs,), -1, dtype=torch.int64, device=self.device)
        signs = torch.from_numpy(np.sign(rew).astype(np.float32)).to(self.device)
        ends, truncs = (torch.from_numpy(np.asarray(flag)).to(self.device) for flag in (end, trunc))
        rew_prob = torch.stack((signs < 0, signs == 0, signs > 0), dim=1).float()  # what happened was certain
        return DreamStep(
            self.obs, signs, ends, truncs, rew_prob, ends.float(), self._tensor(final), nowhere, nowhere, []
        )

    def close(self) -> None:
        """Ends the games."""
        self._envs.close()

    def _tensor(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)
        return pixels.permute(0, 3, 1, 2).float() / 255 * 2 - 1


class ModelFree:
    """The state of such a training, and one epoch of it: the agent's updates of an epoch, on real steps.

    Every update takes a window of steps of all games; the training ends with its epochs, or makes no more updates
    once the real steps are used up. When it goes on from a checkpoint, the games begin anew.

    Attributes:
        config: Of which the world model's part says nothing here.
        epoch: Epochs done.
        agent: The agent's training.
    """

    def __init__(
        self,
        config: DiamondConfig,
        run: RunFolder,
        about: About,
        ground: Ground,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Begins a training, or goes on with the one in the folder; arguments as for `DiamondTrainer`."""
        self.config = config = config.for_game(about)
        self.run, self.seed, self.epoch = run, seed, 0
        self.agent = ActorCriticTrainer(config.agent, seed=seed, device=device)
        state = run.load()
        if state is not None:
            self.epoch = state["epoch"]
            self.agent.load_state_dict(state["agent"])
        self._games = RealSteps(ground.lives(config.num_envs), device)
        self.agent.dream_in(cast(Dream, self._games), int(np.random.default_rng([seed, self.epoch, 7]).integers(2**31)))

    @property
    def real_steps(self) -> int:
        """Steps of the real game so far."""
        return self.agent.step * self.config.agent.horizon * self.config.num_envs

    def train_epoch(self, progress: Callable[[str, int], None] | None = None) -> dict[str, float]:
        """Trains the agent and makes a checkpoint; see `DiamondTrainer.train_epoch`."""
        config, means = self.config, Means()
        updates = config.first_agent_steps if self.epoch == 0 else config.agent_steps
        for i in range(updates):
            if self.real_steps >= config.real_steps:
                break
            means.add(self.agent.train_step())
            if progress is not None:
                progress("agent", i + 1)
        figures = means.take()
        check_finite(figures, self.agent.step)
        figures["real/steps"] = float(self.real_steps)
        if self._games.scores:
            figures["real/score"] = float(np.mean(self._games.scores))
            self._games.scores.clear()
        self.epoch += 1
        self.run.log(self.epoch, figures)
        self.run.save(self._state())
        return figures

    def _state(self) -> dict[str, Any]:
        imagination, self.agent.imagination = self.agent.imagination, None  # real games have no state to keep
        agent = self.agent.state_dict()
        self.agent.imagination = imagination
        return {"epoch": self.epoch, "agent": agent}

    def close(self) -> None:
        """Ends the games."""
        self._games.close()
