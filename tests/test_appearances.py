"""Something that appears is found where nothing moved; what moves on, or fades in slowly, is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import worlds

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.trainers.batches import Appearances, FocusedSampler, appearances
from diamond_gym.trainers.world_model import WorldModelTrainer


def film(places: dict[int, tuple[int, int]], length: int = 20, size: int = 32, light: int = 200) -> np.ndarray:
    """Frames uint8 (length, 3, size, size), black but for a pixel in some of them."""
    frames = np.zeros((length, 3, size, size), np.uint8)
    for t, (row, column) in places.items():
        frames[t, :, row, column] = light
    return frames


def steps(frames: np.ndarray) -> list[int]:
    return appearances(frames)[0][:, 0].tolist()


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
    assert appearances(film({}, length=1))[0].shape == (0, 2)
    found, moving = appearances(film({}))
    assert found.shape == (0, 2) and moving.tolist() == [0] * 16


def test_where_things_move() -> None:
    _, moving = appearances(film({t: (5, 2 * t) for t in range(4)} | {9: (30, 30)}, length=12))
    assert moving.reshape(4, 4)[0].tolist() == [4, 0, 0, 0]
    assert moving.reshape(4, 4)[3].tolist() == [0, 0, 0, 2], "it comes, and it goes"


def test_each_place_is_drawn_equally_often(tmp_path: Path) -> None:
    """One lamp flashes twice, another once; both are half of what is drawn."""
    frames = np.zeros((64, 32, 32, 3), np.uint8)
    for t in (20, 40):
        frames[t, 4, 4] = 255
    frames[60:, 28, 28] = 255
    n = len(frames) - 1
    zeros = np.zeros(n, np.float32)
    episode = Episode(frames, np.zeros(n, np.int64), zeros, zeros > 0, np.arange(n) == n - 1, {})
    with EpisodeStore(tmp_path / "lamps", "a", About("Lamps", (32, 32, 3), 2)) as writer:
        writer.append(episode)
    store, find = EpisodeStore(tmp_path / "lamps"), Appearances()
    found = find(store)
    assert sorted(set(found[:, 1].tolist())) == [19, 39, 59]
    assert (found[:, 1] == 59).mean() == 0.5
    assert np.array_equal(find(store), found)


def test_where_motion_is_common_nothing_appears(tmp_path: Path) -> None:
    """A lamp that flashes every sixth step is no news; one that flashes once is."""
    frames = np.zeros((64, 32, 32, 3), np.uint8)
    frames[6::6, 4, 4] = 255
    frames[40:, 28, 28] = 255
    n = len(frames) - 1
    zeros = np.zeros(n, np.float32)
    with EpisodeStore(tmp_path / "lamps", "a", About("Lamps", (32, 32, 3), 2)) as store:
        store.append(Episode(frames, np.zeros(n, np.int64), zeros, zeros > 0, np.arange(n) == n - 1, {}))
        assert Appearances()(store).tolist() == [[0, 39]]


def test_a_store_that_grows_is_searched_again(tmp_path: Path) -> None:
    frames = np.zeros((30, 16, 16, 3), np.uint8)
    frames[26:, 8, 8] = 255

    def piece(part: np.ndarray) -> Episode:
        n = len(part) - 1
        zeros = np.zeros(n, np.float32)
        return Episode(part, np.zeros(n, np.int64), zeros, zeros > 0, zeros > 0, {})

    with EpisodeStore(tmp_path / "grows", "a", About("Lamp", (16, 16, 3), 2)) as store:
        find = Appearances()
        assert find(store).shape == (0, 2)
        number = store.append(piece(frames[:25]))
        assert find(store).shape == (0, 2)
        store.extend(number, piece(frames[24:]))
        assert find(store).tolist() == [[0, 25]]


def test_a_fitting_draws_them_where_the_frame_is_predicted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with EpisodeStore(tmp_path / "lamps", "a", About("Lamps", (8, 8, 3), worlds.ACTIONS)) as writer:
        for _ in range(4):
            frames = np.zeros((40, 8, 8, 3), np.uint8)
            t = int(rng.integers(20, 30))
            frames[t:, 4, 4] = 255
            n = len(frames) - 1
            zeros = np.zeros(n, np.float32)
            writer.append(Episode(frames, np.zeros(n, np.int64), zeros, zeros > 0, np.arange(n) == n - 1, {}))
    config = replace(worlds.CONFIG, appearance_focus=0.5)
    fit = WorldModelTrainer(config, EpisodeStore(tmp_path / "lamps"), total_steps=10)
    sampler = fit.denoiser_batches
    assert isinstance(sampler, FocusedSampler) and [focus.rows for focus in sampler.focuses] == [2]
    t = config.denoiser.inner_model.num_steps_conditioning
    for _ in range(10):
        lit = sampler.sample().obs[-2:, :, 0, 4, 4] > 0
        first = lit.argmax(axis=1)
        assert (first == t).all() and lit.any(axis=1).all()
    assert np.isfinite(float(fit.train_step()["denoiser/loss"]))
