"""Start states of imported checkpoints: from a folder, or from the real game as the checkpoint's own agent plays it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.files import temporary_folder
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.registry import games
from diamond_gym.starts import Starts
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.world_model import PREFIXES

if TYPE_CHECKING:
    from diamond_gym.registry.released import Released

_ADVICE = "give start states with --starts (a folder of collected episodes, or of spawns), or --starts none"


def starts_from_folder(model: "Released", folder: Path, n: int = 256, seed: int = 0) -> Starts:
    """Start states from a folder of collected episodes, or of spawns for a model of two stages.

    Args:
        model: What they are for.
        folder: A store of `diamond-gym collect`, or spawns in the released format.
        n: How many to draw from a store; of spawns all are taken.
        seed: Seeds the choice.

    Raises:
        BadArgument: The folder is neither, or holds another kind of experience.
        DamagedModel: A spawn cannot be used.
    """
    from diamond_gym.registry.spawn import is_spawn, read_spawn

    card = model.card
    if is_spawn(folder):
        if card.upsampler is None:
            raise BadArgument(f"{folder} holds spawns of a model of two stages, and this one has one")
        t_full = card.upsampler["inner_model"]["num_steps_conditioning"]
        return read_spawn(
            folder, model.frame_shape, card.obs_shape, card.num_actions, model.num_steps_conditioning, t_full
        )
    if card.upsampler is not None:
        raise BadArgument(f"{folder} is not a folder of spawns")
    if not (folder / "store.json").exists():
        raise BadArgument(f"{folder} is not a folder of collected episodes")
    store = EpisodeStore(folder)
    if store.about.frame_shape != model.frame_shape or store.codec != card.codec:
        raise BadArgument(
            f"{folder} holds frames {store.about.frame_shape} and {_how_many(store)} actions, "
            f"the model wants {model.frame_shape} and {card.num_actions}"
        )
    return draw_starts(store, model.num_steps_conditioning, n, seed)


def _how_many(store: EpisodeStore) -> str:
    return str(store.about.num_actions or (store.codec and store.codec.space) or store.about.action_dtype)


def can_collect(model: "Released") -> None:
    """Refuses where the checkpoint's own agent cannot play the real game.

    Raises:
        BadArgument: There is no such game here, no agent, or it was made for other actions.
    """
    card, game = model.card, games().get(model.card.game)
    if game is None:
        raise BadArgument(f"{card.game} is no game that can be played here: {_ADVICE}")
    if card.actor_critic is None:
        raise BadArgument(f"the checkpoint has no agent that could play {card.game}: {_ADVICE}")
    if game.num_actions != card.num_actions:
        raise BadArgument(f"{card.game} has {game.num_actions} actions, the checkpoint {card.num_actions}: {_ADVICE}")
    if model.frame_shape[2] != 3:
        raise BadArgument(f"the checkpoint sees {model.frame_shape[2]} channels, the game has 3: {_ADVICE}")


def starts_from_game(
    model: "Released",
    steps: int,
    n: int = 256,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Starts:
    """Start states from the real game, played by the checkpoint's own agent.

    Args:
        model: Whose agent plays, and what they are for.
        steps: How long it plays, over all games side by side.
        n: How many starts to draw from that.
        seed: Seeds the games, the agent and the choice.
        progress: Called with the steps so far.

    Raises:
        BadArgument: The agent cannot play the game.
    """
    from diamond_gym.trainers.collect import CollectConfig, Collector, games_for
    from diamond_gym.trainers.policies import AgentPolicy
    from diamond_gym.trainers.worlds import World, about_game

    can_collect(model)
    assert model.card.actor_critic is not None
    with torch.random.fork_rng(devices=[]):  # it is filled with random weights before it is loaded
        agent = ActorCritic(ActorCriticConfig(**model.card.actor_critic))
    prefix = PREFIXES["actor_critic"]
    agent.load_state_dict({k.removeprefix(prefix): v for k, v in model.weights.items() if k.startswith(prefix)})
    policy = AgentPolicy(agent.eval(), games_for(steps), np.random.default_rng([seed, 1]))
    world = World(about_game(model.card.game, model.frame_shape[:2]), model.card.game)
    with temporary_folder(Path(tempfile.gettempdir())) as folder, EpisodeStore(folder, "a", world.about) as store:
        with Collector(store, world.envs(games_for(steps)), CollectConfig(seed=seed), policy) as collector:
            collector.collect(steps, progress)
        return draw_starts(store, model.num_steps_conditioning, n, seed)
