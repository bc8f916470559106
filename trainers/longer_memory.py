"""Weights of a denoiser that sees few past frames, for one that sees more.

The new one begins as the old one: what it is shown besides has weight 0. So a memory can be lengthened where a dream
turns out to need it, without fitting anew what was learnt.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from diamond_gym.networks.denoiser import InnerModelConfig

_DOOR = "denoiser.inner_model.conv_in.weight"


def lengthened(weights: Mapping[str, Tensor], config: InnerModelConfig) -> dict[str, Tensor]:
    """The weights, with zeros for the frames that the network of `config` sees and the one they were fitted as did not.

    Args:
        weights: A world model's, the denoiser's input convolution being (channels, (T + 1) * C * patch_size^2, 3, 3).
        config: The network that they are for. It has to be told as many past actions as the old one
            (`num_actions_conditioning`), or they will not fit.
    """
    grown = dict(weights)
    if (door := grown.get(_DOOR)) is not None:
        images = config.num_steps_conditioning + config.num_extra_images + 1
        missing = images * config.img_channels * config.patch_size**2 - door.shape[1]
        if missing > 0:  # the oldest frames come first
            zeros = torch.zeros(door.shape[0], missing, *door.shape[2:], dtype=door.dtype, device=door.device)
            grown[_DOOR] = torch.cat((zeros, door), dim=1)
    return grown
