"""Rows of a batch drawn around rewards and ends: they hold one, follow the age of play, and can be weighted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds

from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.trainers.batches import Focus, FocusedSampler, find_events
from diamond_gym.trainers.world_model import WorldModelTrainer


@pytest.fixture
def store(tmp_path: Path):
    return worlds.store(tmp_path / "walks")


def test_focused_rows_hold_an_event(store) -> None:
    fit = WorldModelTrainer(worlds.CONFIG, store, total_steps=10)
    sampler = fit.reward_end_batches
    assert isinstance(sampler, FocusedSampler) and sampler.focuses[0].rows == 2
    events = {tuple(event) for event in find_events(store)}
    real = {(i, t) for i in range(len(store)) for t in np.flatnonzero(store[i].rew)}
    assert real <= events
    for _ in range(20):
        batch = sampler.sample()
        assert batch.obs.shape == (4, 5, 3, 8, 8)
        focused = batch.rew[2:, :-1] * batch.mask_padding[2:, :-1]
        assert (np.abs(focused).sum(1) + batch.end[2:, :-1].sum(1) > 0).all()


@pytest.mark.parametrize("event", [0, -1])
def test_segments_around_an_event_hold_what_is_to_be_predicted(store, event: int) -> None:
    """Also where places would have them lie before their episode, or behind it."""
    base = SegmentSampler(store, 5, 1, False, np.random.default_rng(0), final=True)
    every = np.arange(len(store))
    found = np.column_stack((every, np.full(len(store), event) % store.lengths))
    sampler = FocusedSampler(base, [Focus(200, (2, 12), lambda _: found, target=3)], np.random.default_rng(1))
    batch = sampler.sample()
    assert batch.mask_padding[1:, 3].all()
    reached = batch.start[1:] + 3
    assert reached.min() == 0 if event == 0 else (reached == store.lengths[batch.episode[1:]]).any()


def test_the_denoiser_learns_what_follows_an_episodes_last_step(store) -> None:
    batches = WorldModelTrainer(worlds.CONFIG, store, total_steps=10).denoiser_batches
    drawn = [batches.sample() for _ in range(60)]
    ended = [
        (batch, row)
        for batch in drawn
        for row in np.flatnonzero(batch.start + batch.obs.shape[1] > store.lengths[batch.episode])
    ]
    assert ended
    for batch, row in ended:
        last = store.lengths[batch.episode[row]] - batch.start[row]
        final = store[int(batch.episode[row])].obs[-1].transpose(2, 0, 1)
        assert batch.mask_padding[row, last] and np.array_equal(batch.obs[row, last], final)


def test_without_an_event_a_batch_keeps_its_size(store) -> None:
    base = WorldModelTrainer(worlds.CONFIG, store, total_steps=10).reward_end_batches.base
    nowhere = Focus(5, (0, 1), lambda _: np.zeros((0, 2), np.int64))
    nothing = FocusedSampler(base, [nowhere], np.random.default_rng(0))
    rows = len(base.sample().rew)
    assert {len(nothing.sample().obs) for _ in range(5)} == {rows + 5}


def by_age(store, weights) -> list[int]:
    """Episodes of 200 focused rows, each around the middle step of one."""
    base = SegmentSampler(store, 5, 4, True, np.random.default_rng(0), weights)
    middles = np.column_stack((np.arange(len(store)), store.lengths // 2))
    focus = Focus(200, (0, 3), lambda _: middles)
    return FocusedSampler(base, [focus], np.random.default_rng(1)).sample().episode[4:].tolist()


def test_events_are_drawn_as_often_as_their_steps(store) -> None:
    n = len(store)
    assert n >= 8
    assert min(by_age(store, (0, 0, 0, 1))) >= n // 4 * 3, "the other classes are never drawn"
    lengths = store.lengths
    chance = np.repeat([0.1, 0.1, 0.1, 0.7], n // 4) / lengths
    newest = np.mean(np.array(by_age(store, (0.1, 0.1, 0.1, 0.7))) >= n // 4 * 3)
    assert newest == pytest.approx(chance[n // 4 * 3 :].sum() / chance.sum(), abs=0.1)
    assert (np.bincount(by_age(store, (1.0,)), minlength=n) > 0).all(), "with one class all steps are as likely"


def test_where_no_event_can_be_drawn_a_batch_keeps_its_size(store) -> None:
    base = SegmentSampler(store, 5, 4, True, np.random.default_rng(0), (0, 0, 0, 1))
    old = Focus(10, (0, 3), lambda _: np.array([[0, 2], [1, 2]]))
    batch = FocusedSampler(base, [old], np.random.default_rng(1)).sample()
    assert len(batch) == 14 and batch.episode.min() >= len(store) // 4 * 3


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize("weights", [(1.0,), (0.1, 0.1, 0.1, 0.7)])
@pytest.mark.parametrize("focused", [0, 500])
def test_weighted_steps_hold_events_as_often_as_the_game(tmp_path: Path, weights, by_step: bool, focused: int) -> None:
    store = worlds.store(tmp_path, episodes=40)
    base = SegmentSampler(store, 6, 500, True, np.random.default_rng(0), weights, across_lives=True, by_step=by_step)
    sampler = FocusedSampler(base, [Focus(focused, (0, 4), find_events)], np.random.default_rng(1))
    every = np.array([(i, t) for i, steps in enumerate(store.lengths) for t in range(steps)])
    steps, chances = store.steps(*every.T), base.chances(*every.T)
    game = np.array([(np.abs(steps[name].astype(float)) * chances).sum() for name in ("rew", "end")]) / chances.sum()

    def shares(batch, counts) -> np.ndarray:
        parts, counts = (np.abs(batch.rew), batch.end), counts[:, :-1]
        return np.array([(part[:, :-1] * counts).sum() for part in parts]) / counts.sum()

    drawn = [sampler.sample() for _ in range(20)]
    weighted = np.mean([shares(batch, sampler.weights(batch)) for batch in drawn], axis=0)
    unweighted = np.mean([shares(batch, batch.mask_padding) for batch in drawn], axis=0)
    assert weighted == pytest.approx(game, rel=0.08)
    if focused:
        assert (unweighted > 1.2 * game).all()
    else:
        assert unweighted[1] < 0.85 * game[1], "rows that reach over an end are rarer"


@pytest.mark.parametrize("weigh", [False, True])
def test_rows_are_weighted_where_that_is_wanted(store, weigh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = WorldModelTrainer(replace(worlds.CONFIG, weigh_focus=weigh), store, total_steps=10)
    asked, weights = [], FocusedSampler.weights
    monkeypatch.setattr(FocusedSampler, "weights", lambda *batch: asked.append(weights(*batch)) or asked[-1])
    fit.train_step()
    assert len(asked) == weigh
