"""Warm starts: a training that begins with the weights of another model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diamond_gym.errors import BadArgument, DiamondGymError, one_line
from diamond_gym.networks.denoiser import InnerModelConfig
from diamond_gym.world_model import PREFIXES

if TYPE_CHECKING:
    from diamond_gym.trainers.actor_critic import ActorCriticTrainer
    from diamond_gym.trainers.world_model import WorldModelTrainer

_INNER = "denoiser.inner_model."
_CONV_IN, _LEVEL = f"{_INNER}conv_in.weight", f"{_INNER}noise_cond_emb.weight"
_PROJECTION, _BIAS = f"{_INNER}cond_proj.0.weight", f"{_INNER}cond_proj.0.bias"


def lengthened(weights: Mapping[str, Tensor], config: InnerModelConfig) -> dict[str, Tensor]:
    """The weights of a world model, with zeros for the past frames that it did not see and that `config` does.

    The new network then begins as the old one, and what the old one learnt need not be learnt anew. `config` needs as
    many past actions as the old network had (`num_actions_conditioning`), or the weights will not fit.
    """
    grown = dict(weights)
    if (old := grown.get(_CONV_IN)) is not None:
        images = config.num_steps_conditioning + config.num_extra_images + 1
        missing = images * config.img_channels * config.patch_size**2 - old.shape[1]
        if missing > 0:  # the oldest frames come first
            zeros = torch.zeros(old.shape[0], missing, *old.shape[2:], dtype=old.dtype, device=old.device)
            grown[_CONV_IN] = torch.cat((zeros, old), dim=1)
    return grown


def given_level(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights of a world model that does not get the noise level of its past frames, for one that does.

    The Fourier features of level 0, which the frames of a dream have, are ones and zeros. A bias takes them back, so
    that the new network begins as the old one.

    Args:
        weights: That model's.
        own: Those of the new networks, of which the frequencies are taken.
    """
    if _LEVEL in weights or _LEVEL not in own or not {_PROJECTION, _BIAS} <= weights.keys():
        return weights
    ones = weights[_PROJECTION][:, : own[_LEVEL].shape[1]].float().sum(1)
    return {**weights, _LEVEL: own[_LEVEL], _BIAS: weights[_BIAS].float() - ones}


def begin_with(trainer: "WorldModelTrainer", weights: Mapping[str, Tensor]) -> None:
    """Takes another model's weights, those of all networks that are trained, to begin with.

    One that sees fewer past frames will do, if it sees as many past actions, and so will one that does not get their
    noise level.

    Args:
        trainer: Whose weights are replaced.
        weights: That model's, by their keys in its file.

    Raises:
        DiamondGymError: They are those of networks of another kind.
    """
    parts = [name for name in PREFIXES if name not in trainer.world_model.parts]
    kept = {k: v for k, v in weights.items() if not k.startswith(tuple(PREFIXES[name] for name in parts))}
    own = given_level(kept, trainer.world_model.weights())
    try:
        trainer.world_model.load_weights(lengthened(own, trainer.config.denoiser.inner_model))
    except RuntimeError as error:
        raise DiamondGymError(f"these weights do not fit the networks of this run ({one_line(error)})") from None
    for name, average in trainer.ema.items():
        average.module.load_state_dict(trainer.world_model.parts[name].state_dict())


def begin_with_agent(trainer: "ActorCriticTrainer", weights: Mapping[str, Tensor], name: str) -> None:
    """Takes the agent of another model to begin with.

    Args:
        trainer: Whose weights are replaced.
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
        trainer.agent.load_state_dict(own)
    except RuntimeError as error:
        raise BadArgument(f"the agent of {name} is not one of this preset and game ({one_line(error)})") from None
