"""Something that appears is found where nothing moved; what moves on, or fades in slowly, is not."""

from pathlib import Path

import numpy as np
import worlds

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.trainers.appearances import Appearances, appearances
from diamond_gym.trainers.focus import FocusedSampler
from diamond_gym.trainers.world_model import Fit


def film(places: dict[int, tuple[int, int]], length: int = 20, size: int = 32, light: int = 200) -> np.ndarray:
    """Frames uint8 (length, 3, size, size), black but for a pixel in some of them."""
    frames = np.zeros((length, 3, size, size), np.uint8)
    for t, (row, column) in places.items():
        frames[t, :, row, column] = light
    return frames


def steps(frames: np.ndarray) -> list[int]:
    return appearances(frames)[:, 0].tolist()


def test_a_ball_is_served() -> None:
    flight = {t: (5 + t, 3 + t) for t in range(8, 20)}
    assert steps(film(flight)) == [7], "the step that leads to the frame with the ball, and none of its flight"


def test_a_ball_that_goes_is_where_something_moved() -> None:
    assert steps(film({t: (5, 5 + t) for t in range(10)})) == []


def test_too_faint_or_too_early() -> None:
    assert steps(film({10: (5, 5), 11: (5, 5)}, light=40)) == []
    assert steps(film({2: (5, 5), 3: (5, 6)})) == [], "of what moved before the first frame nothing is known"


def test_far_from_what_moves() -> None:
    frames = film({t: (5, 5 + t) for t in range(20)})
    frames[12:, :, 28, 28] = 200
    assert steps(frames) == [11]
    near = film({t: (5, 5 + t) for t in range(20)})
    near[12:, :, 8, 16] = 200
    assert steps(near) == []


def test_nothing_at_all() -> None:
    assert appearances(film({}, length=1)).shape == (0, 2)
    assert appearances(film({})).shape == (0, 2)


def test_each_place_is_drawn_equally_often(tmp_path: Path) -> None:
    """One lamp flashes six times, another once; both are half of what is drawn."""
    frames = np.zeros((64, 32, 32, 3), np.uint8)
    for t in range(8, 56, 8):
        frames[t, 4, 4] = 255
    frames[60:, 28, 28] = 255
    n = len(frames) - 1
    zeros = np.zeros(n, np.float32)
    episode = Episode(frames, np.zeros(n, np.int64), zeros, zeros > 0, np.arange(n) == n - 1, {})
    with EpisodeStore(tmp_path / "lamps", "a", About("Lamps", (32, 32, 3), 2)) as writer:
        writer.append(episode)
    store, find = EpisodeStore(tmp_path / "lamps"), Appearances()
    found = find(store)
    assert sorted(set(found[:, 1].tolist())) == [7, 15, 23, 31, 39, 47, 59]
    assert (found[:, 1] == 59).mean() == 0.5
    assert np.array_equal(find(store), found)


def test_a_store_that_grows_is_searched_again(tmp_path: Path) -> None:
    frames = np.zeros((10, 16, 16, 3), np.uint8)
    frames[6:, 8, 8] = 255

    def piece(part: np.ndarray) -> Episode:
        n = len(part) - 1
        zeros = np.zeros(n, np.float32)
        return Episode(part, np.zeros(n, np.int64), zeros, zeros > 0, zeros > 0, {})

    with EpisodeStore(tmp_path / "grows", "a", About("Lamp", (16, 16, 3), 2)) as store:
        find = Appearances()
        assert find(store).shape == (0, 2)
        number = store.append(piece(frames[:5]))
        assert find(store).shape == (0, 2)
        store.extend(number, piece(frames[4:]))
        assert find(store).tolist() == [[0, 5]]


def test_a_fitting_draws_them_where_the_frame_is_predicted(tmp_path: Path) -> None:
    from dataclasses import replace

    rng = np.random.default_rng(0)
    with EpisodeStore(tmp_path / "lamps", "a", About("Lamps", (8, 8, 3), worlds.ACTIONS)) as writer:
        for _ in range(4):
            frames = np.zeros((40, 8, 8, 3), np.uint8)
            t = int(rng.integers(10, 30))
            frames[t:, 4, 4] = 255
            n = len(frames) - 1
            zeros = np.zeros(n, np.float32)
            writer.append(Episode(frames, np.zeros(n, np.int64), zeros, zeros > 0, np.arange(n) == n - 1, {}))
    config = replace(worlds.CONFIG, appearance_focus=0.5)
    fit = Fit(config, EpisodeStore(tmp_path / "lamps"), total_steps=10)
    sampler = fit.denoiser_batches
    assert isinstance(sampler, FocusedSampler) and sampler.num_focused == 2
    t = config.denoiser.inner_model.num_steps_conditioning
    for _ in range(10):
        lit = sampler.sample().obs[-2:, :, 0, 4, 4] > 0
        first = lit.argmax(axis=1)
        assert (first == t).all() and lit.any(axis=1).all()
    assert np.isfinite(float(fit.train_step()["denoiser/loss"]))
