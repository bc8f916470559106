"""Telling from a frame alone that a dream has left the game: colours that real frames never show in that place.

`python -m benchmarks.hallucination NAME` compares this number with the spread of several noises, the denoiser's own
error and the distance to the nearest real frame; docs/models.md has what it found.
"""

import torch
from torch import Tensor


class SeenColours:
    """Which colours real play shows within two pixels of each place, in bins of 16 levels with one bin of tolerance.

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
