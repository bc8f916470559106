"""What the denoiser's error weighs where: more near what moves, what the player steers, and where things appear.

All of it is a function of the condition alone, so that the best prediction stays the same; a network of limited size
and time merely spends both on balls and paddles rather than on walls.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diamond_gym.data.segments import TensorBatch
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.trainers.agency import agency
from diamond_gym.trainers.appearances import Appearances
from diamond_gym.trainers.focus import motion
from diamond_gym.trainers.loop import Share

if TYPE_CHECKING:
    from diamond_gym.trainers.world_model import WorldModelConfig


class PixelWeights:
    """Weights of mean 1 over a joint batch.

    Args:
        config: How much of what.
        frames: The denoiser whose error it is, to sample frames with.
        appearances: Where things appear.
    """

    def __init__(self, config: "WorldModelConfig", frames: Denoiser | FoldedDenoiser, appearances: Appearances) -> None:
        self._config, self._frames, self._appearances = config, frames, appearances

    def of(self, share: Share, batch: TensorBatch) -> Callable[[Tensor], Tensor] | None:
        """For the rows of a batch: (B, 1, H, W) as a function of the window (B, T, C, H, W); None if all weigh 1."""
        config = self._config
        if not (config.motion_weight or config.appearance_weight or config.agency_weight):
            return None
        return partial(self._weights, share, self._steered(share, batch) if config.agency_weight else 0.0)

    def _steered(self, share: Share, batch: TensorBatch) -> Tensor:
        """The weight of what is steered, (B, 1, H, W): of the first frame that is predicted, for all of them."""
        inner, device = self._config.denoiser.inner_model, batch.obs.device
        assert inner.num_actions is not None
        seen = slice(0, inner.num_steps_conditioning)
        instead = share.own(torch.randint(inner.num_actions, (share.joint,), device=device))
        noise = share.own(torch.randn(share.joint, *batch.obs.shape[2:], dtype=torch.float32, device=device))
        return self._config.agency_weight * agency(self._frames, batch.obs[:, seen], batch.act[:, seen], instead, noise)

    def _weights(self, share: Share, steered: Tensor | float, window: Tensor) -> Tensor:
        weight = motion(window, self._config.motion_weight) + steered
        if self._config.appearance_weight:
            weight = weight + self._config.appearance_weight * self._appearances.weights(window)
        if share.processes.alone:
            return weight / weight.mean()
        return weight / share.processes.sum(weight.mean() * share.fraction)
