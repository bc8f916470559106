"""An agent that looks on while a person plays, and plays when it is asked to: its chances and its value, each frame."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

from diamond_gym.frames import to_frames
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.play.controls import Action

if TYPE_CHECKING:
    from diamond_gym.trainers.sb3_files import SavedAgent

Pixels = npt.NDArray[np.uint8]


class OwnAgent:
    """The agent of the paper's kind that came with a model."""

    kind = "actor-critic"

    def __init__(self, network: ActorCritic) -> None:
        self._network = network
        self._device = next(network.parameters()).device
        self._memory = network.initial_state(1, self._device)
        self._chances: list[float] = []

    @torch.no_grad()
    def see(self, obs: Pixels, window: Tensor, first: bool) -> tuple[list[float], float | None]:
        """Looks at the next frame, where a dream begins also at those before it, as in training.

        Args:
            obs: The frame, uint8 (H, W, C).
            window: The dream's last frames of that size, float32 (T, C, H, W) in [-1, 1], the newest last.
            first: Whether a dream begins with it.

        Returns:
            The probability of each action, and the value of the frame.
        """
        if first:
            self._memory = self._network.initial_state(1, self._device)
            for earlier in window[:-1]:
                _, _, self._memory = self._network(earlier[None], self._memory)
        frame = to_frames(torch.from_numpy(obs).to(self._device))[None]
        logits, value, self._memory = self._network(frame, self._memory)
        self._chances = logits[0].double().softmax(0).tolist()
        return self._chances, float(value)

    def draw(self, rng: np.random.Generator) -> Action:
        """An action by its chances at the last frame."""
        return one_of(self._chances, rng)

    def state(self) -> Any:
        """Its memory."""
        return tuple(part.clone() for part in self._memory)

    def restore(self, state: Any) -> None:
        """Goes back to a state."""
        hx, cx = (part.clone() for part in state)
        self._memory = hx, cx


class SavedAgentLooksOn:
    """An agent of Stable-Baselines3: DQN, PPO, A2C, SAC or sb3-contrib's RecurrentPPO.

    Of DQN the chances are those with which it plays, all but epsilon on the best action, and the value is that
    action's. Of buttons the chances are those that each is pressed; several choices, and numbers within bounds, have no
    list of chances. SAC and RecurrentPPO give no value.
    """

    def __init__(self, agent: "SavedAgent") -> None:
        self._agent, self._policy = agent, agent.policy
        self.kind = agent.card.algo if agent.card is not None else type(agent.policy).__name__
        self._seen = np.zeros((*agent.size, agent.channels), np.uint8)
        self._memory: Any = None
        self._chances: Any = None  # of numbered actions; else a distribution of torch's, or several

    @torch.no_grad()
    def see(self, obs: Pixels, window: Tensor, first: bool) -> tuple[list[float], float | None]:
        """Looks at the next frame, stacked as `VecFrameStack` does it: black ones before a dream's first.

        Args:
            obs: The frame, uint8 (H, W, C).
            window: Not used.
            first: Whether a dream begins with it.

        Returns:
            The probability of each action (of buttons: that each is pressed; none where actions cannot be listed), and
            the value of the frame if the agent has one.
        """
        if first:
            self._seen, self._memory = np.zeros_like(self._seen), None
        self._seen = np.concatenate((self._seen[..., obs.shape[-1] :], obs), axis=-1)
        policy: Any = self._policy
        seen, _ = policy.obs_to_tensor(self._seen[None])
        value = None
        if hasattr(policy, "q_net"):
            values = policy.q_net(seen)[0].double()
            chances = torch.full_like(values, self._agent.epsilon / len(values))
            chances[values.argmax()] += 1 - self._agent.epsilon
            self._chances = chances.tolist()
            return self._chances, float(values.max())
        if hasattr(policy, "lstm_actor"):
            if self._memory is None:
                shape = policy.lstm_hidden_state_shape
                self._memory = tuple(torch.zeros(shape, device=policy.device) for _ in range(2))
            starts = torch.tensor([float(first)], device=policy.device)
            distribution, self._memory = policy.get_distribution(seen, self._memory, starts)
        elif hasattr(policy, "actor"):  # SAC
            mean, log_std, keywords = policy.actor.get_action_dist_params(seen)
            distribution = policy.actor.action_dist.proba_distribution(mean, log_std, **keywords)
        else:
            distribution, value = policy.get_distribution(seen), float(policy.predict_values(seen))
        drawn_from = distribution.distribution
        listed = drawn_from.probs[0].double().tolist() if isinstance(drawn_from, Categorical | Bernoulli) else []
        self._chances = listed if isinstance(drawn_from, Categorical) else drawn_from
        return listed, value

    def draw(self, rng: np.random.Generator) -> Action:
        """An action as the policy samples it, from the chances at the last frame."""
        codec, policy, chances = self._agent.codec, self._policy, self._chances
        if not codec.is_vector:
            return one_of(chances, rng)
        if isinstance(chances, Bernoulli):
            probs = chances.probs[0].double().cpu().numpy()
            act: npt.NDArray[Any] = rng.random(len(probs)) < probs
        elif isinstance(chances, Normal):
            mean, spread = (part[0].double().cpu().numpy() for part in (chances.mean, chances.stddev))
            act, space = mean + spread * rng.standard_normal(len(mean)), codec.space
            assert isinstance(space, spaces.Box)
            low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
            if policy.squash_output:  # from -1 to 1, and then to the bounds
                act = low + (np.tanh(act) + 1) / 2 * (high - low)
            act = np.clip(act, low, high)
        else:  # a choice for each part
            act = np.array([one_of(part.probs[0].double().tolist(), rng) for part in chances])
        return act.reshape(codec.shape).astype(codec.dtype)

    def state(self) -> Any:
        """The frames that it sees at once, and its memory."""
        return self._seen.copy(), self._memory

    def restore(self, state: Any) -> None:
        """Goes back to a state."""
        self._seen, self._memory = state[0].copy(), state[1]


Agent = OwnAgent | SavedAgentLooksOn
"""What a session calls an agent: either sees every frame, and draws actions by its chances at the last one."""


def one_of(chances: list[float], rng: np.random.Generator) -> int:
    """A number from 0 on, drawn by the chances of each."""
    return min(int(np.searchsorted(np.cumsum(chances), rng.random(), side="right")), len(chances) - 1)
