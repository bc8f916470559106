"""Figures of a world model, by hand and in a toy game whose perfect dream is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from films import film
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rollouts import H, N, Right, T, oracle, recorded

from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers import fidelity
from diamond_gym.trainers.fidelity import (
    brier,
    calibration,
    chances_on_real_frames,
    compare_returns,
    course,
    detection,
    diversity,
    drift,
    figures,
    mse,
    psnr,
    similarity,
    ssim,
)
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts
from diamond_gym.world_model import WorldModel


@pytest.fixture
def real(tmp_path: Path) -> Rollouts:
    return Rollouts.held_out(worlds.store(tmp_path / "walks", episodes=40), 30, T, 4, seed=1)


def pair(seed: int, size: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Waves in three colours, and the same with noise: uint8 (3, size, size) each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    a = np.stack([127 + 100 * np.sin(x / 3 + c) * np.cos(y / (4 + c)) for c in range(3)])
    b = a + rng.normal(0, noise, a.shape)
    return a.clip(0, 255).astype(np.uint8), b.clip(0, 255).astype(np.uint8)


# From an implementation of our own, which agreed to the last digit: the settings are those of Wang et al. 2004.
@pytest.mark.parametrize(
    ("seed", "size", "noise", "known"),
    [(0, 24, 20, 0.7653807944594351), (1, 64, 5, 0.9796032116136678), (2, 16, 80, 0.17177125703332732)],
)
def test_ssim_against_known_values(seed: int, size: int, noise: float, known: float) -> None:
    pytest.importorskip("skimage")
    a, b = pair(seed, size, noise)
    assert ssim(a[None], b[None]) == pytest.approx(known, abs=1e-9)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_ssim_of_equals_is_one_and_sides_do_not_matter(seed: int, channels: int) -> None:
    pytest.importorskip("skimage")
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 2, channels, 12, 13), dtype=np.uint8)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, b) == pytest.approx(ssim(b, a)) and ssim(a, b) < 1
    assert np.isnan(ssim(a[..., :8], b[..., :8])), "frames smaller than its window"


def test_errors_by_hand() -> None:
    real = np.stack([np.full((2, 3, 12, 12), 51 * h, np.uint8) for h in range(3)], axis=1)
    assert mse(real, real[:, :1]) == pytest.approx([0, 0.04, 0.16])
    assert mse(real, real).tolist() == [0, 0, 0]
    assert [psnr(error) for error in (0.04, 1.0, 0.0)] == pytest.approx([13.9794, 0, 100])


def test_similarity_of_a_film_and_of_its_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(fidelity, "HORIZONS", (1, 2))
    real = film(np.stack([np.full((2, 3, 12, 12), 51 * h, np.uint8) for h in range(3)], axis=1))
    table = similarity(real, real)
    assert table["psnr_1"] == table["psnr_2"] == 100 and table["ssim_2"] == pytest.approx(1)
    assert table["psnr_copy_1"] == pytest.approx(13.9794, abs=1e-4)
    assert 1 > table["ssim_copy_1"] > table["ssim_copy_2"]


def test_detection_by_hand() -> None:
    score = detection(np.array([1, -1, 0, 0, 1]), np.array([1, 1, 1, 0, 0]))
    assert (score.precision, score.recall, score.events) == (1 / 3, 1 / 3, 3)
    assert score.f1 == pytest.approx(1 / 3)
    assert np.isnan(detection(np.zeros(3), np.zeros(3)).f1)


def test_an_oracle_is_perfect(real: Rollouts) -> None:
    table = figures(real, dream_rollouts(oracle(), real, SamplerConfig()))
    assert table["mse_1"] == table["mse_over_copy_4"] == 0
    assert table["reward_f1"] == table["reward_sampled_f1"] == table["end_f1"] == table["end_sampled_f1"] == 1
    assert table["rewards"] == (real.rew != 0).sum() > 0
    table = calibration(oracle(), real)
    assert table["reward_f1_on_real_frames"] == table["end_f1_on_real_frames"] == 1
    assert table["end_brier"] == pytest.approx(0, abs=1e-6)
    assert table["end_brier_skill"] == pytest.approx(1)


def test_copying_the_last_frame_scores_one(real: Rollouts) -> None:
    copied = replace(real, obs=np.concatenate((real.obs[:, :T], np.repeat(real.last, 4, axis=1)), axis=1))
    table = figures(real, copied)
    assert table["mse_over_copy_1"] == table["mse_over_copy_4"] == 1
    assert "reward_f1" not in table, "there is no reward/end model"


def test_brier_by_hand() -> None:
    score, skill = brier(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, True, True, True]))
    assert score == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert skill == pytest.approx(1 - 0.21 / (0.75 * 0.25))
    assert np.isnan(brier(np.array([0.0, 1.0]), np.array([False, False]))[1]), "what never happens has no skill"


def test_honest_chances_have_skill_and_bold_ones_less() -> None:
    rng = np.random.default_rng(0)
    chance = rng.random((200, 100)) ** 4
    happened = rng.random(chance.shape) < chance
    honest, bold = brier(chance, happened), brier(np.sqrt(chance), happened)
    assert honest[0] < bold[0]
    assert honest[1] > max(0, bold[1])


def test_chances_on_real_frames_are_the_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reward_end = RewardEnd(worlds.CONFIG.reward_end).eval()
    model = WorldModel(Denoiser(worlds.CONFIG.denoiser), reward_end).eval()
    real = Rollouts.held_out(worlds.store(tmp_path / "walks", episodes=40), 70, 2, 4, seed=1)
    rew, end = chances_on_real_frames(model, real)
    assert (rew.shape, end.shape) == ((70, 4, 3), (70, 4))
    obs = torch.from_numpy(real.obs[66:67]).float() / 255 * 2 - 1
    with torch.no_grad():
        _, logits, _ = reward_end(obs[:, :-1], torch.from_numpy(real.act[66:67]), obs[:, 1:])
    assert end[66] == pytest.approx(logits.softmax(-1)[0, 1:, 1].numpy(), abs=1e-5)
    assert calibration(WorldModel(Denoiser(worlds.CONFIG.denoiser)), real) == {}


def test_returns_of_an_oracle_are_the_games() -> None:
    real = recorded()
    table = compare_returns(real, dream_rollouts(oracle(), real, SamplerConfig()))
    assert (table["difference"], table["difference_interval_95"]) == (0, [0, 0])
    low, high = table["dream_interval_95"]
    assert low <= table["dream"] == table["real"] <= high
    assert (table["steps"], table["starts"]) == (H, N)


def test_course_of_a_film() -> None:
    frames = np.zeros((2, 4, 3, 10, 10), np.uint8)
    frames[:, 1:, :, 0] = 255  # a tenth of the picture lights up in the first step, and stays
    frames[1, 3] = 255  # in the last step the second film is of a new game
    going = np.ones((2, 3), bool)
    going[1, 2] = False
    result = course(replace(film(frames), going=going))
    assert result["brightness"] == pytest.approx([0.1, 0.1, (0.1 + 1) / 2])
    assert result["contrast"][:2] == pytest.approx([0.3, 0.3])
    assert result["moving"] == pytest.approx([0.1, 0, 0])
    assert result["energy"] == pytest.approx([0.1, 0, 0])
    frames[0, 3, 0, 5, 5] = 16  # a flicker is no movement
    result = course(replace(film(frames), going=going))
    assert result["moving"][2] == 0 < result["energy"][2]


def test_an_oracle_does_not_drift() -> None:
    real = recorded()
    dreamed = dream_rollouts(oracle(), real, SamplerConfig(), lambda rows, rng: Right())
    table = drift(course(real), course(dreamed))
    assert table["steps"] == H
    assert table["brightness_over_real"] == pytest.approx(1)
    assert table["moving"] == 0, "all have come to the right side"
    assert table["energy_over_real"] == 0


def test_diversity_is_the_distance_of_pairs_over_that_to_reality() -> None:
    rng = np.random.default_rng(0)
    real, dreams = (film(rng.integers(0, 256, (n, 3, 3, 5, 5), dtype=np.uint8)) for n in (2, 8))
    groups = dreams.after.reshape(2, 4, 2, 3, 5, 5)
    pairs = [mse(groups[:, i, 1:], groups[:, j, 1:])[0] for i in range(4) for j in range(4) if i != j]
    errors = [mse(real.after[:, 1:], groups[:, i, 1:])[0] for i in range(4)]
    assert diversity(real, dreams, 2) == pytest.approx(np.mean(pairs) / np.mean(errors))
    same = dreams[np.repeat([0, 4], 4)]
    assert diversity(real, same, 2) == 0
    assert np.isnan(diversity(real, real[np.repeat([0, 1], 4)], 2)), "dreams without an error"
