"""An agent of the paper's kind as a policy for real games, and what it scores in them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv

from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.registry.games import game as find_game
from diamond_gym.trainers.scores import Scores, play, real_games

_SURE = 1e-6  # a temperature at which only the likeliest action is ever drawn


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


def score(
    agent: ActorCritic,
    envs: VectorEnv[Any, Any, Any],
    game: str,
    episodes: int,
    seed: int = 0,
    deterministic: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores an agent over full games; by default as the paper does: sampled policy, unclipped rewards.

    Args:
        agent: On its device.
        envs: The games, in mode SAME_STEP.
        game: Their name.
        episodes: How many games, at least as many as rows.
        seed: Of games and actions.
        deterministic: Whether to take the likeliest action instead of sampling one.
        progress: Called with the number of finished games.
    """
    rng = np.random.default_rng([seed, 9])
    policy = AgentPolicy(agent, envs.num_envs, rng, _SURE if deterministic else 1.0)
    return play(policy, envs, game, episodes, seed, progress)


def score_actor_critic(
    agent: ActorCritic,
    game: str,
    episodes: int = 100,
    num_envs: int = 10,
    seed: int = 0,
    deterministic: bool = False,
    max_episode_steps: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """The same in Atari games, which are opened for it.

    Args:
        agent: On its device.
        game: One of the 26.
        episodes: How many games.
        num_envs: How many of them side by side.
        seed: Of games and actions.
        deterministic: Whether to take the likeliest action instead of sampling one.
        max_episode_steps: Cuts longer games; None for ALE's own half hour of play.
        progress: Called with the number of finished games.

    Raises:
        BadArgument: The agent sees other frames than the game shows, or has other actions.
    """
    envs = real_games(game, min(num_envs, episodes), max_episode_steps)
    try:
        side, channels = agent.config.img_size, agent.config.img_channels
        shown, actions = envs.single_observation_space.shape, find_game(game).num_actions
        if (shown, actions) != ((side, side, channels), agent.config.num_actions):
            raise BadArgument(
                f"the agent sees frames {(side, side, channels)} and has {agent.config.num_actions} actions, "
                f"but {game} shows {shown} and has {actions}"
            )
        return score(agent, envs, game, episodes, seed, deterministic, progress)
    finally:
        envs.close()
