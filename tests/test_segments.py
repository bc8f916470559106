"""Segments: every number in a batch against one computed on its own, and the chances of drawing each."""

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.data.sampling import SegmentSampler, order_of_play
from diamond_gym.data.segments import Batch, cut, windows
from diamond_gym.errors import DiamondGymError

SHAPE = (3, 2, 1)


def a_store(folder: Path, lengths: list[int], seed: int = 0) -> EpisodeStore:
    """Episodes of those lengths; every third is cut, every fifth truncated. No frame is black."""
    rng = np.random.default_rng(seed)
    with EpisodeStore(folder, "a", About("Catch", SHAPE, 5)) as store:
        pieces = list[tuple[int | None, Episode]]()
        for number, n in enumerate(lengths):
            last = np.arange(n) == n - 1
            kind = 0 if number % 3 == 2 else 1 + (number % 5 == 4)
            obs = rng.integers(1, 256, (n + 1, *SHAPE), dtype=np.uint8)
            rew = rng.normal(size=n).astype(np.float32)
            act = rng.integers(1, 5, n)
            pieces.append((None, Episode(obs, act, rew, last & (kind == 1), last & (kind == 2))))
        store.write(pieces)
    return EpisodeStore(folder)


def assert_is_the_segment(
    batch: Batch, row: int, episode: Episode, start: int, length: int, with_final: bool = False
) -> None:
    n = len(episode)
    final = -1
    for j in range(length):
        t = start + j
        real = 0 <= t < n
        shown = real or (with_final and t == n and j > 0)
        assert batch.mask_padding[row, j] == shown
        if shown:
            np.testing.assert_array_equal(batch.obs[row, j], episode.obs[t].transpose(2, 0, 1))
        if real:
            for name in ("act", "rew", "end"):
                assert getattr(batch, name)[row, j] == getattr(episode, name)[t]
            final = j if t == n - 1 else final
        else:
            assert shown or not batch.obs[row, j].any()
            for name in ("act", "rew", "end"):
                assert not getattr(batch, name)[row, j]
    assert batch.final_index[row] == final
    expected = episode.obs[n].transpose(2, 0, 1) if final >= 0 else np.zeros((1, 3, 2))
    np.testing.assert_array_equal(batch.final_obs[row], expected)
    following, has_following = batch.next_obs(), batch.next_mask()
    for j in range(length - 1):
        t = start + j + 1  # of the frame, of which there is one more than of steps
        assert has_following[row, j] == (0 <= t <= n)
        if has_following[row, j]:
            np.testing.assert_array_equal(following[row, j], episode.obs[t].transpose(2, 0, 1))
        else:
            assert not following[row, j].any()


@settings(max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    length=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    beyond_end=st.booleans(),
    final=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_number(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    length: int,
    batch_size: int,
    beyond_end: bool,
    final: bool,
    seed: int,
) -> None:
    store = a_store(tmp_path_factory.mktemp("store"), lengths)
    sampler = SegmentSampler(store, length, batch_size, beyond_end, np.random.default_rng(seed), final=final)
    for _ in range(3):
        batch = sampler.sample()
        assert len(batch) == batch_size
        assert batch.obs.shape == (batch_size, length, 1, 3, 2)
        assert batch.obs.flags.c_contiguous
        dtypes = {"obs": "u1", "act": "i8", "rew": "f4", "end": "?", "mask_padding": "?"}
        dtypes |= {"final_obs": "u1", "final_index": "i8", "episode": "i8", "start": "i8"}
        for name, dtype in dtypes.items():
            assert getattr(batch, name).dtype == np.dtype(dtype), name
        for row in range(batch_size):
            episode, start = store[int(batch.episode[row])], int(batch.start[row])
            assert_is_the_segment(batch, row, episode, start, length, final)
            if beyond_end:
                assert -length < start < len(episode) and batch.mask_padding[row].any()
            else:
                assert start + length <= len(episode) + final
                # padded before the start only; of one frame there is none before the final one
                assert batch.mask_padding[row, -1] or (length == 1 and start == len(episode))


def exact_chances(lengths: list[int], length: int, beyond_end: bool, final: bool) -> dict[tuple[int, int], float]:
    """The chance of every (episode, start), by going through all that can be drawn."""
    count, chances = len(lengths), dict[tuple[int, int], float]()
    quarter = [min(3, e // (count // 4)) for e in range(count)] if count >= 4 else []
    for e, n in enumerate(lengths):
        chance = n / sum(lengths)
        if count >= 4:
            chance = (0.1, 0.1, 0.1, 0.7)[quarter[e]] / quarter.count(quarter[e])
        for t in range(n):
            for u in range(length):
                start = t - u if beyond_end else min(n + final, t + 1 + u) - length
                chances[e, start] = chances.get((e, start), 0) + chance / n / length
    assert sum(chances.values()) == pytest.approx(1)
    return chances


@pytest.mark.parametrize(("beyond_end", "final"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("lengths", [[3, 1, 6], [2, 5, 1, 3], [4, 1, 2, 3, 2, 1, 6]])
def test_chances(tmp_path: Path, lengths: list[int], beyond_end: bool, final: bool) -> None:
    store = a_store(tmp_path, lengths)
    sampler = SegmentSampler(store, 4, 20_000, beyond_end, np.random.default_rng(0), final=final)
    batch = sampler.sample()
    found = dict[tuple[int, int], int]()
    for key in zip(batch.episode.tolist(), batch.start.tolist(), strict=True):
        found[key] = found.get(key, 0) + 1
    chances = exact_chances(lengths, 4, beyond_end, final)
    assert set(found) <= set(chances)
    # Pearson's statistic: its mean is the number of cells less one, its variance twice that.
    cells = len(chances) - 1
    statistic = sum((found.get(key, 0) - 20_000 * p) ** 2 / (20_000 * p) for key, p in chances.items())
    assert abs(statistic - cells) < 5 * np.sqrt(2 * cells)


# What was played one after the other: by which game, how many steps, whether it ended.
Plan = list[tuple[int, int, bool]]


def played(folder: Path, plan: Plan) -> tuple[EpisodeStore, list[tuple[int, int]]]:
    """Games side by side, stored in turns; and the (episode, step) of all their steps in the order of play."""
    running, order, rng = dict[int, tuple[int, int]](), list[tuple[int, int]](), np.random.default_rng(0)
    with EpisodeStore(folder, "a", About("Catch", SHAPE, 5)) as store:
        for game, n, over in plan:
            end = (np.arange(n) == n - 1) & over
            obs, act = rng.integers(1, 256, (n + 1, *SHAPE), dtype=np.uint8), rng.integers(1, 5, n)
            number, begin = running.get(game, (None, 0))
            piece = Episode(obs, act, end.astype(np.float32), end, end & False)
            (number,) = store.write([(number, piece)])
            order += [(number, begin + t) for t in range(n)]
            running[game] = number, begin + n
            if over:
                del running[game]
    return EpisodeStore(folder), order


@settings(max_examples=20, deadline=None)
@given(plan=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), min_size=1, max_size=12))
def test_steps_are_known_in_the_order_of_play(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> None:
    store, order = played(tmp_path_factory.mktemp("store"), plan)
    found = order_of_play(store)
    assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == order
    chances = SegmentSampler(store, 3, 1, True, np.random.default_rng(0), by_step=True).chances(*found)
    n, quarters = len(order), np.arange(len(order)) * 4 // len(order)
    assert chances == pytest.approx(4 / n * np.array([0.1, 0.1, 0.1, 0.7])[quarters])


@pytest.mark.parametrize("ended", [False, True])
def test_the_newest_steps_of_games_side_by_side_are_drawn_most(tmp_path: Path, ended: bool) -> None:
    """Eight long games: all of them still run, or all have just begun anew (one step is a whole episode then)."""
    plan = [(game, 5, ended and turn == 12) for turn in range(13) for game in range(8)]
    store, order = played(tmp_path, [*plan, *((game, 1, False) for game in range(8) if ended)])
    sampler = SegmentSampler(store, 1, 40_000, True, np.random.default_rng(0), by_step=True)
    batch = sampler.sample()
    number = {place: i for i, place in enumerate(order)}
    drawn = [number[place] for place in zip(batch.episode.tolist(), batch.start.tolist(), strict=True)]
    found, even = np.bincount(drawn, minlength=len(order)), 40_000 / len(order)
    assert found.max() < 1.3 * 2.8 * even
    assert found[-len(order) // 16 :].sum() > 2.5 * 40_000 / 16
    chances = sampler.chances(*order_of_play(store))
    assert (np.abs(found / 40_000 - chances) < 5 * np.sqrt(chances / 40_000)).all()


def test_resumes_exactly(tmp_path: Path) -> None:
    store = a_store(tmp_path, [5, 6, 7, 8, 9])
    sampler = SegmentSampler(store, 4, 8, True, np.random.default_rng(3))
    sampler.sample()
    state = pickle.loads(pickle.dumps(sampler.state_dict()))
    expected = [sampler.sample() for _ in range(3)]
    other = SegmentSampler(EpisodeStore(tmp_path), 4, 8, True, np.random.default_rng(99))
    other.load_state_dict(state)
    for batch in expected:
        again = other.sample()
        np.testing.assert_array_equal(again.start, batch.start)
        np.testing.assert_array_equal(again.obs, batch.obs)


def test_what_is_added_is_drawn_too(tmp_path: Path) -> None:
    store = a_store(tmp_path, [2])
    sampler = SegmentSampler(store, 2, 200, False, np.random.default_rng(0))
    assert set(sampler.sample().episode) == {0}
    a_store(tmp_path, [2, 9])
    assert set(sampler.sample().episode) == {0}
    store.refresh()
    assert set(sampler.sample().episode) == {0, 1, 2}


def test_windows(tmp_path: Path) -> None:
    store = a_store(tmp_path, [2, 7, 1, 5, 4])
    everything = windows(store, 7, 4, seed=0)
    assert everything.mask_padding.all()
    found = set(zip(everything.episode.tolist(), everything.start.tolist(), strict=True))
    assert found == {(1, 0), (1, 1), (1, 2), (1, 3), (3, 0), (3, 1), (4, 0)}
    six = windows(store, 6, 4, seed=1)
    assert len(set(zip(six.episode.tolist(), six.start.tolist(), strict=True))) == 6  # no two the same
    for row in range(6):
        assert_is_the_segment(six, row, store[int(six.episode[row])], int(six.start[row]), 4)
    np.testing.assert_array_equal(windows(store, 6, 4, seed=1).obs, six.obs)
    assert len(windows(store, 50, 4, seed=0)) == 50
    with pytest.raises(DiamondGymError, match=r"no episode in .* has 8 steps \(the longest has 7\)"):
        windows(store, 1, 8, seed=0)


def test_what_makes_no_sense(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, "a", About("Catch", SHAPE, 5)) as store:
        rng = np.random.default_rng(0)
        with pytest.raises(DiamondGymError, match="no episodes yet"):
            SegmentSampler(store, 4, 2, False, rng).sample()
        with pytest.raises(DiamondGymError, match="the longest has 0"):
            windows(store, 1, 1, 0)
        for arguments in (
            {"length": 0},
            {"batch_size": 0},
            {"weights": (0.5, 0.6)},
        ):
            with pytest.raises(ValueError, match="not|unlike"):
                SegmentSampler(
                    **{"store": store, "length": 4, "batch_size": 2, "beyond_end": False, "rng": rng} | arguments
                )


def test_cut_by_hand(tmp_path: Path) -> None:
    store = a_store(tmp_path, [3])

    def mask(start: int) -> npt.NDArray[np.bool_]:
        return cut(store, np.array([0]), np.array([start]), 5).mask_padding[0]

    assert mask(-2).tolist() == [False, False, True, True, True]
    assert mask(1).tolist() == [True, True, False, False, False]
    assert mask(-1).tolist() == [False, True, True, True, False]
