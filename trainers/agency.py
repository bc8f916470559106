"""Where the next frame hangs on the action: what a player moves, found by asking the denoiser itself.

A game shows much that nobody can foresee and an agent can do nothing about. What it steers is often small, and decides
its rewards; there a fitting can be made to look first.
"""

import torch
from torch import Tensor

from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.trainers.focus import near
from diamond_gym.trainers.scheduled_sampling import predicted

_CLEAR = 0.2  # a difference between two predictions, of 2, that is as clear as can be


@torch.no_grad()
def agency(denoiser: Denoiser | FoldedDenoiser, obs: Tensor, act: Tensor, instead: Tensor, noise: Tensor) -> Tensor:
    """How much the next frame would differ if the last action had been another one, as the denoiser predicts it.

    A function of the condition alone, if the other action is drawn without looking at what followed.

    Args:
        denoiser: Sees T frames; in its folded form it is faster.
        obs: Past frames in [-1, 1], float32 (B, T, C, H, W).
        act: Past actions, int64 (B, T).
        instead: The last actions that might have been taken, int64 (B,).
        noise: Standard normal, (B, C, H, W).

    Returns:
        From 0, nothing near by hangs on it, to 1; float32 (B, 1, H, W).
    """
    other = act.clone()
    other[:, -1] = instead
    frames = predicted(denoiser, torch.cat((obs, obs)), torch.cat((act, other)), torch.cat((noise, noise)))
    one, two = frames.chunk(2)
    difference = (one - two).abs().amax(dim=1, keepdim=True)
    return (near(difference) / _CLEAR).clamp(max=1)
