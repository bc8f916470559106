"""Frames as the denoiser predicts them, in a fitting of the reward and end model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import worlds
from rounding import assert_close, without_rounding

from diamond_gym.data.segments import to_tensors
from diamond_gym.errors import BadArgument
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.sampler import sample
from diamond_gym.trainers.predictions import ONE_STEP, dreamed
from diamond_gym.trainers.world_model import WorldModelTrainer

DREAMING = replace(
    worlds.CONFIG, reward_end_dreams_from=0.5, reward_end_every=1, reward_end_dream_length=2, reward_end_length=8
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return worlds.store(tmp_path_factory.mktemp("walks"))


@pytest.fixture
def fit(store) -> WorldModelTrainer:
    return WorldModelTrainer(DREAMING, store, total_steps=4)


@pytest.mark.parametrize("length", [1, 2, 3, 99])
def test_each_frame_is_dreamed_from_real_ones_or_from_those_dreamed_before(fit, length) -> None:
    denoiser = fit.world_model.denoiser
    t = denoiser.num_steps_conditioning
    batch = to_tensors(fit.reward_end_batches.sample(), next_obs=True)
    count = batch.obs.shape[1] - t
    assert count > 3, "some dreams have to be shorter than others"
    noise = torch.randn(len(batch.obs), count, *batch.obs.shape[2:])
    real_obs, real_next = batch.obs.clone(), batch.next_obs.clone()
    obs, next_obs = dreamed(denoiser, batch, t, noise, length)
    assert batch.obs.equal(real_obs) and batch.next_obs.equal(real_next), "the batch stays as it was"
    assert not next_obs.requires_grad
    wanted_obs, wanted_next = real_obs[:, :-1], real_next
    replaced = 0
    for row in range(len(obs)):
        for i in range(count):
            if i % length == 0:
                window = list(real_obs[row, i : i + t])
                whole = bool(batch.mask_padding[row, i : i + t].all())
            if not whole:
                continue
            past, act = torch.stack(window)[None], batch.act[row : row + 1, i : i + t]
            frame = sample(denoiser.condition, past, act, noise[row : row + 1, i], ONE_STEP, torch.randn)[0][0]
            wanted_next[row, i + t - 1] = frame
            if (i + 1) % length and i + 1 < count:  # the next step goes on from it
                wanted_obs[row, i + t] = frame
            window = [*window[1:], frame]
            replaced += 1
    assert replaced
    torch.testing.assert_close(obs, wanted_obs, atol=1e-5, rtol=0)
    torch.testing.assert_close(next_obs, wanted_next, atol=1e-5, rtol=0)


def test_the_folded_denoiser_dreams_the_same(fit, monkeypatch) -> None:
    without_rounding(monkeypatch)
    denoiser = fit.world_model.denoiser
    batch = to_tensors(fit.reward_end_batches.sample(), next_obs=True)
    t = denoiser.num_steps_conditioning
    noise = torch.randn(len(batch.obs), batch.obs.shape[1] - t, *batch.obs.shape[2:])
    plain = dreamed(denoiser, batch, t, noise, 2)
    quick = dreamed(FoldedDenoiser(denoiser), batch, t, noise, 2)
    for one, other in zip(plain, quick, strict=True):
        assert_close(one, other, 1e-4)


def test_from_the_asked_step_on(fit, monkeypatch) -> None:
    asked = []

    def watched(*arguments):
        asked.append((fit.step, arguments[-1]))
        return dreamed(*arguments)

    monkeypatch.setattr("diamond_gym.trainers.world_model.dreamed", watched)
    for _ in range(4):
        fit.train_step()
    assert asked == [(2, 2), (3, 2)]


def test_the_reward_model_is_shown_frames_of_the_denoiser_as_it_is_by_then(fit, monkeypatch) -> None:
    compared = []

    def watched(denoiser, batch, t, noise, length):
        obs, next_obs = dreamed(denoiser, batch, t, noise, length)
        fresh = dreamed(FoldedDenoiser(fit.world_model.denoiser), batch, t, noise, length)
        compared.append((next_obs, fresh[1]))
        return obs, next_obs

    monkeypatch.setattr("diamond_gym.trainers.world_model.dreamed", watched)
    for _ in range(4):
        fit.train_step()
    assert len(compared) == 2
    assert all(ours.equal(fresh) for ours, fresh in compared)


def test_it_resumes_bit_for_bit(store) -> None:
    whole = WorldModelTrainer(DREAMING, store, total_steps=4)
    losses = [whole.train_step() for _ in range(4)]
    first = WorldModelTrainer(DREAMING, store, total_steps=4)
    for _ in range(3):
        first.train_step()
    state = first.state_dict()
    second = WorldModelTrainer(DREAMING, store, total_steps=4, seed=7)
    second.load_state_dict(state)
    last = second.train_step()
    assert {key: float(value) for key, value in last.items()} == {k: float(v) for k, v in losses[3].items()}
    for key, value in whole.world_model.weights().items():
        np.testing.assert_array_equal(second.world_model.weights()[key], value)


def test_a_segment_has_room_for_a_dreamed_step() -> None:
    with pytest.raises(BadArgument, match="needs a --reward-end-length of more than 2 steps"):
        replace(DREAMING, reward_end_length=2)
    replace(DREAMING, reward_end_length=2, reward_end_dreams_from=1.0)


@pytest.mark.parametrize("total_steps", [0, 1])
def test_never_by_default_however_long_a_loop_goes_on(store, monkeypatch, total_steps) -> None:
    monkeypatch.delattr("diamond_gym.trainers.world_model.dreamed")
    fit = WorldModelTrainer(replace(worlds.CONFIG, reward_end_every=1), store, total_steps=total_steps)
    for _ in range(3):
        fit.train_step()
