"""Steps that are predicted badly are drawn more often."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import worlds
from stubs import Conditioned

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.trainers import predictions
from diamond_gym.trainers.predictions import PrioritizedSteps, errors
from diamond_gym.trainers.world_model import WorldModelTrainer

PRIORITIZED = replace(worlds.CONFIG, prioritized=0.5, prioritized_every=2)


@pytest.fixture
def store(tmp_path):
    """Two still films in each of which a corner lights up once."""
    with EpisodeStore(tmp_path, "a", About("Still", (8, 8, 3), 2)) as store:
        for where in (9, 14):
            obs = np.full((21, 8, 8, 3), 100, np.uint8)
            obs[where, :4, :4] = 220
            none = np.zeros(20, bool)
            store.append(Episode(obs, np.zeros(20, np.int64), np.zeros(20, np.float32), none, none, {}))
    return EpisodeStore(tmp_path)


class Repeats(Conditioned, Denoiser):
    """Predicts that nothing happens."""

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        return obs[:, -1]


@pytest.fixture
def denoiser():
    return Repeats(worlds.CONFIG.denoiser)


def test_the_error_of_each_step_is_that_of_its_next_frame(store, denoiser) -> None:
    step = np.arange(3, 19)
    found = errors(store, denoiser, np.zeros(16, np.int64), step)
    assert set(step[found.numpy() > 1e-6]) == {8, 9}  # it lights up, and goes out again
    assert found[5] == pytest.approx((120 / 255 * 2) ** 2 / 4)  # a quarter of the only cell


def test_steps_are_listed_in_proportion_to_their_errors(store, denoiser) -> None:
    found = PrioritizedSteps(np.random.default_rng(0))
    assert found(store).shape == (0, 2)
    torch.manual_seed(0)
    found.examine(store, denoiser)
    events, counts = np.unique(found(store), axis=0, return_counts=True)
    listed = {tuple(event): count for event, count in zip(events.tolist(), counts.tolist(), strict=True)}
    assert set(listed) == {(0, 8), (0, 9), (1, 13), (1, 14)}
    assert min(listed.values()) > 0.8 * max(listed.values())


def test_nothing_to_examine(tmp_path, denoiser) -> None:
    with EpisodeStore(tmp_path, "a", About("Still", (8, 8, 3), 2)) as empty:
        found = PrioritizedSteps(np.random.default_rng(0))
        found.examine(empty, denoiser)
        assert len(found(empty)) == 0


def test_its_state_brings_back_the_list(store, denoiser) -> None:
    found, other = PrioritizedSteps(np.random.default_rng(0)), PrioritizedSteps(np.random.default_rng(1))
    found.examine(store, denoiser)
    other.load_state_dict(found.state_dict())
    np.testing.assert_array_equal(found(store), other(store))
    torch.manual_seed(3)
    found.examine(store, denoiser)
    torch.manual_seed(3)
    other.examine(store, denoiser)
    np.testing.assert_array_equal(found(store), other(store))


def test_a_fitting_looks_them_up_now_and_then_and_resumes(tmp_path, monkeypatch) -> None:
    store = worlds.store(tmp_path)
    asked = []
    examine = PrioritizedSteps.examine
    monkeypatch.setattr(PrioritizedSteps, "examine", lambda self, *rest: (asked.append(fit.step), examine(self, *rest)))
    monkeypatch.setattr(predictions, "EXAMINED", 40)
    fit = WorldModelTrainer(PRIORITIZED, store, total_steps=6)
    for _ in range(3):
        fit.train_step()
    assert asked == [0, 2]
    state = copy.deepcopy(fit.state_dict())
    whole = [float(fit.train_step()["denoiser/loss"]) for _ in range(3)]
    fit = WorldModelTrainer(PRIORITIZED, store, total_steps=6, seed=5)
    fit.load_state_dict(state)
    assert [float(fit.train_step()["denoiser/loss"]) for _ in range(3)] == whole


def test_half_of_the_batch_is_drawn_from_the_list(tmp_path) -> None:
    store = worlds.store(tmp_path)
    fit = WorldModelTrainer(PRIORITIZED, store, total_steps=6)
    fit.train_step()
    assert fit.prioritized is not None
    listed = {tuple(event) for event in fit.prioritized(store).tolist()}
    t = fit.world_model.denoiser.num_steps_conditioning
    batch = fit.denoiser_batches.sample()
    half = len(batch) // 2
    drawn = zip(batch.episode[half:].tolist(), (batch.start[half:] + t - 1).tolist(), strict=True)
    assert half
    assert all(event in listed for event in drawn)
