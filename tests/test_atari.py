"""The real games: pixel by pixel those of the paper, single or in a batch, and sound environments."""

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

import diamond_gym  # noqa: F401  (registers the ids)
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry import games

pytest.importorskip("ale_py")
pytest.importorskip("cv2")

import ale_py

from diamond_gym.envs import RealEnv
from diamond_gym.envs.atari import RealVectorEnv

GOLDEN = json.loads((Path(__file__).parent / "golden" / "atari_preprocessing.json").read_text())
del GOLDEN["_versions"]


@pytest.mark.parametrize("game", GOLDEN)
def test_single_games_are_the_papers(game: str) -> None:
    golden = GOLDEN[game]
    env = RealEnv(game=game)
    assert env.action_space == gym.spaces.Discrete(golden["num_actions"])
    obs, info = env.reset(seed=golden["seed"])
    assert hashlib.sha256(obs.tobytes()).hexdigest() == golden["first_obs_sha256"]
    frames, rewards, ends, life_losses = hashlib.sha256(obs.tobytes()), [], [], []
    for t, action in enumerate(golden["actions"]):
        lives = info["lives"]
        obs, reward, terminated, truncated, info = env.step(action)
        frames.update(obs.tobytes())
        if reward:
            rewards.append([t, reward])
        if info["lives"] < lives:
            life_losses.append(t)
        if terminated or truncated:
            ends.append(t)
            obs, info = env.reset()
            frames.update(obs.tobytes())
        if str(t + 1) in golden["sha256_after"]:
            assert frames.hexdigest() == golden["sha256_after"][str(t + 1)], f"after {t + 1} steps"
    assert (rewards, ends, life_losses) == (golden["rewards"], golden["ends"], golden["life_losses"])


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("life_loss", "limit"), [(False, None), (True, 33)])
def test_a_batch_is_a_batch_of_singles(mode: AutoresetMode, life_loss: bool, limit: int | None) -> None:
    """Every number is that of Gymnasium's own batch of single games."""
    keywords: dict[str, Any] = {"game": "Breakout", "terminal_on_life_loss": life_loss}

    def single() -> gym.Env[Any, Any]:
        env = RealEnv(**keywords)
        return env if limit is None else TimeLimit(env, limit)

    ours = RealVectorEnv(num_envs=2, autoreset_mode=mode, max_episode_steps=limit, **keywords)
    theirs = SyncVectorEnv([single] * 2, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert_equal(ours.reset(seed=5), theirs.reset(seed=5))
    rng, ends = np.random.default_rng(0), 0
    for _ in range(190):
        act = rng.integers(0, 4, 2)
        ours_stepped, theirs_stepped = ours.step(act), theirs.step(act)
        assert_equal(ours_stepped, theirs_stepped)
        over = ours_stepped[2] | ours_stepped[3]
        ends += int(over.sum())
        if mode is AutoresetMode.DISABLED and over.any():
            with pytest.raises(gym.error.ResetNeeded, match="rows"):
                ours.step(act)
            expected = theirs.reset(options={"reset_mask": over.copy()})
            assert_equal(ours.reset(options={"reset_mask": over.copy()}), expected)
    assert ends >= 1


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            if key != "final_obs":
                assert_equal(ours[key], theirs[key])
        for mine, other in zip(ours.get("final_obs", ()), theirs.get("final_obs", ()), strict=True):
            np.testing.assert_array_equal(mine, other)
    elif isinstance(theirs, tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_equal(mine, other)
    else:
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("game", ["Breakout", "Pong"])
def test_gymnasium_has_no_objection(game: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(f"DiamondReal-{game}-v0", render_mode="rgb_array")
        check_env(env.unwrapped)
        env.reset(seed=0)
        assert env.render().shape == (210, 160, 3)
        env.close()
        envs = gym.make_vec(f"DiamondReal-{game}-v0", num_envs=2, render_mode="rgb_array")
        obs, _ = envs.reset(seed=0)
        np.testing.assert_array_equal(np.stack(envs.render()), obs)
        assert envs.step(envs.action_space.sample())[0] in envs.observation_space
        envs.close()
        limited = gym.make_vec(f"DiamondReal-{game}-v0", num_envs=2, max_episode_steps=1)
        limited.reset(seed=0)
        assert limited.step(np.zeros(2, np.int64))[3].all()


@pytest.mark.parametrize("game", games().values(), ids=games())
def test_every_game_has_the_spaces_of_its_dream(game: Any) -> None:
    env = gym.make(f"DiamondReal-{game.name}-v0").unwrapped
    assert env.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(len(game.action_meanings))
    theirs = ale_py.AtariEnv(game.ale_id, full_action_space=False)
    assert theirs.get_action_meanings() == env.get_action_meanings() == list(game.action_meanings)  # type: ignore[attr-defined]
    assert [action.name for action in env.ale.getMinimalActionSet()] == theirs.get_action_meanings()  # type: ignore[attr-defined]
    assert {
        tuple(sorted(map(ord, keys))): action
        for keys, action in env.get_keys_to_action().items()  # type: ignore[attr-defined]
    } == {tuple(sorted(map(ord, keys))): a for keys, a in theirs.get_keys_to_action().items() if keys != ("e",)}
    obs, _ = env.reset(seed=0)
    assert obs.shape == (64, 64, 3)


def test_seeds() -> None:
    envs = RealVectorEnv(game="Boxing", num_envs=3)
    first, _ = envs.reset(seed=[7, 8, 2**40])
    again, _ = envs.reset(seed=[7, 8, 2**40])
    np.testing.assert_array_equal(first, again)
    shifted, _ = RealVectorEnv(game="Boxing", num_envs=2).reset(seed=8)
    np.testing.assert_array_equal(shifted[0], first[1])
    envs.reset(seed=1, options={"reset_mask": np.array([False, True, False])})  # row 1 with its seed 1 + 1
    unseeded = {RealVectorEnv(game="Boxing").reset()[0].tobytes() for _ in range(5)}
    assert len(unseeded) > 1


def test_ale_tells_the_lives() -> None:
    env = gym.make("DiamondReal-Breakout-v0").unwrapped
    _, info = env.reset(seed=0)
    assert env.ale.lives() == info["lives"] == 5  # type: ignore[attr-defined]
    while info["lives"] == 5:
        info = env.step(1)[4]
    assert env.ale.lives() == 4  # type: ignore[attr-defined]


def test_wrong_arguments() -> None:
    with pytest.raises(BadArgument, match="unknown game 'Breakot'; did you mean Breakout?"):
        RealEnv(game="Breakot")
    for kind in (RealEnv, RealVectorEnv):
        with pytest.raises(BadArgument, match="render_mode must be"):
            kind(game="Pong", render_mode="human")
        for noop_max in (-1, 1.5, "2", True):
            with pytest.raises(BadArgument, match=r"noop_max must be a whole number from 0 to 108000, got"):
                kind(game="Pong", noop_max=noop_max)
        with pytest.raises(BadArgument, match="terminal_on_life_loss must be True or False, got 1"):
            kind(game="Pong", terminal_on_life_loss=1)
        with pytest.raises(TypeError, match="unexpected keyword"):
            kind(game="Pong", nonsense=1)
    with pytest.raises(BadArgument, match="num_envs"):
        RealVectorEnv(game="Pong", num_envs=0)
    with pytest.raises(BadArgument, match="autoreset_mode must be one of"):
        RealVectorEnv(game="Pong", autoreset_mode="Never")
    with pytest.raises(BadArgument, match="max_episode_steps"):
        RealVectorEnv(game="Pong", max_episode_steps=0)


def test_wrong_use() -> None:
    env = RealEnv(game="Pong")
    with pytest.raises(gym.error.ResetNeeded, match="has not begun"):
        env.step(0)
    env.reset()
    for action in (6, -1, 0.5, "FIRE"):
        with pytest.raises(gym.error.InvalidAction):
            env.step(action)
    env.step(np.int32(5))
    env._batch._ended[:] = True
    with pytest.raises(gym.error.ResetNeeded, match="has ended"):
        env.step(0)
    envs = RealVectorEnv(game="Pong", num_envs=2)
    with pytest.raises(gym.error.ResetNeeded, match="has not begun"):
        envs.step(np.zeros(2, np.int64))
    with pytest.raises(gym.error.ResetNeeded, match="first reset"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset()
    for actions in (np.zeros(3, np.int64), np.array([0, 6]), np.array([0, -1]), np.zeros(2)):
        with pytest.raises(gym.error.InvalidAction):
            envs.step(actions)
    envs.step(np.array([0, 5], np.int32))
    for mask in (np.zeros(2, np.bool_), np.ones(3, np.bool_), np.ones(2)):
        with pytest.raises((ValueError, TypeError), match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
    for each in (env, envs):
        for options in ({"x": 1}, {"start": 1}):
            (name,) = options
            with pytest.raises(ValueError, match=f"options may hold reset_mask, not '{name}'"):
                each.reset(options=options)
    with pytest.raises(ValueError, match="2 seeds"):
        envs.reset(seed=[1, 2, 3])


@pytest.mark.parametrize("missing", ["ale_py", "cv2"])
def test_without_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DiamondGymError, match=r"pip install 'diamond-gym\[atari\]'") as raised:
        RealEnv(game="Pong")
    assert "\n" not in str(raised.value)
    if missing == "ale_py":
        with pytest.raises(DiamondGymError, match="pip install"):
            RealVectorEnv(game="Pong")
