"""Pictures of dreams beside reality."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt

from diamond_gym.files import atomic_write
from diamond_gym.trainers.closed_loop import RealPlay, Rollout

GAP = 2


def strip(play: RealPlay, rollout: Rollout, rows: int = 3, columns: int = 9, scale: int = 2) -> npt.NDArray[np.uint8]:
    """Real frames above dreamed ones, window below window, from left to right in time.

    The first column is the last real frame before the dream, in both lines.

    Args:
        play: Real windows.
        rollout: What was dreamed in their place.
        rows: Windows to show.
        columns: Frames to show of each, spread evenly over the horizon.
        scale: Screen pixels per pixel.

    Returns:
        uint8 (height, width, C).
    """
    horizon = rollout.obs.shape[1]
    t = play.obs.shape[1] - horizon
    shown = np.unique(np.linspace(0, horizon - 1, columns - 1).round().astype(int))
    lines = []
    for real, dreamed in zip(play.obs[:rows], rollout.obs[:rows], strict=True):
        before = real[t - 1 : t]
        lines.append(np.concatenate((before, real[t + shown])))
        lines.append(np.concatenate((before, dreamed[shown])))
    return tile(np.stack(lines).transpose(0, 1, 3, 4, 2), scale)


def tile(frames: npt.NDArray[np.uint8], scale: int = 1) -> npt.NDArray[np.uint8]:
    """Frames uint8 (rows, columns, H, W, C) on one sheet, uint8 (height, width, C), with a grey gap between."""
    frames = frames.repeat(scale, axis=2).repeat(scale, axis=3)
    padded = np.pad(frames, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=96)
    rows, columns, h, w, c = padded.shape
    return padded.transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)[:-GAP, :-GAP]


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """A picture as a PNG file's content."""
    return iio.imwrite("<bytes>", image, extension=".png")


def write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Writes a picture, whole or not at all."""
    with atomic_write(path) as file:
        file.write(png(image))
