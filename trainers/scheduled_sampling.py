"""Frames as the denoiser would dream them, for a reward and end model that will be shown no others.

A game's score on the screen tells every reward, and a model that is fitted to real frames reads nothing else. In a
dream the digits hardly ever change, being small and hard to foresee; there such a model gives no reward at all.
"""

import torch
from torch import Tensor

from diamond_gym.data.segments import TensorBatch
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.sampler import SamplerConfig, objective_of, sample

ONE_STEP = SamplerConfig(num_denoising_steps=1)


@torch.no_grad()
def predicted(denoiser: Denoiser | FoldedDenoiser, obs: Tensor, act: Tensor, noise: Tensor) -> Tensor:
    """The next frames in one denoising step, float32 (B, C, H, W), of obs (B, T, C, H, W), act (B, T) and noise."""
    frames, _ = sample(denoiser.condition, obs, act, noise, ONE_STEP, objective=objective_of(denoiser))
    return frames.float()


@torch.no_grad()
def dreamed(
    denoiser: Denoiser | FoldedDenoiser, batch: TensorBatch, t: int, noise: Tensor, length: int = 1
) -> tuple[Tensor, Tensor]:
    """Segments whose steps are dreamed in one denoising step each, with the actions that were really taken.

    After `length` dreamed steps in a row the next begin from real frames again: with 1 every frame is predicted from
    real ones, with L - T the segment is one dream, as evaluation in closed loop has it.

    Args:
        denoiser: Sees T frames; in its folded form it is faster.
        batch: Segments of L steps with `next_obs`.
        t: T.
        noise: Standard normal, (B, L - T, C, H, W).
        length: Dreamed steps in a row, at least 1.

    Returns:
        `batch.obs` without its last frame and `batch.next_obs`, both float32 (B, L - 1, C, H, W), with dreamed frames
        in them. The first T - 1 steps stay real, and so do the `length` that would begin from padding.
    """
    assert batch.next_obs is not None
    obs, next_obs = batch.obs[:, :-1].clone(), batch.next_obs.clone()
    count = noise.shape[1]
    length = min(length, count)
    begins = list(range(0, count, length))
    window = torch.stack([batch.obs[:, s : s + t] for s in begins], dim=1)  # (B, dreams, T, C, H, W)
    whole = torch.stack([batch.mask_padding[:, s : s + t].all(dim=1) for s in begins], dim=1)  # (B, dreams)
    for i in range(length):
        begins = [s for s in begins if s + i < count]  # the last dream may be shorter
        window, whole = window[:, : len(begins)], whole[:, : len(begins)]
        act = torch.stack([batch.act[:, s + i : s + i + t] for s in begins], dim=1)
        start = torch.stack([noise[:, s + i] for s in begins], dim=1).flatten(0, 1)
        frame = predicted(denoiser, window.flatten(0, 1), act.flatten(0, 1), start).unflatten(0, whole.shape)
        for j, s in enumerate(begins):
            kept = whole[:, j, None, None, None]
            place = s + i + t - 1
            next_obs[:, place] = torch.where(kept, frame[:, j], next_obs[:, place])
            if i + 1 < length and place + 1 < obs.shape[1]:
                obs[:, place + 1] = torch.where(kept, frame[:, j], obs[:, place + 1])
        window = torch.cat((window[:, :, 1:], frame[:, :, None]), dim=2)
    return obs, next_obs
