"""The outer loop on Catch: it collects as it should, and a killed training ends with the bits of one that was not."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import diamond_gym  # noqa: F401
from diamond_gym.actor_critic import ActorCriticConfig
from diamond_gym.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.errors import DiamondGymError
from diamond_gym.reward_end import RewardEndConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.collect_gym import GymGames, about_env
from diamond_gym.trainers.diamond import Diamond, replay_starts, score
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.run_folder import RunFolder
from diamond_gym.trainers.world_model import FitConfig, OptimizerConfig

ID = "DiamondGym/Catch-v0"
OPTIMIZER = OptimizerConfig(lr=1e-3, batch_size=2, warmup_steps=1)
TINY = DiamondConfig(
    fit=FitConfig(
        DenoiserConfig(InnerModelConfig(num_steps_conditioning=2, cond_channels=8, depths=[1], channels=[8],
                                        attn_depths=[0], patch_size=4), residual=True),
        RewardEndConfig(lstm_dim=8, cond_channels=8, depths=[1], channels=[8], attn_depths=[0], patch_size=4),
        OPTIMIZER, OPTIMIZER, reward_end_length=4, focus=0.5,
    ),
    agent=AgentFitConfig(
        ActorCriticConfig(lstm_dim=8, channels=[4, 4], down=[1, 1]),
        optimizer=replace(OPTIMIZER, weight_decay=0), horizon=3,
    ),
    sampler=SamplerConfig(num_denoising_steps=1),
    epochs=4, real_steps=40, first_steps=20, first_steps_at_most=30, first_rewards=3, steps_per_epoch=8,
    world_model_steps=2, agent_steps=2, first_world_model_steps=3, first_agent_steps=3, epsilon=0.3, num_starts=8,
)  # fmt: skip


def begin(run, config=TINY):
    return Diamond(config, run, about_env(ID), GymGames(ID, config.num_envs))


def train(folder, epochs, kill=False):
    """Trains up to an epoch; `kill` leaves it in the midst of the next, with experience that no checkpoint knows."""
    with RunFolder(folder, tensorboard=False) as run:
        diamond = begin(run)
        figures = [diamond.train_epoch() for _ in range(diamond.epoch, epochs)]
        if kill:
            diamond.collector.collect(5)
            diamond.world_model.train_step()
        diamond.close()
    torch.manual_seed(999)
    weights = diamond.world_model.world_model.weights() | diamond.agent.agent.state_dict()
    return figures, weights, list(diamond.store)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(folder, 4)


def test_collects_by_the_schedule(whole):
    folder, figures, _, episodes = whole
    # One game of seven steps brings one reward: three of them, of which the two rarer signs (0 is not) are three.
    assert [f["real/steps"] for f in figures] == [28, 36, 40, 40]
    assert sum(len(episode) for episode in episodes) == 40
    assert all(np.isfinite(value) for f in figures for value in f.values())
    assert {"denoiser/loss", "reward_end/loss_end", "agent/policy_entropy", "real/score"} <= set(figures[0])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize("kill_at", [0, 1, 3])
def test_killed_and_resumed_ends_with_the_same_bits(whole, tmp_path, kill_at):
    _, figures, expected, episodes = whole
    train(tmp_path, kill_at, kill=True)
    resumed, weights, again = train(tmp_path, 4)
    assert resumed == figures[kill_at:]
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    assert len(again) == len(episodes)
    assert all((a.obs == b.obs).all() and (a.act == b.act).all() for a, b in zip(again, episodes, strict=True))


def test_a_second_process_is_refused(whole):
    with RunFolder(whole[0], tensorboard=False), pytest.raises(DiamondGymError, match="another process"):
        RunFolder(whole[0], tensorboard=False)


def test_starts_are_padded_with_grey_before_an_episode(whole):
    from diamond_gym.data import EpisodeStore

    store = EpisodeStore(whole[0] / "experience")
    starts = replay_starts(store, 4, 64, np.random.default_rng(0))
    assert starts.obs.shape == (64, 4, 16, 16, 3)
    grey = (starts.obs == 128).all(axis=(2, 3, 4))
    assert grey[:, :3].any() and not grey[:, 3].any()
    assert (starts.first | ~grey.any(axis=1)).all()
    assert (np.diff(grey.astype(int), axis=1) <= 0).all()  # only at the beginning


def games(rows):
    return gym.make_vec(ID, rows, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})


def test_scores_whole_games(whole, tmp_path):
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run)
        found = score(diamond.agent.agent, games(4), "Catch", 10)
        diamond.close()
    assert set(found.scores) <= {-1.0, 1.0} and found.lengths == (7,) * 10
    assert found == score(diamond.agent.agent, games(4), "Catch", 10)


FAST = OptimizerConfig(lr=1e-3, batch_size=32, warmup_steps=50)
CATCH = DiamondConfig(
    fit=FitConfig(
        DenoiserConfig(InnerModelConfig(num_steps_conditioning=2, cond_channels=64, depths=[1, 1], channels=[32, 32],
                                        attn_depths=[0, 0], patch_size=2), residual=True),
        RewardEndConfig(lstm_dim=64, cond_channels=32, depths=[1, 1], channels=[16, 16], attn_depths=[0, 0],
                        patch_size=2),
        FAST, replace(FAST, max_grad_norm=100.0, batch_size=16), reward_end_length=8, reward_end_every=2,
        focus=0.5, ema_decay=0.99,
    ),
    agent=AgentFitConfig(
        ActorCriticConfig(lstm_dim=64, channels=[16, 16], down=[1, 1]),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0, max_grad_norm=100, batch_size=32), horizon=8,
    ),
    sampler=SamplerConfig(num_denoising_steps=1),
    epochs=8, real_steps=8000, first_steps=4000, first_steps_at_most=4000, steps_per_epoch=500,
    world_model_steps=150, agent_steps=100, first_world_model_steps=2000, first_agent_steps=300,
    num_envs=4, epsilon=0.1,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_catch_is_learnt_in_dreams_alone(tmp_path):
    """From nothing to a real return of 0.8 over 100 games; pytest's `-m slow -s` shows the curve."""
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run, CATCH)
        returns = [score(diamond.agent.agent, games(10), "Catch", 100).mean]
        while diamond.epoch < CATCH.epochs:
            figures = diamond.train_epoch()
            returns.append(score(diamond.agent.agent, games(10), "Catch", 100).mean)
            print(f"epoch {diamond.epoch}: return {returns[-1]:.2f}", {k: round(v, 3) for k, v in figures.items()})
        diamond.close()
    assert max(returns[-3:]) >= 0.8, returns
