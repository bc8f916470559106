"""What a game's name, an environment's id or a store mean, and the environments to play it in."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import diamond_gym  # noqa: F401
from diamond_gym.data import About, EpisodeStore
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.trainers.games import Games
from diamond_gym.trainers.worlds import check_learnable, find_world

CATCH = "DiamondGym/Catch-v0"


def ends(games, steps=200):
    """How many episodes of two games end while nothing is done but to begin."""
    games.reset(0)
    return int(sum(np.sum(games.step(np.ones(2, np.int64))[2]) for _ in range(steps)))


def test_an_environment_of_a_module_in_the_working_folder(tmp_path, monkeypatch):
    """The command `diamond-gym` does not look there by itself, as `python -m diamond_gym` does."""
    (tmp_path / "my_games.py").write_text(
        "import gymnasium as gym\ngym.register('Mine/Catch-v0', 'diamond_gym.envs.catch:Catch')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    monkeypatch.delitem(sys.modules, "my_games", raising=False)  # another test's
    try:
        world = find_world(env="my_games:Mine/Catch-v0")
        assert (world.name, world.about.frame_shape) == ("Catch", (16, 16, 3))
    finally:
        gym.registry.pop("Mine/Catch-v0", None)
        sys.modules.pop("my_games", None)


def test_atari_games_end_with_a_life_only_where_one_learns():
    pytest.importorskip("ale_py")
    world = find_world("Breakout")
    assert world.about.frame_shape == (64, 64, 3) and world.about.num_actions == 4
    for learning in (True, False):
        games = Games(world.envs(2), life_loss_ends=learning)
        assert (ends(games, 100) > 0) is learning
        games.close()
    envs = world.envs(2, AutoresetMode.SAME_STEP)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    envs.reset(seed=0)
    assert not any(envs.step(np.ones(2, np.int64))[2].any() for _ in range(100))
    envs.close()


def test_environments_are_seen_as_wished():
    world = find_world(env="CartPole-v1", size=24, render_obs=True)
    assert (world.name, world.about.frame_shape, world.about.num_actions) == ("CartPole", (24, 24, 3), 2)
    games, envs = Games(world.envs(2)), world.envs(2, AutoresetMode.SAME_STEP)
    assert games.reset(0).shape == envs.reset(seed=0)[0].shape == (2, 24, 24, 3)
    assert envs.single_action_space == gym.spaces.Discrete(2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    games.close()
    envs.close()


def test_small_squares_keep_their_size():
    assert find_world(env=CATCH).about.frame_shape == (16, 16, 3)
    assert find_world(env="CartPole-v1", render_obs=True).about.frame_shape == (64, 64, 3)  # 400 by 600


@pytest.mark.parametrize("life_loss_ends", [True, False])
def test_games_go_back_to_a_state(life_loss_ends):
    """Real games too: rows at different moments, one of them after the end of a game and the loss of lives."""
    pytest.importorskip("ale_py")
    rng = np.random.default_rng(0)
    world = find_world("Breakout")
    games = Games(world.envs(3), life_loss_ends)
    games.reset(4)
    overs = sum(games.step(rng.integers(4, size=3))[4].any() for _ in range(240))
    assert overs
    state, act = games.state_dict(), rng.integers(4, size=(30, 3))
    expected = [games.step(one) for one in act]
    again = Games(world.envs(3), life_loss_ends)
    again.load_state_dict(state)
    for one, step in zip(act, expected, strict=True):
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(again.step(one), step, strict=True))
    games.close()
    again.close()


def test_other_autoreset_modes_are_no_games():
    with pytest.raises(ValueError, match="DISABLED"):
        Games(find_world(env=CATCH).envs(1, AutoresetMode.NEXT_STEP))


def test_a_store_is_a_world(tmp_path):
    EpisodeStore(tmp_path, "a", About("Maze", (12, 12, 1), 5)).close()
    world = find_world(data=tmp_path)
    assert (world.name, world.env, world.about.frame_shape) == ("Maze", "", (12, 12, 1))
    with pytest.raises(BadArgument, match="Maze cannot be played here"):
        world.envs(1)
    with pytest.raises(DiamondGymError, match="holds experience with game Maze, not Catch"):
        find_world(env=CATCH, data=tmp_path)
    with pytest.raises(DiamondGymError, match="no experience at"):
        find_world(data=tmp_path / "nothing")
    for words in ({}, {"game": "Pong", "env": CATCH}, {"game": "Pong", "size": 32}):
        with pytest.raises(BadArgument):
            find_world(**words)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (About("my maze!", (16, 16, 3), 3), "'my maze!' cannot be used"),
    ],
)
def test_what_cannot_be_learned(about, message):
    with pytest.raises(DiamondGymError, match=message):
        check_learnable(about)
