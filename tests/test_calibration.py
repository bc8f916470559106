"""Reliability against chances whose calibration is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
import worlds

from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.trainers.closed_loop import RealPlay, judge, reliability
from diamond_gym.world_model import WorldModel


def test_by_hand() -> None:
    found = reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, True, True, True]), edges=(0, 0.5, 1))
    assert found.count.tolist() == [2, 2]
    assert found.said == pytest.approx([0.1, 0.9])
    assert found.happened == pytest.approx([0.5, 1])
    assert found.ece == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert found.skill == pytest.approx(1 - 0.21 / (0.75 * 0.25))


def test_honest_chances_are_calibrated_and_bold_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    chance = rng.random((200, 100)) ** 4
    happened = rng.random(chance.shape) < chance
    honest, bold = reliability(chance, happened), reliability(np.sqrt(chance), happened)
    assert honest.ece < 0.01 < 0.1 < bold.ece
    assert honest.brier < bold.brier
    assert honest.skill > max(0, bold.skill)
    assert honest.count.sum() == chance.size


def test_extremes_fall_into_the_outer_bins_and_rare_is_no_skill() -> None:
    found = reliability(np.array([0.0, 1.0]), np.array([False, False]))
    assert found.count[[0, -1]].tolist() == [1, 1]
    assert np.isnan(found.skill)
    assert np.isnan(found.said[1]), "an empty bin"


def test_judging_real_frames_is_the_network_on_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reward_end = RewardEnd(worlds.CONFIG.reward_end).eval()
    model = WorldModel(Denoiser(worlds.CONFIG.denoiser), reward_end).eval()
    play = RealPlay.draw(worlds.store(tmp_path / "walks", episodes=40), 70, 2, 4, seed=1)
    judged = judge(model, play)
    assert judged is not None
    rew, end = judged
    assert (rew.shape, end.shape) == ((70, 4, 3), (70, 4))
    obs = torch.from_numpy(play.obs[66:67]).float() / 255 * 2 - 1
    with torch.no_grad():
        _, logits, _ = reward_end(obs[:, :-1], torch.from_numpy(play.act[66:67]), obs[:, 1:])
    assert end[66] == pytest.approx(logits.softmax(-1)[0, 1:, 1].numpy(), abs=1e-5)
    assert judge(WorldModel(Denoiser(worlds.CONFIG.denoiser)), play) is None
