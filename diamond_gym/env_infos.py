"""What the environments give out besides frames: infos with their masks, the tiled picture, their state."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.dream_state import DreamState, DreamStep
from diamond_gym.start_bank import to_pixels

Array = npt.NDArray[Any]
Info = dict[str, Any]


@dataclass(frozen=True)
class EnvState:
    """A dream environment at one moment: the dream, and which rows have ended."""

    dream: DreamState
    ended: npt.NDArray[np.bool_]


def start_info(rows: Array, start: Tensor) -> Info:
    """`start` (B,) for the rows in the mask, 0 elsewhere."""
    return {"start": np.where(rows, start.cpu().numpy(), 0), "_start": rows.copy()}


def trajectory_info(rows: Array, trajectory: list[Tensor]) -> Info:
    """`denoising_trajectory` uint8 (B, n + 1, H, W, C) for the rows in the mask, 0 elsewhere."""
    images = to_pixels(torch.stack(trajectory, dim=1)).cpu().numpy()
    images = np.where(rows[:, None, None, None, None], images, np.uint8(0))
    return {"denoising_trajectory": images, "_denoising_trajectory": rows.copy()}


def final_info(rows: Array, step: DreamStep, trajectory: bool) -> Info:
    """`final_obs` and `final_info` of rows that ended and have restarted within the step."""
    frames = to_pixels(step.final_obs).cpu().numpy()
    final_obs = np.full(len(rows), None, dtype=object)
    for row in np.flatnonzero(rows):
        final_obs[row] = frames[row].copy()
    info = start_info(rows, step.final_start)
    if trajectory:
        info |= trajectory_info(rows, step.trajectory)
    return {"final_obs": final_obs, "_final_obs": rows.copy(), "final_info": info, "_final_info": rows.copy()}


def tile(frames: Array) -> Array:
    """Frames (B, H, W, C) as one image, in a grid as square as can be, black where there is no frame."""
    batch, h, w, c = frames.shape
    columns = int(np.ceil(np.sqrt(batch)))
    rows = -(-batch // columns)
    grid = np.zeros((rows * columns, h, w, c), dtype=frames.dtype)
    grid[:batch] = frames
    return grid.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)
