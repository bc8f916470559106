"""Frames: pixels uint8 (H, W, C) from and to floats in [-1, 1] (C, H, W); pictures, videos and colours."""

import errno
import io
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.errors import DiamondGymError
from diamond_gym.files import atomic_write, disk_space_for, is_disk_full

_SPACE = "No space left on device"


def to_frames(pixels: Tensor) -> Tensor:
    """uint8 (..., H, W, C) -> float32 (..., C, H, W) in [-1, 1]."""
    return pixels.movedim(-1, -3).to(torch.float32).div_(255).mul_(2).sub_(1)


def to_pixels(frames: Tensor) -> Tensor:
    """float32 (..., C, H, W) in [-1, 1] -> contiguous uint8 (..., H, W, C), to the nearest level."""
    return frames.clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8).movedim(-3, -1).contiguous()


def quantise(x: Tensor, nearest: bool = False) -> Tensor:
    """Clamps images in [-1, 1] and puts them on 8-bit levels, as storing and reloading a frame would.

    The paper truncates. A frame that is on a level already may then fall one lower through rounding, and a
    network that repeats what stands still would darken it step by step: such a one takes the nearest level.
    """
    x = (x.clamp(-1, 1) + 1) / 2 * 255
    x = x + 0.5 if nearest else x
    return x.byte().float() / 255 * 2 - 1


Array = npt.NDArray[Any]


def tile(frames: Array, columns: int | None = None, scale: int = 1, gap: int = 0) -> Array:
    """Frames (B, H, W, C) as one image, in a grid of so many columns, or as square as can be.

    It is black where there is no frame, and grey in the gaps between frames.
    """
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    batch, h, w, c = frames.shape
    columns = columns or int(np.ceil(np.sqrt(batch)))
    rows = -(-batch // columns)
    grid = np.zeros((rows * columns, h + gap, w + gap, c), dtype=frames.dtype)
    grid[:, h:], grid[:, :, w:] = 96, 96
    grid[:batch, :h, :w] = frames
    height, width = rows * (h + gap), columns * (w + gap)
    image = grid.reshape(rows, columns, h + gap, w + gap, c).swapaxes(1, 2).reshape(height, width, c)
    return image[: height - gap, : width - gap]


def write_video(path: Path, frames: Iterable[npt.NDArray[np.uint8]], fps: int) -> None:
    """Writes frames as .mp4 or .gif, whole or not at all.

    They are taken one by one: an MP4 needs memory for one of them. A GIF is held in memory, with a byte for a pixel.

    Args:
        path: The file.
        frames: uint8 (H, W, 3), or (H, W, 1) for grey.
        fps: Frames per second.

    Raises:
        DiamondGymError: The video library could not write it, there are no frames, or the file's name ends otherwise.
    """
    write = {".gif": _gif, ".mp4": _mp4}.get(path.suffix)
    if write is None:
        raise DiamondGymError(f"a video must end in .mp4 or .gif, not {path}")
    with disk_space_for(path):
        try:
            coloured = (frame.repeat(3, axis=2) if frame.shape[2] == 1 else frame for frame in frames)
            first = next(coloured, None)
            if first is None:
                raise ValueError("there are no frames")
            content = write(chain([first], coloured), fps)
        except Exception as error:  # a broken pipe to ffmpeg too, which is none of ours
            if is_disk_full(error, path.parent) or _SPACE in str(error):
                raise OSError(errno.ENOSPC, _SPACE, str(path)) from error
            message = " ".join((getattr(error, "strerror", None) or str(error)).split("FFMPEG")[0].split())
            raise DiamondGymError(f"could not write {path} ({message[:200] or type(error).__name__})") from error
        with atomic_write(path) as file:
            file.write(content)


def _mp4(frames: Iterable[npt.NDArray[np.uint8]], fps: int) -> bytes:
    import imageio.v3 as iio

    # H.264 wants even sizes in this pixel format, which every player shows
    even: Any = (frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2] for frame in frames)
    options: dict[str, Any] = {"codec": "libx264", "macro_block_size": 2, "ffmpeg_log_level": "quiet"}
    content: bytes = iio.imwrite("<bytes>", even, is_batch=True, extension=".mp4", fps=fps, **options)
    if b"moov" not in content:  # the index, which comes last: ffmpeg says nothing of a full disk
        raise OSError(_SPACE)
    return content


def _gif(frames: Iterable[npt.NDArray[np.uint8]], fps: int) -> bytes:
    from PIL import Image  # imageio would hold all frames twice

    content, pictures = io.BytesIO(), map(Image.fromarray, frames)
    next(pictures).save(content, "GIF", save_all=True, append_images=pictures, duration=1000 / fps, loop=0)
    return content.getvalue()


class SeenColours:
    """Which colours real play shows within two pixels of each place, in bins of 16 levels with one bin of tolerance.

    A frame with other colours tells that its dream has left the game. `python -m benchmarks.hallucination NAME`
    compares this number with others; docs/models.md has what it found.

    Args:
        frames: uint8 (N, C, h, w) with at most three channels, on any device.
    """

    def __init__(self, frames: Tensor) -> None:
        _, c, h, w = frames.shape
        self._places = torch.arange(h * w, device=frames.device)
        seen = torch.zeros(h * w, 16**c, dtype=torch.bool, device=frames.device)
        for part in frames.split(4096):
            seen[self._places.expand(len(part), -1), self._colours(part)] = True
        cube = seen.view(h, w, *[16] * c)
        for dim in range(2 + c):
            cube = _spread(cube, dim, 2 if dim < 2 else 1)
        self._seen = cube.reshape(h * w, 16**c)

    @staticmethod
    def _colours(frames: Tensor) -> Tensor:
        """(N, C, h, w) -> the index of each pixel's bin, int64 (N, h*w)."""
        bins, c = frames.long().flatten(2) // 16, frames.shape[1]
        return (bins * 16 ** torch.arange(c - 1, -1, -1, device=bins.device)[:, None]).sum(1)

    def artefacts(self, frames: Tensor) -> Tensor:
        """The share of the pixels of frames (N, C, h, w) whose colour real play never shows there, (N,)."""
        return (~self._seen[self._places, self._colours(frames)]).float().mean(dim=1)


def _spread(x: Tensor, dim: int, reach: int) -> Tensor:
    """Where `x` is true within `reach` places along a dimension."""
    size, near = x.shape[dim], x.clone()
    for k in range(1, reach + 1):
        near.narrow(dim, k, size - k).logical_or_(x.narrow(dim, 0, size - k))
        near.narrow(dim, 0, size - k).logical_or_(x.narrow(dim, k, size - k))
    return near
