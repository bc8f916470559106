"""Frames as the denoiser predicts them, in a fitting of the reward and end model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import worlds

from diamond_gym.denoiser import Denoiser
from diamond_gym.sampler import sample
from diamond_gym.trainers.batch import to_tensors
from diamond_gym.trainers.predicted_frames import ONE_STEP, predicted_next
from diamond_gym.trainers.world_model import Fit

DREAMING = replace(worlds.CONFIG, reward_end_dreams_from=0.5, reward_end_every=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return worlds.store(tmp_path_factory.mktemp("walks"))


@pytest.fixture
def fit(store) -> Fit:
    return Fit(DREAMING, store, total_steps=4)


def test_each_prediction_is_that_of_the_frames_before_it(fit) -> None:
    denoiser = fit.world_model.denoiser
    assert isinstance(denoiser, Denoiser)
    t = denoiser.num_steps_conditioning
    batch = to_tensors(fit.reward_end_batches.sample(), next_obs=True)
    count = batch.obs.shape[1] - t
    noise = torch.randn(len(batch.obs), count, *batch.obs.shape[2:])
    found = predicted_next(denoiser, batch, noise)
    assert found.shape == batch.next_obs.shape
    assert found[:, : t - 1].equal(batch.next_obs[:, : t - 1])
    replaced = 0
    for row in range(len(found)):
        for i in range(count):
            if not batch.mask_padding[row, i : i + t].all():
                assert found[row, t - 1 + i].equal(batch.next_obs[row, t - 1 + i]), "padding has no prediction"
                continue
            obs, act = batch.obs[row : row + 1, i : i + t], batch.act[row : row + 1, i : i + t]
            frame, _ = sample(denoiser, obs, act, noise[row : row + 1, i], ONE_STEP, torch.randn)
            torch.testing.assert_close(found[row, t - 1 + i], frame[0], atol=1e-5, rtol=0)
            replaced += 1
    assert replaced
    assert not found.requires_grad


def test_from_the_asked_step_on(fit, monkeypatch) -> None:
    asked = []

    def watched(denoiser, batch, noise):
        asked.append(fit.step)
        return predicted_next(denoiser, batch, noise)

    monkeypatch.setattr("diamond_gym.trainers.world_model.predicted_next", watched)
    for _ in range(4):
        fit.train_step()
    assert asked == [2, 3]


def test_it_resumes_bit_for_bit(store) -> None:
    whole = Fit(DREAMING, store, total_steps=4)
    losses = [whole.train_step() for _ in range(4)]
    first = Fit(DREAMING, store, total_steps=4)
    for _ in range(3):
        first.train_step()
    state = first.state_dict()
    second = Fit(DREAMING, store, total_steps=4, seed=7)
    second.load_state_dict(state)
    last = second.train_step()
    assert {key: float(value) for key, value in last.items()} == {k: float(v) for k, v in losses[3].items()}
    for key, value in whole.world_model.weights().items():
        np.testing.assert_array_equal(second.world_model.weights()[key], value)


@pytest.mark.parametrize("total_steps", [0, 1])
def test_never_by_default_however_long_a_loop_goes_on(store, monkeypatch, total_steps) -> None:
    monkeypatch.delattr("diamond_gym.trainers.world_model.predicted_next")
    fit = Fit(replace(worlds.CONFIG, reward_end_every=1), store, total_steps=total_steps)
    for _ in range(3):
        fit.train_step()
