"""A batch of dreams is SyncVectorEnv of its rows, in every autoreset mode, and what it returns is the caller's."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stub_envs import MODES, assert_equal, single_env, vector_env
from stubs import ACTIONS

from diamond_gym.envs import DreamEnv, DreamVectorEnv


@pytest.mark.parametrize("trajectory", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("mode", MODES)
def test_equals_sync_vector_env_of_singles(mode, batch, trajectory):
    """Whole episodes, infos and masks included: the native batch is SyncVectorEnv of its rows."""
    kwargs = {"max_episode_steps": 7, "denoising_trajectory": trajectory}
    ours = vector_env(batch, autoreset_mode=mode, **kwargs)
    theirs = SyncVectorEnv([lambda: single_env(**kwargs)] * batch, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.single_action_space == theirs.single_action_space
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert_equal(ours.reset(seed=31), theirs.reset(seed=31))
    ours.action_space.seed(0)
    ends = truncations = 0
    for _ in range(30):
        actions = ours.action_space.sample()
        step = ours.step(actions)
        assert_equal(step, theirs.step(actions))
        ends, truncations = ends + step[2].sum(), truncations + step[3].sum()
        done = step[2] | step[3]
        if mode is AutoresetMode.DISABLED and done.any():
            assert_equal(*(envs.reset(options={"reset_mask": done.copy()}) for envs in (ours, theirs)))
    assert ends
    assert truncations
    assert_equal(ours.reset(seed=5), theirs.reset(seed=5))
    assert_equal(ours.reset(), theirs.reset())
    seeds = [7 if i else None for i in range(batch)]
    assert_equal(ours.reset(seed=seeds), theirs.reset(seed=seeds))


@pytest.mark.parametrize("mode", MODES)
def test_reset_mask_equals_sync_vector_env(mode):
    ours = vector_env(4, autoreset_mode=mode, max_episode_steps=6)
    theirs = SyncVectorEnv([lambda: single_env(max_episode_steps=6)] * 4, autoreset_mode=mode)
    assert_equal(ours.reset(seed=2), theirs.reset(seed=2))
    rng = np.random.default_rng(0)
    for _ in range(25):
        mask = rng.random(4) < 0.3
        if mode is AutoresetMode.DISABLED:
            mask |= ours.ended
        if mask.any():
            seed = int(rng.integers(100)) if rng.random() < 0.5 else None
            results = [envs.reset(seed=seed, options={"reset_mask": mask.copy()}) for envs in (ours, theirs)]
            assert_equal(*results)
        actions = rng.integers(0, ACTIONS, 4)
        assert_equal(ours.step(actions), theirs.step(actions))


def test_options_of_the_caller_are_left_alone():
    envs = vector_env(2)
    envs.reset(seed=0)
    mask = np.array([True, False])
    options = {"reset_mask": mask, "start": 1}
    envs.reset(options=options)
    assert options == {"reset_mask": mask, "start": 1}


def test_returned_arrays_are_the_callers_own():
    for mode in MODES:
        kwargs = {"render_mode": "rgb_array", "denoising_trajectory": True, "max_episode_steps": 2}
        envs, twin = (vector_env(3, autoreset_mode=mode, **kwargs) for _ in range(2))

        def spoil(x):
            if isinstance(x, dict):
                for value in x.values():
                    spoil(value)
            elif isinstance(x, tuple | list) or (isinstance(x, np.ndarray) and x.dtype == object):
                for value in x:
                    spoil(value)
            elif isinstance(x, np.ndarray):
                assert x.flags.writeable
                x[...] = 1

        spoil(envs.reset(seed=0))
        twin.reset(seed=0)
        for t in range(4):
            actions = np.full(3, t % ACTIONS)
            result, expected = envs.step(actions), twin.step(actions)
            assert_equal(result, expected)
            spoil((result, envs.render()))
            actions[:] = 0
            if mode is AutoresetMode.DISABLED and envs.ended.any():
                mask = envs.ended
                envs.reset(options={"reset_mask": mask})
                twin.reset(options={"reset_mask": mask.copy()})
                mask[:] = True


def test_metadata_belongs_to_the_instance():
    envs = [vector_env(autoreset_mode=mode) for mode in MODES]
    for env, mode in zip(envs, MODES, strict=True):
        assert env.metadata["autoreset_mode"] is mode
    envs[0].metadata["render_modes"].append("human")
    single = single_env()
    single.metadata["render_modes"].append("human")
    assert "human" not in DreamVectorEnv.metadata["render_modes"] + DreamEnv.metadata["render_modes"]
    assert DreamVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("word", ["SameStep", "same_step", "SAME_STEP", AutoresetMode.SAME_STEP])
def test_autoreset_modes_are_plain_words_too(word):
    assert vector_env(autoreset_mode=word).autoreset_mode is AutoresetMode.SAME_STEP
