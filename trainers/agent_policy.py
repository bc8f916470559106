"""An agent of the paper's kind as a policy for real games."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.actor_critic import ActorCritic


class AgentPolicy:
    """Samples the agent's actions, and begins each episode with a fresh memory.

    Args:
        actor_critic: The agent, on its device.
        num_envs: Rows of a batch, B.
        rng: The source of chance.
        temperature: Divides the logits: below 1 the agent is surer of itself, as it has to be on Freeway.
    """

    def __init__(
        self, actor_critic: ActorCritic, num_envs: int, rng: np.random.Generator, temperature: float = 1.0
    ) -> None:
        self._agent, self._rng, self._temperature = actor_critic, rng, temperature
        self._device = next(actor_critic.parameters()).device
        self._state = actor_critic.initial_state(num_envs, self._device)

    def state_dict(self) -> dict[str, Any]:
        """All that the next actions depend on, but for the agent."""
        return {"memory": [part.clone() for part in self._state], "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state."""
        hx, cx = (part.to(self._device, copy=True) for part in state["memory"])
        self._state = hx, cx
        self._rng.bit_generator.state = state["rng"]

    @torch.no_grad()
    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """From frames (B, H, W, C) and the rows in which an episode begins (B,) to actions (B,)."""
        images = torch.from_numpy(obs.copy()).to(self._device).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        going_on = torch.from_numpy(~first).to(self._device)[:, None]
        hx, cx = (part * going_on for part in self._state)
        logits, _, self._state = self._agent(images, (hx, cx))
        chances = (logits.double() / self._temperature).softmax(dim=1).cumsum(dim=1).cpu().numpy()
        # By NumPy's randomness, so that the device makes no difference to the stream.
        drawn = np.sum(chances < self._rng.random(len(obs))[:, None], axis=1, dtype=np.int64)
        return drawn.clip(max=chances.shape[1] - 1)
