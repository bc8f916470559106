"""The environments' states: cloned and restored, pickled and copied, and gone after close."""

import copy
import gc
import pickle
import weakref

import gymnasium as gym
import numpy as np
import pytest
from stub_envs import assert_equal, single_env, vector_env
from stubs import ACTIONS, StubWorldModel, save_tiny_model

from diamond_gym.envs import DreamEnv, DreamVectorEnv


@pytest.mark.parametrize("include_rng", [True, False])
def test_clone_and_restore_branch_the_environment(include_rng):
    envs, other = (vector_env(3, max_episode_steps=5) for _ in range(2))
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(8):
        envs.step(rng.integers(0, ACTIONS, 3))
    while not envs.ended.any():
        envs.step(rng.integers(0, ACTIONS, 3))
    state = pickle.loads(pickle.dumps(envs.clone_state(include_rng)))
    actions = rng.integers(0, ACTIONS, (12, 3))
    first = [envs.step(a) for a in actions]
    envs.restore_state(state)
    other.restore_state(state)
    for branch in (envs, other):
        second = [branch.step(a) for a in actions]
        if include_rng:
            assert_equal(tuple(second), tuple(first))
        else:
            assert not np.array_equal([s[0] for s in second], [s[0] for s in first])


def test_states_of_other_environments_are_refused():
    env = single_env()
    others = (DreamEnv(model=model) for model in (StubWorldModel("other"), StubWorldModel(size=16)))
    for other in (vector_env(2), *others):
        other.reset(seed=0)
        with pytest.raises(ValueError, match="another dream") as caught:
            env.restore_state(other.clone_state())
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="what clone_state returned"):
        env.restore_state({})


def test_pickles_and_deep_copies_dream_on_as_the_original_does():
    save_tiny_model()
    tiny = {"model": "tiny", "device": "cpu", "precision": "float32"}
    for env in (single_env(end_bias=-50), vector_env(2), DreamVectorEnv(**tiny), DreamEnv(**tiny)):
        action = np.zeros(env.action_space.shape, dtype=np.int64)
        pickle.loads(pickle.dumps(env)).reset(seed=0)
        env.reset(seed=0)
        copies = []
        for t in range(6):
            if t == 2:
                copies = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
            expected = env.step(action)
            for twin in copies:
                assert_equal(twin.step(action), expected)
            if isinstance(env, DreamEnv) and expected[2]:
                env.reset()
                for twin in copies:
                    twin.reset()
        expected = env.reset()
        for twin in copies:
            assert_equal(twin.reset(), expected)
            assert twin.np_random.integers(1000) == copy.deepcopy(env.np_random).integers(1000)


def test_closing_frees_the_model():
    for make in (DreamEnv, DreamVectorEnv):
        model = StubWorldModel()
        reference = weakref.ref(model)
        env = make(model=model)
        env.reset(seed=0)
        state = env.clone_state()
        env.close()
        env.close()
        for use in (
            env.reset,
            env.render,
            env.clone_state,
            lambda e=env: e.step(0),
            lambda e=env, s=state: e.restore_state(s),
            lambda e=env: e.world_model,
            lambda e=env: pickle.dumps(e),
        ):
            with pytest.raises(gym.error.ClosedEnvironmentError, match="closed: make a new one"):
                use()
        del model, use
        gc.collect()
        assert reference() is None
