"""Who plays in a batch of dreams: chance, or an agent of the paper's kind with its memory."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.dream import Dream
from diamond_gym.envs.vector_env import DreamVectorEnv
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.trainers.agent_policy import AgentPolicy


class HeldActions:
    """Random actions, each kept for some steps, as a person would.

    Args:
        envs: Whose actions they are; its action space is seeded.
        repeat: For how many steps an action is kept, on average.
        seed: Seeds all of it.
    """

    def __init__(self, envs: DreamVectorEnv, repeat: float, seed: int) -> None:
        self._space, self._chance, self._rng = envs.action_space, 1 / repeat, np.random.default_rng(seed)
        self._space.seed(seed)
        self._act: npt.NDArray[Any] = self._space.sample()

    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """The actions (B, ...) of the next step."""
        new = self._rng.random(len(first)) < self._chance
        drawn = self._space.sample()
        self._act = np.where(new.reshape(-1, *[1] * (drawn.ndim - 1)), drawn, self._act)
        return self._act


class DreamPolicy(AgentPolicy):
    """An agent that plays as it was trained to: where a dream begins, it has seen the start's earlier frames.

    Args:
        actor_critic: The agent, on the dream's device.
        dream: Where it plays.
        rng: The source of chance.
        temperature: Divides the logits.
    """

    def __init__(
        self, actor_critic: ActorCritic, dream: Dream, rng: np.random.Generator, temperature: float = 1.0
    ) -> None:
        super().__init__(actor_critic, dream.num_envs, rng, temperature)
        self._dream = dream

    @torch.no_grad()
    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """From the dream's present frames (B, H, W, C) and the rows in which one has just begun (B,) to actions."""
        window = self._dream.obs_window
        # Dreams of two stages remember small frames only: there the memory begins empty.
        if first.any() and window is not None and window.shape[2:] == self._dream.obs.shape[1:]:
            rows = torch.from_numpy(np.flatnonzero(first)).to(self._device)
            memory = self._agent.initial_state(len(rows), self._device)
            for earlier in window[rows, :-1].unbind(1):
                _, _, memory = self._agent(earlier, memory)
            hx, cx = (old.index_copy(0, rows, new) for old, new in zip(self._state, memory, strict=True))
            self._state = hx, cx
            first = np.zeros_like(first)
        return super().__call__(obs, first)
