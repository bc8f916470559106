"""AtariStack: what Stable-Baselines3's and Gymnasium's wrappers around single environments give, in every mode."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit, TransformObservation
from stub_envs import MODES, assert_equal, single_env, vector_env
from stubs import StubWorldModel

import diamond_gym  # noqa: F401
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.wrappers import AtariStack

cv2 = pytest.importorskip("cv2")


def single(env):
    """As DeepMind's wrappers do it, of which SB3's `WarpFrame` is one; stacked by Gymnasium."""

    def warp(frame):
        return cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (84, 84), interpolation=cv2.INTER_AREA)

    space = gym.spaces.Box(0, 255, (84, 84), np.uint8)
    return FrameStackObservation(TransformObservation(env, warp, space), 4)


def assert_the_same(ours, theirs, steps, actions):
    assert ours.observation_space == theirs.observation_space
    assert_equal(ours.reset(seed=3), theirs.reset(seed=3))
    rng, ends = np.random.default_rng(0), 0
    for _ in range(steps):
        act = rng.integers(0, actions, ours.num_envs)
        stepped, expected = ours.step(act), theirs.step(act)
        assert_equal(stepped, expected)
        assert stepped[0] in ours.observation_space
        over = stepped[2] | stepped[3]
        ends += over.sum()
        if ours.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            masks = [{"reset_mask": over.copy()} for _ in range(2)]
            assert_equal(ours.reset(options=masks[0]), theirs.reset(options=masks[1]))
    assert ends >= 3


@pytest.mark.parametrize("mode", MODES)
def test_a_stack_of_a_batch_is_a_batch_of_stacks(mode):
    ours = AtariStack(vector_env(autoreset_mode=mode, max_episode_steps=6))
    envs = [lambda: single(TimeLimit(single_env(max_episode_steps=-1), 6))] * 3
    assert_the_same(ours, SyncVectorEnv(envs, autoreset_mode=mode), 25, 4)


@pytest.mark.parametrize("mode", MODES)
def test_around_other_wrappers(mode):
    envs = gym.wrappers.vector.RecordEpisodeStatistics(vector_env(autoreset_mode=mode, max_episode_steps=4))
    plain, stacked = vector_env(autoreset_mode=mode, max_episode_steps=4), AtariStack(envs, size=8, num_frames=2)
    plain.reset(seed=0)
    stacked.reset(seed=0)
    for _ in range(12):
        (frames, *expected, _), (obs, *outcome, _) = plain.step(np.ones(3, int)), stacked.step(np.ones(3, int))
        assert_equal(tuple(outcome), tuple(expected))
        np.testing.assert_array_equal(obs[:, -1], [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
        if mode is AutoresetMode.DISABLED and (over := outcome[1] | outcome[2]).any():
            plain.reset(options={"reset_mask": over})
            stacked.reset(options={"reset_mask": over.copy()})


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))])
@pytest.mark.parametrize("mode", MODES)
def test_a_copy_goes_on_as_the_original_does(mode, copied):
    plain = vector_env(end_bias=-50.0, autoreset_mode=mode, max_episode_steps=4)  # ended by the horizon alone
    envs = AtariStack(plain, size=8, num_frames=2)
    assert_equal(copied(envs).reset(seed=0), envs.reset(seed=0))
    for _ in range(3):
        envs.step(np.ones(3, int))
    twin = copied(envs)
    assert twin.observation_space == envs.observation_space
    for _ in range(6):
        stepped = envs.step(np.ones(3, int))
        assert_equal(twin.step(np.ones(3, int)), stepped)
        if mode is AutoresetMode.DISABLED and (over := stepped[2] | stepped[3]).any():
            results = [each.reset(options={"reset_mask": over.copy()}) for each in (envs, twin)]
            assert_equal(*results)


def test_the_real_game_looks_the_same():
    pytest.importorskip("ale_py")
    stacked = AtariStack(gym.make_vec("DiamondReal-Pong-v0", num_envs=2))
    assert stacked.observation_space == AtariStack(vector_env(2)).observation_space
    obs, _ = stacked.reset(seed=0)
    assert stacked.step(np.zeros(2, int))[0][:, :3].tolist() == obs[:, 1:].tolist()


def test_wrong_arguments(monkeypatch):
    for kwargs in ({"obs_dtype": "float32"}, {"channels_first": True}):
        with pytest.raises(BadArgument, match=r"uint8 \(H, W, 3\)"):
            AtariStack(gym.make_vec("DiamondDream-v0", num_envs=2, model=StubWorldModel(), **kwargs))
    for name in ("size", "num_frames"):
        for wrong in (0, -1, "84", 84.5, True, None):
            with pytest.raises(BadArgument, match=f"{name} must be a whole number of at least 1, got {wrong!r}"):
                AtariStack(vector_env(), **{name: wrong})
    assert AtariStack(vector_env(), size=np.int64(8)).single_observation_space.shape == (4, 8, 8)
    with pytest.raises(TypeError, match="options must be a dictionary, got int"):
        AtariStack(vector_env()).reset(options=5)
    with pytest.raises(TypeError, match="must be a numpy array of bool"):
        AtariStack(vector_env()).reset(options={"reset_mask": "all"})
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(DiamondGymError, match=r"pip install 'diamond-gym\[atari\]'"):
        AtariStack(vector_env())
