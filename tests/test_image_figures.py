"""Errors of frames against known values and against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_gym.trainers.image_figures import by_horizon, course, mse, psnr, spread, ssim


def pair(seed: int, size: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Waves in three colours, and the same with noise: uint8 (3, size, size) each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    a = np.stack([127 + 100 * np.sin(x / 3 + c) * np.cos(y / (4 + c)) for c in range(3)])
    b = a + rng.normal(0, noise, a.shape)
    return a.clip(0, 255).astype(np.uint8), b.clip(0, 255).astype(np.uint8)


# scikit-image 0.26, structural_similarity(a / 255, b / 255, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False, data_range=1.0, channel_axis=0)
@pytest.mark.parametrize(
    ("seed", "size", "noise", "known"),
    [(0, 24, 20, 0.7653807944594351), (1, 64, 5, 0.9796032116136678), (2, 16, 80, 0.17177125703332732)],
)
def test_ssim_is_that_of_scikit_image(seed: int, size: int, noise: float, known: float) -> None:
    a, b = pair(seed, size, noise)
    assert ssim(a[None], b[None])[0] == pytest.approx(known, abs=1e-9)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_ssim_of_equals_is_one_and_sides_do_not_matter(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 2, channels, 12, 13), dtype=np.uint8)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert (ssim(a, b) < 1).all()


def test_ssim_refuses_frames_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="at least 11×11"):
        ssim(np.zeros((1, 3, 8, 8), np.uint8), np.zeros((1, 3, 8, 8), np.uint8))


def test_mse_and_psnr_by_hand() -> None:
    black, grey = np.zeros((2, 1, 4, 4), np.uint8), np.full((2, 1, 4, 4), 51, np.uint8)
    assert mse(black, grey) == pytest.approx([0.04, 0.04])
    assert psnr(np.array([0.04, 1.0, 0.0])) == pytest.approx([13.9794, 0, 100])


def test_by_horizon_step_by_step() -> None:
    real = np.stack([np.full((2, 3, 12, 12), 51 * h, np.uint8) for h in range(3)], axis=1)
    found = by_horizon(real, real[:, :1])  # the first frame, copied
    assert found.mse == pytest.approx([0, 0.04, 0.16])
    assert found.psnr[0] == 100
    assert found.ssim[0] == pytest.approx(1)
    assert found.ssim[1] > found.ssim[2]
    assert np.isnan(by_horizon(real[..., :8, :8], real[..., :8, :8]).ssim).all()


def test_course_of_a_film() -> None:
    film = np.zeros((2, 4, 3, 10, 10), np.uint8)
    film[:, 1:, :, 0] = 255  # a tenth of the picture lights up in the first step, and stays
    film[1, 3] = 255  # in the last step the second film is cut
    cuts = np.zeros((2, 3), bool)
    cuts[1, 2] = True
    found = course(film, cuts)
    assert found.brightness == pytest.approx([0.1, 0.1, (0.1 + 1) / 2])
    assert found.contrast[:2] == pytest.approx([0.3, 0.3])
    assert found.moving == pytest.approx([0.1, 0, 0])
    assert found.energy == pytest.approx([0.1, 0, 0])
    film[0, 3, 0, 5, 5] = 16  # a flicker is no movement
    assert course(film, cuts).moving[2] == 0
    assert course(film, cuts).energy[2] > 0


def test_spread_is_the_mean_distance_of_pairs() -> None:
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (3, 4, 2, 3, 5, 5), dtype=np.uint8)
    pairs = [mse(films[:, i, h], films[:, j, h]).mean() for h in range(2) for i in range(4) for j in range(4) if i != j]
    assert spread(films) == pytest.approx(np.array(pairs).reshape(2, -1).mean(axis=1))
    assert (spread(films[:, :1].repeat(3, axis=1)) == 0).all(), "a deterministic game's"
    with pytest.raises(ValueError, match="at least two"):
        spread(films[:, :1])
