"""The game Catch: Gymnasium's checks, its rules, and what playing blindly and playing well are worth."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import diamond_gym  # noqa: F401
from diamond_gym.envs.catch import BOARD, CELL, Catch

ID = "DiamondGym/Catch-v0"


def test_gymnasiums_checks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, render_mode="rgb_array").unwrapped)
    assert gym.make_vec(ID, num_envs=2).reset(seed=0)[0].shape == (2, 16, 16, 3)


def cells(obs):
    """Where the ball is (row, column), and the paddle's leftmost cell as far as the ball does not hide it."""
    board = obs[::CELL, ::CELL].astype(int)
    ((row, column),) = np.argwhere(board.sum(axis=2) == 3 * 255)
    return row, column, np.flatnonzero(board[-1, :, 1] > 200).min()


def game(env, policy, seed=None):
    obs, _ = env.reset(seed=seed)
    rewards, over = [], False
    while not over:
        row, _, _ = cells(obs)
        assert row == len(rewards)
        obs, reward, over, cut, _ = env.step(policy(obs))
        assert not cut
        rewards.append(reward)
    assert len(rewards) == BOARD - 1
    assert not any(rewards[:-1])
    if env.render_mode:
        np.testing.assert_array_equal(env.render(), obs)
    return rewards[-1]


def follow(obs):
    _, column, paddle = cells(obs)
    return 1 if column < paddle else 2 if column > paddle + 1 else 0


def test_every_ball_can_be_caught_and_a_blind_paddle_catches_one_in_four():
    env = gym.make(ID, render_mode="rgb_array")
    assert [game(env, follow, seed) for seed in range(30)] == [1.0] * 30
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    blind = [game(env, lambda obs: rng.integers(3)) for _ in range(400)]
    assert set(blind) == {-1.0, 1.0}
    assert np.mean(blind) == pytest.approx(-0.5, abs=0.15)


def test_seeds_and_sides():
    env = gym.make(ID)
    balls = [cells(env.reset(seed=seed)[0])[1] for seed in range(40)]
    assert set(balls) == set(range(BOARD))
    assert balls == [cells(env.reset(seed=seed)[0])[1] for seed in range(40)]
    for action, side in ((1, 0), (2, BOARD - 2)):
        env.reset(seed=0)
        for _ in range(5):
            obs = env.step(action)[0]
        assert cells(obs)[2] == side


def test_wrong_use():
    env = gym.make(ID).unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction):
        env.step(3)
    for _ in range(BOARD - 1):
        env.step(0)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    for options, error in (("x", TypeError), ([1], TypeError), ({"start": 1}, ValueError)):
        with pytest.raises(error, match="^options "):
            env.reset(options=options)
    env.reset(options={})
    env.close()
    env.close()
    for call in (env.reset, env.render, lambda: env.step(0)):
        with pytest.raises(gym.error.ClosedEnvironmentError, match="this game is closed: make a new one"):
            call()
    with pytest.raises(ValueError, match="rgb_array"):
        Catch(render_mode="human")


def test_the_keyboards_keys_are_actions():
    env = gym.make(ID).unwrapped
    assert env.get_action_meanings() == ["NOOP", "LEFT", "RIGHT"]
    assert env.get_keys_to_action() == {("a",): 1, ("d",): 2}
