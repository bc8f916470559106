"""A registered model's own agent: taken from the model, or from the file beside it."""

from diamond_gym.errors import ModelNotFound
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.registry import Entry, games
from diamond_gym.registry.card_fields import AGENT
from diamond_gym.registry.loading import verified_file
from diamond_gym.trainers.sb3_files import SavedAgent, open_agent
from diamond_gym.world_model import WorldModel


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
