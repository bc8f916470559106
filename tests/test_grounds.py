"""Where a whole training plays: lives end episodes to learn from, and whole games score."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import diamond_gym  # noqa: F401
from diamond_gym.trainers.grounds import AtariGround, GymGround, side_of


def ends(games, steps=200):
    """How many episodes of two games end while nothing is done but to begin."""
    games.reset(0)
    return int(sum(np.sum(games.step(np.ones(2, np.int64))[2]) for _ in range(steps)))


def test_atari_games_end_with_a_life_only_where_one_learns():
    pytest.importorskip("ale_py")
    ground = AtariGround("Breakout")
    assert ground.about().frame_shape == (64, 64, 3) and ground.about().num_actions == 4
    for make, expected in ((ground.games, True), (ground.test_games, False)):
        games = make(2)
        assert (ends(games, 100) > 0) is expected
        games.close()
    envs = ground.whole(2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    envs.reset(seed=0)
    assert not any(envs.step(np.ones(2, np.int64))[2].any() for _ in range(100))
    envs.close()


def test_environments_are_seen_as_wished():
    ground = GymGround("CartPole-v1", (24, 24), render_obs=True)
    about = ground.about()
    assert (about.game, about.frame_shape, about.num_actions) == ("CartPole", (24, 24, 3), 2)
    games, envs = ground.test_games(2), ground.whole(2)
    assert games.reset(0).shape == envs.reset(seed=0)[0].shape == (2, 24, 24, 3)
    assert envs.single_action_space == gym.spaces.Discrete(2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    games.close()
    envs.close()


def test_small_squares_keep_their_size():
    assert side_of("DiamondGym/Catch-v0", False) == 16
    assert side_of("CartPole-v1", True) == 64  # 400 by 600
