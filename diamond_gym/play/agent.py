"""An agent that looks on while a person plays, and plays when it is asked to: its chances and its value, each frame."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.frames import to_frames
from diamond_gym.networks.actor_critic import ActorCritic

if TYPE_CHECKING:
    from diamond_gym.trainers.sb3_files import SavedAgent

Pixels = npt.NDArray[np.uint8]


class Agent(Protocol):
    """An agent as a session uses it: it gives the chances of actions, and the session draws one."""

    kind: str

    def see(self, obs: Pixels, window: Tensor, first: bool) -> tuple[list[float], float | None]:
        """Looks at the next frame.

        Args:
            obs: The frame, uint8 (H, W, C).
            window: The dream's last frames of that size, float32 (T, C, H, W) in [-1, 1], the newest last.
            first: Whether a dream begins with it.

        Returns:
            A chance per action, and the value of the frame if the agent has one.
        """
        ...

    def state(self) -> Any:
        """All that what it says next depends on, besides the frames."""
        ...

    def restore(self, state: Any) -> None:
        """Goes back to a state."""
        ...


class OwnAgent:
    """The agent of the paper's kind that came with a model."""

    kind = "actor-critic"

    def __init__(self, network: ActorCritic) -> None:
        self._network = network
        self._device = next(network.parameters()).device
        self._memory = network.initial_state(1, self._device)

    @torch.no_grad()
    def see(self, obs: Pixels, window: Tensor, first: bool) -> tuple[list[float], float | None]:
        """Looks at the next frame, where a dream begins also at those before it, as in training."""
        if first:
            self._memory = self._network.initial_state(1, self._device)
            for earlier in window[:-1]:
                _, _, self._memory = self._network(earlier[None], self._memory)
        frame = to_frames(torch.from_numpy(obs).to(self._device))[None]
        logits, value, self._memory = self._network(frame, self._memory)
        return logits[0].double().softmax(0).tolist(), float(value)

    def state(self) -> Any:
        """Its memory."""
        return tuple(part.clone() for part in self._memory)

    def restore(self, state: Any) -> None:
        """Goes back to a state."""
        hx, cx = (part.clone() for part in state)
        self._memory = hx, cx


class SavedAgentLooksOn:
    """An agent of Stable-Baselines3: DQN, PPO, A2C or sb3-contrib's RecurrentPPO.

    Of DQN the chances are those with which it plays, all but epsilon on the best action, and the value is that
    action's.
    """

    def __init__(self, agent: "SavedAgent") -> None:
        self._agent, self._policy = agent, agent.policy
        self.kind = agent.card.algo if agent.card is not None else type(agent.policy).__name__
        self._seen = np.zeros((*agent.size, agent.channels), np.uint8)
        self._memory: Any = None

    @torch.no_grad()
    def see(self, obs: Pixels, window: Tensor, first: bool) -> tuple[list[float], float | None]:
        """Looks at the next frame, stacked as `VecFrameStack` does it: black ones before a dream's first."""
        if first:
            self._seen, self._memory = np.zeros_like(self._seen), None
        self._seen = np.concatenate((self._seen[..., obs.shape[-1] :], obs), axis=-1)
        policy: Any = self._policy
        seen, _ = policy.obs_to_tensor(self._seen[None])
        if hasattr(policy, "q_net"):
            values = policy.q_net(seen)[0].double()
            chances = torch.full_like(values, self._agent.epsilon / len(values))
            chances[values.argmax()] += 1 - self._agent.epsilon
            return chances.tolist(), float(values.max())
        if hasattr(policy, "lstm_actor"):
            if self._memory is None:
                shape = policy.lstm_hidden_state_shape
                self._memory = tuple(torch.zeros(shape, device=policy.device) for _ in range(2))
            starts = torch.tensor([float(first)], device=policy.device)
            distribution, self._memory = policy.get_distribution(seen, self._memory, starts)
            return distribution.distribution.probs[0].double().tolist(), None
        chances = policy.get_distribution(seen).distribution.probs[0].double()
        return chances.tolist(), float(policy.predict_values(seen))

    def state(self) -> Any:
        """The frames that it sees at once, and its memory."""
        return self._seen.copy(), self._memory

    def restore(self, state: Any) -> None:
        """Goes back to a state."""
        self._seen, self._memory = state[0].copy(), state[1]


def draw(chances: list[float], seed: int, step: int) -> int:
    """An action drawn by its chance: the same one for the same seed and step, however often the step is played."""
    uniform = np.random.default_rng([seed, step, 9]).random()
    return min(int(np.searchsorted(np.cumsum(chances), uniform, side="right")), len(chances) - 1)
