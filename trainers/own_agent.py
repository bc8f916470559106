"""A registered model's own agent: taken from the model or the file beside it, and scored as the paper scores it."""

from collections.abc import Callable

import numpy as np

from diamond_gym.actor_critic import ActorCritic
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.registry import Entry, games
from diamond_gym.registry.loading import verified_file
from diamond_gym.registry.saving import AGENT
from diamond_gym.sb3_files import SavedAgent, open_agent
from diamond_gym.trainers.agent_policy import AgentPolicy
from diamond_gym.trainers.scores import Scores, play, real_games
from diamond_gym.world_model import WorldModel

_SURE = 1e-6  # a temperature at which only the likeliest action is ever drawn


def own_file(entry: Entry, device: str = "auto") -> SavedAgent | None:
    """The agent of Stable-Baselines3 that lies beside a model; None if there is none.

    Raises:
        DiamondGymError: The file is not the one that the card describes, none of SB3's, or needs its pickles to be
            opened.
    """
    path = verified_file(entry, AGENT)
    return open_agent(path, device) if path is not None else None


def own_agent(model: WorldModel) -> ActorCritic:
    """The agent of the paper's kind that came with a model.

    Raises:
        ModelNotFound: It has none; the message says how to come by one.
    """
    if model.actor_critic is not None:
        return model.actor_critic
    if model.card is None:
        raise ModelNotFound("this world model has no agent of its own")
    game = model.card.game
    advice = f": train one with `diamond-gym train-agent --game {game}`, or fetch the authors' with `pull {game}`"
    raise ModelNotFound(
        f"the world model '{model.card.name}' has no agent of its own{advice if game in games() else ''}"
    )


def score_own(
    agent: ActorCritic,
    game: str,
    episodes: int = 100,
    num_envs: int = 10,
    seed: int = 0,
    deterministic: bool = False,
    max_episode_steps: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores an agent over full real games; by default as the paper does: sampled policy, unclipped rewards.

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
    rows = min(num_envs, episodes)
    envs = real_games(game, rows, max_episode_steps)
    try:
        side, channels = agent.config.img_size, agent.config.img_channels
        shown, actions = envs.single_observation_space.shape, games()[game].num_actions
        if (shown, actions) != ((side, side, channels), agent.config.num_actions):
            raise BadArgument(
                f"the agent sees frames {(side, side, channels)} and has {agent.config.num_actions} actions, "
                f"but {game} shows {shown} and has {actions}"
            )
        rng = np.random.default_rng([seed, 9])
        policy = AgentPolicy(agent, rows, rng, _SURE if deterministic else 1.0)
        return play(policy, envs, game, episodes, seed, progress)
    finally:
        envs.close()
