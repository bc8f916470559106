"""Replay batches as tensors, padded with mid-grey as the networks were trained."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.segments import Batch


@dataclass(frozen=True)
class TensorBatch:
    """B segments of L steps on a device.

    Attributes:
        obs: Frames in [-1, 1], float32 (B, L, C, H, W); 0 where padded.
        next_obs: The frames that followed, float32 (B, L - 1, C, H, W), true final frames included, or None.
        act: int64 (B, L).
        rew: float32 (B, L), unclipped.
        end: bool (B, L).
        mask_padding: bool (B, L), True where the step is real.
    """

    obs: Tensor
    next_obs: Tensor | None
    act: Tensor
    rew: Tensor
    end: Tensor
    mask_padding: Tensor


def take(batch: Batch, rows: slice) -> Batch:
    """Some of a batch's rows, as views."""
    return Batch(*(getattr(batch, f.name)[rows] for f in fields(Batch)))


def to_tensors(batch: Batch, device: torch.device | str = "cpu", next_obs: bool = False) -> TensorBatch:
    """Moves a batch to a device as uint8 and makes the floats there.

    Args:
        batch: From a sampler.
        device: Where to.
        next_obs: Whether to include the frames that followed each step.
    """
    device = torch.device(device)

    def move(array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    mask = move(batch.mask_padding)
    following = None
    if next_obs:
        following = _normalise(move(batch.next_obs()), move(batch.next_mask()))
    return TensorBatch(
        _normalise(move(batch.obs), mask), following, move(batch.act), move(batch.rew), move(batch.end), mask
    )


def _normalise(pixels: Tensor, mask: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]; padding becomes 0.0, mid-grey."""
    return (pixels.float() / 255 * 2 - 1) * mask[:, :, None, None, None]
