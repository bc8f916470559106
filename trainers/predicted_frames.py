"""Frames as the denoiser would dream them, for a reward and end model that will be shown no others.

A game's score on the screen tells every reward, and a model that is fitted to real frames reads nothing else. In a
dream the digits hardly ever change, being small and hard to foresee; there such a model gives no reward at all.
"""

import torch
from torch import Tensor

from diamond_gym.denoiser import Denoiser
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.trainers.batch import TensorBatch

ONE_STEP = SamplerConfig(num_denoising_steps=1)


@torch.no_grad()
def predicted_next(denoiser: Denoiser, batch: TensorBatch, noise: Tensor) -> Tensor:
    """The frames that follow each step, as predicted in one denoising step from the real ones before.

    Args:
        denoiser: Sees T frames.
        batch: Segments of L steps with `next_obs`.
        noise: Standard normal, (B, L - T, C, H, W).

    Returns:
        `batch.next_obs`, float32 (B, L - 1, C, H, W), with predictions after every step that has T real frames: all
        but the first T - 1, and those that padding takes.
    """
    assert batch.next_obs is not None
    t = denoiser.num_steps_conditioning
    count = batch.obs.shape[1] - t
    windows = [slice(i, i + t) for i in range(count)]
    obs = torch.cat([batch.obs[:, window] for window in windows])  # (count * B, T, C, H, W)
    act = torch.cat([batch.act[:, window] for window in windows])
    frames, _ = sample(denoiser, obs, act, noise.transpose(0, 1).flatten(0, 1), ONE_STEP)
    predicted = frames.float().unflatten(0, (count, -1)).transpose(0, 1)
    whole = torch.stack([batch.mask_padding[:, window].all(dim=1) for window in windows], dim=1)
    kept, replaced = batch.next_obs[:, : t - 1], batch.next_obs[:, t - 1 :]
    return torch.cat((kept, torch.where(whole[..., None, None, None], predicted, replaced)), dim=1)
