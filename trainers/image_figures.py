"""How far frames are from each other: mean squared error, PSNR, SSIM, and simple statistics of their course.

SSIM is the structural similarity of Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
Similarity" (IEEE TIP 13), with the paper's settings: a Gaussian window of 11×11 with σ = 1.5, K1 = 0.01, K2 = 0.03,
each colour by itself; the mean leaves out the border of 5 pixels that the window reaches over.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

_Frames = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
_CHUNK = 256  # frames at a time
PSNR_LIMIT = 100.0  # dB, of frames that agree to the last bit
_MOVED = 16  # levels by which a pixel has to change to count as moving


def mse(a: _Frames, b: _Frames) -> _Floats:
    """Mean squared error of frames uint8 (N, C, H, W), pixels in [0, 1]: (N,)."""
    difference = (a.astype(np.float32) - b.astype(np.float32)) / 255
    return np.asarray((difference**2).mean(axis=(1, 2, 3), dtype=np.float64))


def psnr(errors: _Floats) -> _Floats:
    """Peak signal-to-noise ratio in dB of mean squared errors with pixels in [0, 1], at most `PSNR_LIMIT`."""
    return np.asarray(-10 * np.log10(np.maximum(errors, 10 ** (-PSNR_LIMIT / 10))))


def ssim(a: _Frames, b: _Frames) -> _Floats:
    """Structural similarity of frames uint8 (N, C, H, W) with sides of at least 11: (N,), 1 where they are equal."""
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs frames of at least {WINDOW}×{WINDOW} pixels, not {a.shape[-2:]}")
    parts = [_ssim(_images(a[i : i + _CHUNK]), _images(b[i : i + _CHUNK])) for i in range(0, len(a), _CHUNK)]
    return torch.cat(parts).numpy()


def _images(frames: _Frames) -> Tensor:
    return torch.from_numpy(np.array(frames, np.float64)) / 255  # a copy: torch wants memory that may be written


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    mean_x, mean_y = _window(x), _window(y)
    var_x, var_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    cov = _window(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _window(x: Tensor) -> Tensor:
    """Means of (N, C, H, W) under the Gaussian window, where it fits: (N, C, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    weight = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weight = weight / weight.sum()
    n, c, h, w = x.shape
    rows = F.conv2d(x.reshape(n * c, 1, h, w), weight.view(1, 1, -1, 1))
    return F.conv2d(rows, weight.view(1, 1, 1, -1)).view(n, c, h - WINDOW + 1, w - WINDOW + 1)


@dataclass(frozen=True)
class Horizon:
    """Errors by horizon, each float64 (H,): entry h - 1 is the mean over windows at step h."""

    mse: _Floats
    psnr: _Floats
    ssim: _Floats


def by_horizon(real: _Frames, other: _Frames) -> Horizon:
    """Compares frames uint8 (N, H, C, H, W) step by step; `other` may be (N, 1, ...), one frame for all steps.

    The PSNR is that of the mean error, which a few perfect frames do not inflate. Frames smaller than SSIM's window
    have none: NaN.
    """
    other = np.broadcast_to(other, real.shape)
    steps = range(real.shape[1])
    errors = np.array([mse(real[:, h], other[:, h]).mean() for h in steps])
    small = min(real.shape[-2:]) < WINDOW
    similar = np.array([np.nan if small else ssim(real[:, h], other[:, h]).mean() for h in steps])
    return Horizon(errors, psnr(errors), similar)


@dataclass(frozen=True)
class Course:
    """Simple statistics of films by step, each float64 (H,), means over the films.

    Attributes:
        brightness: The mean pixel, in [0, 1].
        contrast: The standard deviation of a frame's pixels.
        moving: The share of pixels that changed by more than 16 of 255 levels since the frame before.
        energy: The mean squared change since the frame before.
    """

    brightness: _Floats
    contrast: _Floats
    moving: _Floats
    energy: _Floats


def course(frames: _Frames, cuts: npt.NDArray[np.bool_] | None = None) -> Course:
    """The statistics of films uint8 (N, 1 + H, C, H, W), whose first frame only serves as the one before.

    Args:
        frames: The films.
        cuts: bool (N, H), where a film jumps to another scene, whose change does not count.
    """
    bright, contrast, moving, energy = [], [], [], []
    for h in range(1, frames.shape[1]):
        before, now = frames[:, h - 1].astype(np.float32), frames[:, h].astype(np.float32)
        change = np.abs(now - before)
        kept = np.ones(len(now), np.bool_) if cuts is None else ~cuts[:, h - 1]
        bright.append(now.mean(dtype=np.float64) / 255)
        contrast.append((now.reshape(len(now), -1).std(axis=1, dtype=np.float64) / 255).mean())
        moved = (change.max(axis=1) > _MOVED).mean(axis=(1, 2))
        squared = ((change / 255) ** 2).mean(axis=(1, 2, 3), dtype=np.float64)
        moving.append(moved[kept].mean() if kept.any() else np.nan)
        energy.append(squared[kept].mean() if kept.any() else np.nan)
    return Course(np.array(bright), np.array(contrast), np.array(moving), np.array(energy))


def spread(frames: _Frames) -> _Floats:
    """Mean squared distance between two of K films of one start, uint8 (N, K, H, C, H, W): (H,), a mean over starts.

    Twice the variance over the K films, corrected for their number: the expectation of the squared distance between
    any two, without going through the pairs.
    """
    k = frames.shape[1]
    if k < 2:
        raise ValueError("the distance between dreams of one start needs at least two of them")
    by_step = [
        2 * np.var(frames[:, :, h].astype(np.float32) / 255, axis=1, ddof=1, dtype=np.float64).mean()
        for h in range(frames.shape[2])
    ]
    return np.array(by_step)
