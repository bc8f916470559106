"""Closed-loop figures against worlds in which they are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from stubs import Conditioned

from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.closed_loop import RealPlay, Rollout, closed_loop, detection, figures, frame_errors
from diamond_gym.trainers.pictures import strip, tile, write_png
from diamond_gym.world_model import WorldModel

T, H = 2, 4


@pytest.fixture
def play(tmp_path: Path) -> RealPlay:
    return RealPlay.draw(worlds.store(tmp_path / "walks", episodes=40), 30, T, H, seed=1)


def test_real_play_is_what_happened(tmp_path: Path) -> None:
    store = worlds.store(tmp_path / "walks", episodes=40)
    play = RealPlay.draw(store, 200, T, H, seed=1)
    assert play.obs.shape == (200, T + H, 3, 8, 8) and play.act.shape == (200, T + H - 1)
    columns = play.obs[:, :, 0, 0].argmax(-1)
    moves = np.array([0, -1, 1])[play.act]
    assert np.array_equal(np.clip(columns[:, :-1] + moves, 0, 7), columns[:, 1:])
    after = columns[:, T:]
    assert np.array_equal(play.rew, (after == 7) * 1.0 - (after == 0))
    assert np.array_equal(play.end, play.rew != 0)
    assert play.end[:, -1].any(), "windows reach the true final frame"


class Oracle(Conditioned, torch.nn.Module):
    """Moves the column as the walk does, whatever the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner_model = torch.nn.Linear(1, 1)
        self.num_steps_conditioning = T

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        column = obs[:, -1, 0, 0].argmax(-1)
        column = (column + torch.tensor([0, -1, 1])[act[:, -1]]).clip(0, 7)
        frame = torch.full_like(noisy, -1)
        frame[torch.arange(len(frame)), :, :, column] = 1
        return frame


class RewardOracle(torch.nn.Module):
    """Certain of the rewards of a walk."""

    def forward(self, obs, act, next_obs, state=None):
        column = next_obs[:, :, 0, 0].argmax(-1)
        sign = (column == 7).long() - (column == 0).long()
        rew = torch.nn.functional.one_hot(sign + 1, 3) * 50.0
        end = torch.nn.functional.one_hot((sign != 0).long(), 2) * 50.0
        return rew, end, (torch.zeros(1, len(obs), 1),) * 2


def test_an_oracle_is_perfect(play: RealPlay) -> None:
    model = WorldModel(Oracle(), RewardOracle())
    rollout = closed_loop(model, play, SamplerConfig(), batch_size=7)
    assert np.array_equal(rollout.obs, play.obs[:, T:])
    table = figures(play, rollout, (1, 4))
    assert table["mse_1"] == table["mse_over_copy_4"] == 0
    assert table["reward_f1"] == table["reward_sampled_f1"] == table["end_f1"] == table["end_sampled_f1"] == 1
    assert table["rewards"] == (play.rew != 0).sum() > 0


def test_copying_the_last_frame_scores_one(play: RealPlay) -> None:
    copied = np.repeat(play.obs[:, T - 1 : T], H, axis=1)
    dream, copy = frame_errors(play, Rollout(copied, None, None))
    assert np.array_equal(dream, copy) and copy[0] > 0
    assert figures(play, Rollout(copied, None, None), (1, 4))["mse_over_copy_4"] == 1


def test_same_seed_same_dream(play: RealPlay) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(replace(worlds.CONFIG.denoiser, residual=False))  # untrained, it passes noise on
    model = WorldModel(denoiser, RewardEnd(worlds.CONFIG.reward_end))
    rollouts = [closed_loop(model, play, SamplerConfig(), seed=seed) for seed in (5, 5, 6)]
    assert np.array_equal(rollouts[0].obs, rollouts[1].obs)
    assert not np.array_equal(rollouts[0].obs, rollouts[2].obs)
    assert rollouts[0].rew_probs is not None and rollouts[0].rew_probs.sum(-1) == pytest.approx(1)


def test_detection_by_hand() -> None:
    score = detection(np.array([1, -1, 0, 0, 1]), np.array([1, 1, 1, 0, 0]))
    assert (score.precision, score.recall, score.events) == (1 / 3, 1 / 3, 3)
    assert score.f1 == pytest.approx(1 / 3)
    assert detection(np.zeros(3), np.zeros(3)).f1 == 0


def test_strip_and_png(play: RealPlay, tmp_path: Path) -> None:
    import imageio.v3 as iio

    rollout = Rollout(play.obs[:, T:].copy(), None, None)
    picture = strip(play, rollout, rows=2, columns=5, scale=1)
    assert picture.shape == (4 * 8 + 3 * 2, 5 * 8 + 4 * 2, 3)
    assert np.array_equal(picture[:8], picture[10:18]), "a perfect dream's line is the real one"
    write_png(tmp_path / "deep" / "strip.png", picture)
    assert np.array_equal(iio.imread(tmp_path / "deep" / "strip.png"), picture)
    assert tile(np.zeros((2, 3, 4, 5, 3), np.uint8), 2).shape == (2 * 10 - 2, 3 * 12 - 2, 3)
