"""What an agent is trained in: a registered world model, how its dreams are sampled, and the sizes that it asks for."""

from dataclasses import replace
from typing import Any

import torch

from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, load_world_model
from diamond_gym.sampler import QUALITIES, SamplerConfig
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.worlds import check_rewarded
from diamond_gym.two_stage import TWO_STAGE_QUALITIES, TwoStageSampler, sampler_of
from diamond_gym.world_model import WorldModel, check_steps


def world_to_dream_in(
    entry: Entry, device: torch.device | str = "cpu", precision: str = "float32", compile: bool = False
) -> WorldModel:
    """Loads a registered model without the agent it may have, so that its fingerprint is that of the dreams alone.

    On a CPU it dreams by the kernels where these are faster, also if it is not to be compiled.

    Args:
        entry: The model.
        device: Where to dream.
        precision: "float32" or "bfloat16".
        compile: Compile the networks; see `diamond_gym.envs.DreamVectorEnv`.

    Raises:
        BadArgument: Nothing is rewarded in the model's dreams, or they have no starts; or compiling was asked for and
            cannot work.
    """
    check_rewarded(entry)
    model = load_world_model(entry, str(device), "float32").to_device(str(device), precision)
    if model.starts is None:
        raise BadArgument(f"an agent cannot learn in {entry.name}: it has no starts for its dreams")
    model.requires_grad_(False)
    if compile:
        model.compile_networks()
    else:
        model.use_kernels()
    return WorldModel(
        model.denoiser, model.reward_end, None, model.upsampler, starts=model.starts, precision=model.precision
    )


def sampler_for(
    entry: Entry, quality: str | None = None, num_denoising_steps: int | None = None
) -> SamplerConfig | TwoStageSampler:
    """How a model's dreams are sampled for an agent, of two stages both of them.

    Args:
        entry: The model.
        quality: The name of one of its qualities; default: as its card says.
        num_denoising_steps: In the place of the quality's; of two stages those of the small frames.

    Raises:
        BadArgument: The model has no such quality, or was distilled to dream in one step.
    """
    two_stages, own = entry.card.upsampler is not None, entry.card.sampler
    qualities: dict[str, Any] = dict(TWO_STAGE_QUALITIES if two_stages else QUALITIES)
    if quality is not None and quality not in qualities:
        raise BadArgument(f"{entry.name} dreams in qualities {', '.join(qualities)}, not {quality}")
    steps = {} if num_denoising_steps is None else {"num_denoising_steps": num_denoising_steps}
    if two_stages:
        both: TwoStageSampler = sampler_of(own) if quality is None else qualities[quality]
        return replace(both, dynamics=replace(both.dynamics, **steps))
    sampler: SamplerConfig = replace(SamplerConfig(**own) if quality is None else qualities[quality], **steps)
    check_steps(entry.card, sampler)
    return sampler


def agent_for(config: AgentFitConfig, entry: Entry) -> AgentFitConfig:
    """The configuration with a model's image size and actions filled in.

    Raises:
        BadArgument: The model's actions are not numbered.
    """
    card = entry.card
    if card.codec.is_vector:
        raise BadArgument(
            f"DIAMOND's agent takes numbered actions, and those of {entry.name} are {card.codec.space}: "
            "train with --algo ppo (or sac)"
        )
    return config.for_frames(card.obs_shape, card.num_actions)
