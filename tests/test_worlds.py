"""What a game's name, an environment's id or a store mean, and the environments to play it in."""

import json
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import diamond_gym  # noqa: F401
from diamond_gym import cli
from diamond_gym.data import About, EpisodeStore
from diamond_gym.data.about import ABOUT, read_about
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.trainers.games import Games
from diamond_gym.trainers.worlds import about_game, can_play_game, check_learnable, find_world

CATCH = "DiamondGym/Catch-v0"


def ends(games, steps=200):
    """How many episodes of two games end while nothing is done but to begin."""
    games.reset(0)
    return int(sum(np.sum(games.step(np.ones(2, np.int64))[2]) for _ in range(steps)))


def test_which_games_can_be_played_here(monkeypatch):
    pytest.importorskip("ale_py")
    assert can_play_game("Pong")
    assert not can_play_game("CSGO")
    monkeypatch.setattr("diamond_gym.trainers.worlds.can_play_atari", lambda: False)
    assert not can_play_game("Pong")


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


@pytest.fixture
def mazes():
    """Three environments that are called Maze, and one that is called as an Atari game is."""
    ids = ("One/Maze-v0", "Two/Maze-v0", "One/Maze-v1", "Other/Pong-v7")
    for name in ids:
        gym.register(name, "diamond_gym.envs.catch:Catch")
    yield ids
    for name in ids:
        gym.registry.pop(name)


def test_a_store_is_of_one_environment(mazes, tmp_path, home, capsys):
    def collect(env, *words):
        code = cli.main(["collect", "--env", env, "--steps", "4", "--num-envs", "2", *words])
        return code, capsys.readouterr().err

    assert collect(mazes[0])[0] == collect(f"diamond_gym:{mazes[0]}")[0] == 0
    for other in mazes[1:3]:
        code, said = collect(other)
        assert (code, said.count("\n")) == (1, 1)
        assert f"maze holds experience of One/Maze-v0, not of {other}: --data NAME takes another store" in said
    assert collect(mazes[2], "--data", "second")[0] == 0
    assert EpisodeStore(home / "data" / "maze").num_steps == 8
    assert cli.main(["data", "merge", "maze", "second", "--name", "both"]) == 0
    assert cli.main(["data", "import", str(home / "data" / "maze"), "--name", "copy"]) == 0
    assert [read_about(home / "data" / name).env for name in ("both", "copy")] == ["", "One/Maze-v0"]


def test_stores_that_do_not_know_their_environment_are_added_to(mazes, tmp_path):
    about = find_world(env=mazes[0]).about
    EpisodeStore(tmp_path, "a", about).close()
    content = json.loads((tmp_path / ABOUT).read_text())
    del content["env"]
    (tmp_path / ABOUT).write_text(json.dumps(content))
    for env in mazes[:3]:
        EpisodeStore(tmp_path, "a", find_world(env=env).about).close()


def test_an_environment_that_is_called_as_an_atari_game(mazes, tmp_path):
    pong = find_world(env=mazes[3], size=64).about
    EpisodeStore(tmp_path, "a", replace(pong, env="Pong")).close()
    with pytest.raises(DiamondGymError, match=r"of the game Pong, not of Other/Pong-v7"):
        find_world(env=mazes[3], size=64, data=tmp_path)
    EpisodeStore(tmp_path / "own", "a", pong).close()
    assert find_world(data=tmp_path / "own").env == ""
    assert about_game("Pong").env == "Pong"


def test_pictures_and_observations_are_not_mixed():
    assert find_world(env="CartPole-v1", render_obs=True).about.env == "CartPole-v1 --render-obs"
    assert find_world(env=CATCH).about.env == CATCH


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (About("my maze!", (16, 16, 3), 3), "'my maze!' cannot be used"),
    ],
)
def test_what_cannot_be_learned(about, message):
    with pytest.raises(DiamondGymError, match=message):
        check_learnable(about)
