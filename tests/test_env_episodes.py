"""Where the environments' episodes begin and when they are cut off: starts, real frames, seeds, horizons."""

import pickle

import gymnasium as gym
import numpy as np
from stub_envs import assert_equal, single_env, vector_env
from stubs import StubWorldModel, make_starts

from diamond_gym.envs import DreamEnv


def test_horizons():
    for steps, expected in ((3, [3, 6, 9]), (-1, [])):
        envs = vector_env(1, end_bias=-50, max_episode_steps=steps, autoreset_mode="SameStep")
        envs.reset(seed=0)
        assert [t for t in range(1, 11) if envs.step([0])[3].any()] == expected
    default = vector_env(1, end_bias=-50, autoreset_mode="SameStep")
    default.reset(seed=0)
    assert [t for t in range(1, 120) if default.step([0])[3].any()] == [50, 100]


def test_the_single_environment_truncates_bare_and_through_make():
    def truncations(env):
        env.reset(seed=0)
        seen = []
        for t in range(1, 130):
            if env.step(0)[3]:
                seen.append(t)
                env.reset()
        return seen

    model = StubWorldModel(end_bias=-50)
    assert truncations(DreamEnv(model=model)) == [50, 100]
    assert truncations(DreamEnv(model=model, max_episode_steps=60)) == [60, 120]
    assert truncations(DreamEnv(model=model, max_episode_steps=-1)) == []
    make = lambda **kwargs: gym.make("DiamondDream-v0", model=model, **kwargs)  # noqa: E731
    assert truncations(make()) == [50, 100]
    assert truncations(make(max_episode_steps=60)) == [60, 120]
    assert truncations(make(max_episode_steps=120)) == [120]
    assert truncations(make(max_episode_steps=-1)) == []
    assert truncations(pickle.loads(pickle.dumps(make(max_episode_steps=60)))) == [60, 120]


def test_starts():
    for choice, allowed in (("any", set(range(6))), ("first", {0, 3}), (2, {2})):
        _, info = vector_env(50, starts=choice).reset(seed=0)
        assert set(info["start"].tolist()) == allowed
    env = single_env(starts=4)
    obs, info = env.reset(seed=0)
    assert info == {"start": 4}
    assert type(info["start"]) is int
    np.testing.assert_array_equal(obs, make_starts().obs[4, -1])
    assert env.reset(options={"start": 1})[1] == {"start": 1}
    assert vector_env(2).reset(options={"start": np.array([5, 1])})[1]["start"].tolist() == [5, 1]


def test_dreams_from_real_frames():
    starts = make_starts()
    options = {"obs": starts.obs[2], "act": starts.act[2]}
    env, stored = single_env(), single_env(starts=2)
    obs, info = env.reset(seed=4, options=options)
    np.testing.assert_array_equal(obs, starts.obs[2, -1])
    assert info == {"start": -1}
    stored.reset(seed=4)
    for action in (0, 3, 1):
        ours, theirs = env.step(action), stored.step(action)
        assert_equal(ours[:4], theirs[:4])
        if ours[2]:
            break
    envs = vector_env(3)
    envs.reset(seed=0)
    obs, info = envs.reset(options={**options, "reset_mask": np.array([True, False, True])})
    np.testing.assert_array_equal(obs[[0, 2]], starts.obs[[2, 2], -1])
    assert info["start"].tolist() == [-1, 0, -1]
    assert info["_start"].tolist() == [True, False, True]
    obs, info = envs.reset(options={"obs": starts.obs[:3], "act": starts.act[:3]})
    np.testing.assert_array_equal(obs, starts.obs[:3, -1])


def test_the_first_unseeded_reset_draws_from_np_random():
    def first(env):
        env.np_random = np.random.default_rng(3)
        return env.reset()

    for make in (single_env, vector_env):
        assert_equal(first(make()), first(make()))
