"""Strips and videos of dreams beside real play."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from test_rollouts import H, T, oracle, recorded

from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.plots import comparison, difference, strip, write_png
from diamond_gym.trainers.rollouts import dream_rollouts


def test_strip_and_png(tmp_path: Path) -> None:
    real = recorded(4)
    picture = strip(real, real, rows=2, columns=5, scale=1)
    assert picture.shape == (4 * 8 + 3 * 2, 5 * 8 + 4 * 2, 3)
    assert np.array_equal(picture[:8], picture[10:18]), "a perfect dream's line is the real one"
    assert np.array_equal(picture[:8, :8], real.obs[0, T - 1].transpose(1, 2, 0)), "the frame before the dream"
    assert np.array_equal(picture[20:28, 40:], real.obs[1, -1].transpose(1, 2, 0))
    assert (picture[8:10] == 96).all(), "a grey gap"
    write_png(tmp_path / "deep" / "strip.png", picture)
    assert np.array_equal(iio.imread(tmp_path / "deep" / "strip.png"), picture)


def test_a_video_of_both() -> None:
    real = recorded()[:2]
    film = comparison(real, dream_rollouts(oracle(), real, SamplerConfig()), ("stay", "left", "right"), scale=8)
    assert len({frame.shape for frame in film}) == 1
    steps = film[-H:]
    first = steps[0][22 : 22 + 64]  # below the titles: reality, dream and difference of the first start
    assert np.array_equal(first[:, :64], first[:, 66:130])
    assert not first[:, 132:196].any()
    assert not np.array_equal(steps[0], steps[1])
    assert difference(np.array([10, 200], np.uint8), np.array([200, 190], np.uint8)).tolist() == [255, 20]
