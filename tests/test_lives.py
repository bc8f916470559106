"""Lives of one game: the store knows which follows which, and segments may reach from one into those before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import worlds
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.data.segments import cut, windows
from diamond_gym.starts import PADDING
from diamond_gym.trainers.batches import Appearances, Focus, FocusedSampler
from diamond_gym.trainers.collect import CollectConfig, Collector
from diamond_gym.trainers.rollouts import Rollouts
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.trainers.world_model import WorldModelTrainer

SHAPE = (2, 2, 1)
ABOUT = About("Lives", SHAPE, 7)


def life(begin: int, steps: int, game: int | None) -> Episode:
    """Frame t of a game shows t, and action t is t modulo 7."""
    t = np.arange(begin, begin + steps + 1)
    obs = np.broadcast_to(t.astype(np.uint8)[:, None, None, None], (steps + 1, *SHAPE)).copy()
    end = np.arange(steps) == steps - 1
    info = {"first": begin == 1} | ({} if game is None else {"game": game})
    return Episode(obs, t[:-1] % 7, np.zeros(steps, np.float32), end, np.zeros_like(end), info)


def a_store(folder: Path, games: list[list[int]], known: bool = True) -> EpisodeStore:
    """Games of lives of so many steps each, their lives side by side as they would come from a collector."""
    with EpisodeStore(folder, "a", ABOUT) as store:
        for number in range(max(map(len, games))):
            for game, lives in enumerate(games):
                if number < len(lives):
                    piece = life(1 + sum(lives[:number]), lives[number], game if known else None)
                    store.append(piece)
    return EpisodeStore(folder)


GAMES = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=3)


@settings(max_examples=25)
@given(GAMES, st.integers(1, 9), st.integers(0, 2**32))
def test_a_segment_goes_on_through_lives(tmp_path_factory: Any, games: list[list[int]], length: int, seed: int) -> None:
    store = a_store(tmp_path_factory.mktemp("store"), games)
    sampler = SegmentSampler(store, length, 8, False, np.random.default_rng(seed), across_lives=True)
    within = SegmentSampler(store, length, 8, False, np.random.default_rng(seed))
    batch, padded = sampler.sample(), within.sample()
    assert np.array_equal(batch.episode, padded.episode) and np.array_equal(batch.start, padded.start)
    for row, (number, start) in enumerate(zip(batch.episode, batch.start, strict=True)):
        begin = int(store[int(number)].obs[0, 0, 0, 0])  # of the life, in the game
        for j in range(length):
            t = begin + start + j
            real = t >= 1  # 1 is a game's first frame, and a sampler of this kind stops with the life
            assert batch.mask_padding[row, j] == real
            assert batch.obs[row, j, 0, 0, 0] == (t if real else 0)
            assert batch.act[row, j] == (t % 7 if real else 0)
    shown = padded.mask_padding
    assert np.array_equal(batch.obs[shown], padded.obs[shown]) and batch.mask_padding[shown].all()
    assert np.array_equal(batch.final_index, padded.final_index)


@settings(max_examples=25)
@given(GAMES, st.integers(1, 8), st.data())
def test_windows_reach_back_no_further_than_they_may(
    tmp_path_factory: Any, games: list[list[int]], length: int, data: Any
) -> None:
    store = a_store(tmp_path_factory.mktemp("store"), games)
    past = data.draw(st.integers(0, length - 1))
    possible = {
        (game, t)
        for game, lives in enumerate(games)
        for i, steps in enumerate(lives)
        for t in range(max(0, sum(lives[:i]) - past), sum(lives[:i]) + steps - length + 1)
    }
    if not possible:
        return
    batch = windows(store, len(possible), length, seed=0, past=past)
    assert batch.mask_padding.all()
    drawn = {
        (store.info(int(e))["game"], int(o[0, 0, 0, 0]) - 1) for e, o in zip(batch.episode, batch.obs, strict=True)
    }
    assert drawn == possible, "each once"


def test_lives_of_unknown_games_stay_apart(tmp_path: Path) -> None:
    store = a_store(tmp_path, [[3, 3]], known=False)
    assert store.before.tolist() == [-1, -1]
    batch = cut(store, np.array([1]), np.array([-2]), 4, across_lives=True)
    assert batch.mask_padding.tolist() == [[False, False, True, True]]


def test_held_out_windows_and_start_states_use_earlier_lives(tmp_path: Path) -> None:
    """With a past of five frames, lives of three steps would leave nothing to draw."""
    store = a_store(tmp_path, [[3, 3, 3, 3]])
    play = Rollouts.held_out(store, 4, 5, 2)
    assert (np.diff(play.obs[:, :, 0, 0, 0].astype(int), axis=1) == 1).all()
    assert play.end.any() and not play.end.all()
    starts = draw_starts(store, 5, n=12)
    ages = starts.obs[:, :, 0, 0, 0].astype(int)
    real = ages != PADDING
    assert ((np.diff(ages, axis=1) == 1) | ~real[:, :-1]).all()
    assert sorted(real.sum(axis=1))[:4] == [1, 2, 3, 4], "padded before the game, and only there"


class Countdown(gym.vector.VectorEnv):
    """Games whose frames show their age; every third step costs a life, and the third life is the last."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, n: int) -> None:
        self.num_envs = n
        self._age = np.full(n, -1)

    def _frames(self) -> np.ndarray:
        return np.broadcast_to((self._age + 1).astype(np.uint8)[:, None, None, None], (len(self._age), *SHAPE)).copy()

    def _info(self) -> dict[str, Any]:
        return {"lives": 3 - self._age // 3}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        first = np.arange(self.num_envs) * (self._age < 0)  # so that they do not run in step
        self._age = np.where(options["reset_mask"], first, self._age)
        return self._frames(), self._info()

    def step(self, act: np.ndarray) -> Any:
        self._age += 1
        end = self._age == 9
        return self._frames(), np.zeros(len(act)), end, np.zeros_like(end), self._info()


@pytest.mark.parametrize("sittings", [[60], [5, 7, 48], [1] * 20])
def test_a_collection_says_which_lives_are_of_one_game(tmp_path: Path, sittings: list[int]) -> None:
    for seed in range(2):  # the second time into the same store
        with (
            EpisodeStore(tmp_path, "a", ABOUT) as store,
            Collector(store, Countdown(3), CollectConfig(seed=seed)) as collector,
        ):
            for steps in sittings:
                collector.collect(steps)
    store = EpisodeStore(tmp_path)
    for number, before in enumerate(store.before.tolist()):
        assert (before < 0) == store.info(number)["first"]
        if before >= 0:
            assert store[before].end[-1]
            assert np.array_equal(store[before].obs[-1], store[number].obs[0])
    firsts = [store.info(i)["game"] for i in range(len(store)) if store.info(i)["first"]]
    assert len(firsts) == len(set(firsts))


def test_a_fitting_sees_earlier_lives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with EpisodeStore(tmp_path, "a", About("Walk", (worlds.SIZE, worlds.SIZE, 3), worlds.ACTIONS)) as store:
        for i in range(6):
            walk = worlds.walk(rng, 4)
            store.append(replace(walk, info={"first": i == 0, "game": 0}))
    config = replace(worlds.CONFIG, across_lives=True, denoiser_focus=0.5, prioritized=0.25)
    fit = WorldModelTrainer(config, EpisodeStore(tmp_path), 4)
    for batches in (fit.denoiser_batches, fit.reward_end_batches):
        drawn = [batches.sample() for _ in range(20)]
        across = [batch.mask_padding[row].all() for batch in drawn for row in np.flatnonzero(batch.start < 0)]
        assert any(across) and not all(across), "before the first life there is still nothing"
    for _ in range(4):
        fit.train_step()


def test_what_appears_as_a_life_begins(tmp_path: Path) -> None:
    """A lamp goes on with a life's second frame: too early by what that life shows alone."""
    dark = np.zeros((9, 16, 16, 3), np.uint8)
    lit = dark.copy()
    lit[1:, 4, 4] = 255

    def piece(frames: np.ndarray, first: bool) -> Episode:
        n = len(frames) - 1
        zeros = np.zeros(n, np.float32)
        return Episode(
            frames, np.zeros(n, np.int64), zeros, np.arange(n) == n - 1, zeros > 0, {"first": first, "game": 0}
        )

    with EpisodeStore(tmp_path, "a", About("Lamp", (16, 16, 3), 2)) as store:
        store.append(piece(dark, True))
        store.append(piece(lit, False))
        assert Appearances()(store).tolist() == []
        assert Appearances(across_lives=True)(store).tolist() == [[1, 0]]
        base = SegmentSampler(store, 6, 1, False, np.random.default_rng(0), across_lives=True)
        batch = FocusedSampler(base, [Focus(3, (4, 4), Appearances(True))], np.random.default_rng(1)).sample()
        assert batch.mask_padding[1:].all()
        assert (batch.obs[1:, 5].max(axis=(1, 2, 3)) == 255).all() and not batch.obs[1:, :5].any()
