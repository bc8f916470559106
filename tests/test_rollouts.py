"""Rollouts of real play and of dreams, in a toy game whose perfect dream is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from stubs import Conditioned

from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.measuring import policies_of, policy_maker
from diamond_gym.trainers.policies import StickyPolicy
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts, real_rollouts
from diamond_gym.world_model import WorldModel

T, H, N = 2, 12, 6


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


class Walks:
    """The walk of `worlds` as N games: its ends are lost lives, and every fourth of them ends the game."""

    num_envs = N

    def __init__(self) -> None:
        self.column = np.full(N, worlds.SIZE // 2)
        self.lost, self.obs = np.zeros(N, np.int64), self.frames()

    def frames(self) -> np.ndarray:
        frames = np.zeros((N, worlds.SIZE, worlds.SIZE, 3), np.uint8)
        frames[np.arange(N), :, self.column] = 255
        return frames

    def reset(self, seed: int) -> np.ndarray:
        return self.obs

    def step(self, act: np.ndarray) -> tuple[np.ndarray, ...]:
        self.column = np.clip(self.column + np.array([0, -1, 1])[act], 0, worlds.SIZE - 1)
        rew = (self.column == worlds.SIZE - 1) * 3.0 - (self.column == 0)
        end = rew != 0
        self.lost += end
        over, seen = end & (self.lost % 4 == 0), self.frames()
        self.column = np.where(over, worlds.SIZE // 2, self.column)
        self.obs = self.frames()
        return seen, rew.astype(np.float32), end, np.zeros(N, bool), over

    def close(self) -> None: ...


class Right:
    """Always goes right; remembers how often it has been asked, and on what."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.first: list[np.ndarray] = []

    def __call__(self, obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        self.seen.append(obs.copy())
        self.first.append(first.copy())
        return np.full(len(obs), 2, np.int64)


def recorded(steps: int = H, warm_up: int = 9) -> Rollouts:
    return real_rollouts(Walks(), lambda n, rng: StickyPolicy(3, np.full(n, 0.5), rng), T, steps, 3, warm_up=warm_up)


def oracle() -> WorldModel:
    return WorldModel(Oracle(), RewardOracle())


def columns(frames: np.ndarray) -> np.ndarray:
    return frames[:, :, 0, 0].argmax(-1)


def test_held_out_windows_are_what_happened(tmp_path: Path) -> None:
    real = Rollouts.held_out(worlds.store(tmp_path / "walks", episodes=40), 200, T, 4, seed=1)
    assert real.obs.shape == (200, T + 4, 3, 8, 8)
    assert real.act.shape == (200, T + 4 - 1)
    at = columns(real.obs)
    assert np.array_equal(np.clip(at[:, :-1] + np.array([0, -1, 1])[real.act], 0, 7), at[:, 1:])
    after = columns(real.after)
    assert np.array_equal(after, at[:, T:])
    assert np.array_equal(columns(real.last)[:, 0], at[:, T - 1])
    assert np.array_equal(real.rew, (after == 7) * 1.0 - (after == 0))
    assert np.array_equal(real.end, real.rew != 0)
    assert real.end[:, -1].any(), "windows reach the true final frame"


def test_recorded_games_are_what_happened() -> None:
    real = recorded(40)
    at = columns(real.obs)
    assert real.obs.shape == (N, T + 40, 3, 8, 8)
    moved = np.clip(at[:, :-1] + np.array([0, -1, 1])[real.act], 0, 7) == at[:, 1:]
    assert moved[:, : T - 1].all(), "the first frames lie within one game"
    assert moved[:, T - 1 :][real.going].all()
    assert not real.going.all(), "some games end"
    first_new = real.going.argmin(axis=1)[~real.going.all(axis=1)]
    assert (at[~real.going.all(axis=1), T + first_new] == 4).all(), "and begin anew in the middle"
    after = at[:, T:]
    rew = np.where(real.going, (after == 7) * 1.0 - (after == 0), 0)
    assert np.array_equal(real.rew, rew)
    assert np.array_equal(real.end, rew != 0)


def test_returns_stop_with_the_first_end() -> None:
    rew, end = np.array([[1, -1, 1, 1.0], [0, 1, 1, 1]], np.float32), np.zeros((2, 4), bool)
    real = Rollouts(np.zeros((2, 6, 1, 1, 1), np.uint8), np.zeros((2, 5), np.int64), rew, end)
    assert real.returns.tolist() == [2, 3]
    end[0, 1] = end[0, 3] = True
    assert real.returns.tolist() == [0, 3]
    going = np.array([[True] * 4, [True, False, False, False]])
    assert replace(real, going=going).returns.tolist() == [0, 1], "a new game ends the old one's return"


def test_an_oracle_replays_what_happened(tmp_path: Path) -> None:
    """More windows than are dreamed at once, the last batch not full."""
    real = Rollouts.held_out(worlds.store(tmp_path / "walks", episodes=40), 67, T, 4, seed=1)
    done: list[int] = []
    dreamed = dream_rollouts(oracle(), real, SamplerConfig(), progress=done.append)
    assert sum(done) == 67 * 4
    assert np.array_equal(dreamed.obs, real.obs)
    assert np.array_equal(dreamed.act, real.act)
    assert np.array_equal(dreamed.rew, real.rew)
    assert np.array_equal(dreamed.end, real.end)
    assert dreamed.rew_prob[..., 2] == pytest.approx((real.rew == 1) * 1.0, abs=1e-6)
    assert dreamed.end_prob == pytest.approx(real.end * 1.0, abs=1e-6)


def test_a_dream_goes_on_after_ends() -> None:
    real = recorded()
    dreamed = dream_rollouts(oracle(), real, SamplerConfig())
    assert np.array_equal(dreamed.after[real.going], real.after[real.going])
    assert np.array_equal(dreamed.returns, real.returns)


def test_a_policy_dreams_on_from_real_frames() -> None:
    real, policy = recorded(), Right()
    dreamed = dream_rollouts(oracle(), real, SamplerConfig(), lambda rows, rng: policy, seed=1)
    at = np.minimum(columns(real.last) + np.arange(1, H + 1), 7)
    assert np.array_equal(columns(dreamed.after), at)
    assert (dreamed.act[:, T - 1 :] == 2).all()
    assert np.array_equal(dreamed.rew, (at == 7) * 1.0), "no end stops a dream"
    assert np.array_equal(dreamed.end, at == 7)
    assert (dreamed.returns == 1).all()
    assert [bool(first.all()) for first in policy.first] == [True] + [False] * (H + T - 2)
    burnt_in = np.stack([seen.transpose(0, 3, 1, 2) for seen in policy.seen[:T]], axis=1)
    assert np.array_equal(burnt_in, real.obs[:, :T]), "the policy has seen the start's earlier frames"


def test_a_seed_fixes_the_dream_and_rows_do_not_depend_on_their_batch(tmp_path: Path) -> None:
    real = Rollouts.held_out(worlds.store(tmp_path / "walks", episodes=40), 40, T, 3, seed=1)
    torch.manual_seed(0)
    denoiser = Denoiser(replace(worlds.CONFIG.denoiser, residual=False))  # untrained, it passes noise on
    model = WorldModel(denoiser, RewardEnd(worlds.CONFIG.reward_end)).eval()
    one, again, other = (dream_rollouts(model, real, SamplerConfig(), seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one.obs, again.obs)
    assert not np.array_equal(one.obs, other.obs)
    assert one.rew_prob.sum(-1) == pytest.approx(1)
    few = dream_rollouts(model, real[:3], SamplerConfig(), seed=5)
    assert np.abs(few.obs.astype(int) - one.obs[:3]).max() <= 1
    without = dream_rollouts(WorldModel(denoiser).eval(), real[:3], SamplerConfig(), seed=5)
    assert without.rew_prob is None
    assert np.array_equal(without.obs, few.obs)


def test_policies() -> None:
    assert policies_of(False, "Breakout") == ["random"]
    assert policies_of(True, "Breakout") == ["random", "agent"]
    assert policies_of(False, "Pong", ("scripted", "random")) == ["scripted", "random"]
    for wanted, message in ((("best",), "not best"), (("agent",), "no agent of its own")):
        with pytest.raises(BadArgument, match=message):
            policies_of(False, "Breakout", wanted)
    with pytest.raises(BadArgument, match="not for Boxing"):
        policies_of(False, "Boxing", ("scripted",))
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    scripted = policy_maker(oracle(), "Freeway", "scripted")(2, np.random.default_rng(0))
    assert scripted(frames, np.ones(2, bool)).tolist() == [1, 1]
