"""Comparing frames that two orders of additions made, so that no test depends on where a value happens to lie.

A value on the edge of an 8-bit level falls either way, and every later denoising step carries that to the pixels
around: of the frames of two right networks a few per cent may differ. Whether they compute the same is asked
before they round, or of one call at a time.
"""

import pytest
import torch
from torch import Tensor

from diamond_gym.networks.denoiser import Denoiser

EDGE = 0.02
"""Of a level: what float32 may be off the exact value. Some 100 times of what it is found to be."""


def without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has denoisers return frames as they are before they are put on levels: continuous in everything."""
    monkeypatch.setattr("diamond_gym.networks.denoiser.quantise", lambda x, nearest=False: x)
    monkeypatch.setattr("diamond_gym.networks.kernels.dreams.kernel_frame", lambda config: Denoiser(config).frame)


def assert_on_levels_of(frame: Tensor, exact: Tensor, nearest: bool) -> None:
    """A frame is what `quantise` makes of something that is `exact` but for the rounding of float32."""
    level, value = (frame + 1) * 127.5, (exact.clamp(-1, 1) + 1) * 127.5 + 0.5 * nearest
    assert (level - level.round()).abs().max() < 1e-3
    assert (level - value).max() <= EDGE
    assert (value - level).max() <= 1 + EDGE


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Relative to the tensor's scale: a value near zero carries the rounding of its neighbours."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def assert_same_frames(actual: Tensor, expected: Tensor, share: float = 0.01) -> None:
    """Frames of one call of a network: no value is more than one level off, and few are that."""
    levels = (actual - expected).abs() * 127.5
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() <= share
