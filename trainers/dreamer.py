"""An agent's training in the dreams of a world model that stays as it is."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.registry import Entry, load_world_model, with_agent
from diamond_gym.trainers.actor_critic import AgentFit, AgentFitConfig
from diamond_gym.world_model import PREFIXES, WorldModel


def world_to_dream_in(
    entry: Entry, device: torch.device | str = "cpu", precision: str = "float32", compile: bool = False
) -> WorldModel:
    """Loads a registered model without the agent it may have, so that its fingerprint is that of the dreams alone.

    Args:
        entry: The model.
        device: Where to dream.
        precision: "float32" or "bfloat16".
        compile: Compile the networks; see `diamond_gym.envs.DreamVectorEnv`.

    Raises:
        BadArgument: Nothing is rewarded in the model's dreams, or an agent cannot act in them; or compiling was asked
            for and cannot work.
    """
    model = load_world_model(entry, str(device), "float32").to_device(str(device), precision)
    if model.reward_end is None or model.upsampler is not None:
        raise BadArgument(f"an agent cannot learn in {entry.name}: it needs rewards and single actions in its dreams")
    if model.starts is None:
        raise BadArgument(f"an agent cannot learn in {entry.name}: it has no starts for its dreams")
    model.requires_grad_(False)
    if compile:
        model.compile_networks()
    return WorldModel(model.denoiser, model.reward_end, starts=model.starts, precision=model.precision)


def agent_for(config: AgentFitConfig, entry: Entry) -> AgentFitConfig:
    """The configuration with a model's image size and actions filled in.

    Raises:
        BadArgument: The model's frames are not square.
    """
    height, width, channels = entry.card.obs_shape
    if height != width:
        raise BadArgument(f"the agent sees square frames, and those of {entry.name} have {height}x{width} pixels")
    network = replace(config.network, img_size=height, img_channels=channels, num_actions=entry.card.num_actions)
    return replace(config, network=network)


def begin_with_agent_of(fit: AgentFit, weights: Mapping[str, torch.Tensor], name: str) -> None:
    """Takes the agent of another model to begin with.

    Args:
        fit: Whose weights are replaced.
        weights: That model's, by their keys in its file.
        name: What to call it in an error.

    Raises:
        BadArgument: It has no agent, or one of another kind.
    """
    prefix = PREFIXES["actor_critic"]
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    if not own:
        raise BadArgument(f"{name} has no agent to begin with")
    try:
        fit.agent.load_state_dict(own)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise BadArgument(f"the agent of {name} is not one of this preset and game ({line})") from None


def agent_weights(agent: ActorCritic) -> dict[str, torch.Tensor]:
    """An agent's weights by the keys of a model's file, as float16."""
    prefix = PREFIXES["actor_critic"]
    return {prefix + key: value.half().cpu().contiguous() for key, value in agent.state_dict().items()}


def register_agent(entry: Entry, agent: ActorCritic, facts: Mapping[str, Any]) -> Entry:
    """Registers a model together with an agent; from here on the agent is what was stored, rounded to float16.

    Args:
        entry: The model it was trained in.
        agent: The agent.
        facts: What its card says of the training.
    """
    entry = with_agent(entry, asdict(agent.config), agent_weights(agent), facts)
    round_agent(agent)
    return entry


def round_agent(agent: ActorCritic) -> None:
    """Makes an agent what it is once stored, so that what is scored is what was stored."""
    agent.load_state_dict({key: value.half() for key, value in agent.state_dict().items()})
