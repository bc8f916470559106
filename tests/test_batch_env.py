"""What batches answer for their rows, and observations in other forms: as Gymnasium's own batch of single ones."""

import copy
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from stub_envs import MODES, assert_equal, single_env, vector_env
from stubs import MEANINGS, StubWorldModel

import diamond_gym  # noqa: F401
from diamond_gym.errors import BadArgument

FORMS = [{"obs_dtype": dtype, "channels_first": first} for dtype in ("uint8", "float32") for first in (False, True)][1:]


def in_form(frames, obs_dtype, channels_first):
    frames = np.moveaxis(frames, -1, -3) if channels_first else frames
    return frames if obs_dtype == "uint8" else frames.astype(np.float32) / np.float32(255)


def real(**kwargs):
    pytest.importorskip("ale_py")
    return gym.make_vec("DiamondReal-Pong-v0", num_envs=2, **kwargs)


@pytest.mark.parametrize("make", [vector_env, real])
def test_gymnasiums_class_is_a_direct_base(make):
    assert gym.vector.VectorEnv in type(make().unwrapped).__bases__  # by which skrl knows what to do


@pytest.mark.parametrize("make", [vector_env, real])
def test_rows_answer_as_single_environments_do(make):
    envs = make(render_mode="rgb_array")
    envs.reset(seed=0)
    each = (envs.unwrapped.get_action_meanings(),) * envs.num_envs
    assert envs.call("get_action_meanings") == envs.get_attr("get_action_meanings") == each
    assert envs.get_attr("observation_space") == (envs.single_observation_space,) * envs.num_envs
    assert envs.get_attr("action_space") == (envs.single_action_space,) * envs.num_envs
    assert envs.get_attr("render_mode") == ("rgb_array",) * envs.num_envs
    np.testing.assert_array_equal(np.stack(envs.call("render")), np.stack(envs.render()))
    for name in ("reset", "step", "close"):
        with pytest.raises(BadArgument, match=f"use the batch's own {name}"):
            envs.call(name)
    with pytest.raises(AttributeError, match="nothing"):
        envs.get_attr("nothing")


def test_attributes_are_set_as_in_a_sync_vector_env():
    ours, theirs = vector_env(3), SyncVectorEnv([single_env] * 3)
    for envs in (ours, theirs):
        envs.set_attr("level", [1, 2, 3])
        envs.set_attr("frames", np.arange(3))  # an array is one value
        envs.set_attr("render_mode", "rgb_array")
        with pytest.raises(ValueError, match="3"):
            envs.set_attr("level", [1, 2])
    for name in ("level", "frames", "render_mode"):
        for mine, other in zip(ours.get_attr(name), theirs.get_attr(name), strict=True):
            np.testing.assert_array_equal(mine, other)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert copied.get_attr("level") == (1, 2, 3)
    ours.reset(seed=0)
    assert len(ours.render()) == 3
    ours.set_attr("horizon", [7, 7, 7])
    assert ours.horizon == 7
    with pytest.raises(BadArgument, match="the rows share horizon"):
        ours.set_attr("horizon", [7, 7, 8])
    for name in ("action_space", "num_envs", "step", "ended", "precision", "autoreset_mode", "world_model"):
        with pytest.raises(BadArgument, match=f"{name} cannot be set"):
            ours.set_attr(name, None)
    with pytest.raises(BadArgument, match="render_mode must be None or one of"):
        ours.set_attr("render_mode", "human")
    assert ours.render_mode == "rgb_array"


@pytest.mark.parametrize("make", [lambda **kwargs: vector_env(2, end_bias=-50.0, **kwargs), real])
def test_a_horizon_that_is_set_holds_from_the_next_step_on(make):
    envs = make(max_episode_steps=2)
    envs.reset(seed=0)
    envs.set_attr("horizon", 5)
    assert envs.get_attr("horizon") == (5, 5)
    copied = pickle.loads(pickle.dumps(envs.unwrapped))
    for each in (envs, copied):
        cut = [each.step(np.zeros(2, int))[3].tolist() for _ in range(5)]
        assert cut == [[False, False]] * 4 + [[True, True]]
    envs.reset(seed=0)
    for horizon, first in ((None, False), (1, True)):  # sooner, too
        envs.set_attr("horizon", horizon)
        assert envs.step(np.zeros(2, int))[3].tolist() == [first] * 2
    for wrong in (0, -1, 2.5, True, "5"):
        with pytest.raises(BadArgument, match="horizon must be a whole number of at least 1"):
            envs.set_attr("horizon", wrong)
    assert envs.get_attr("horizon") == (1, 1)


def test_ended_is_told_by_row():
    envs = vector_env(2, max_episode_steps=1)
    envs.reset(seed=0)
    envs.step(np.zeros(2, int))
    assert envs.get_attr("ended") == (True, True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("id", ["DiamondDream-v0", "DiamondReal-Pong-v0"])
def test_gymnasium_has_no_objection_to_other_forms(form, id):
    if "Real" in id:
        pytest.importorskip("ale_py")
    kwargs = {**form, "render_mode": "rgb_array"} | ({} if "Real" in id else {"model": StubWorldModel()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(id, **kwargs)
        check_env(env.unwrapped)
        obs, _ = env.reset(seed=0)
        envs = gym.make_vec(id, num_envs=2, **kwargs)
        assert envs.single_observation_space == env.observation_space
        assert envs.reset(seed=0)[0] in envs.observation_space
    assert (obs.dtype.name, obs.shape[0] == 3) == (form["obs_dtype"], form["channels_first"])
    assert obs.flags.c_contiguous
    assert obs.max() <= (255 if form["obs_dtype"] == "uint8" else 1)
    assert env.render().dtype == np.uint8
    assert env.render().shape[-1] == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [vector_env, real])
def test_forms_are_the_same_frames(make, form, mode):
    plain, formed = (make(max_episode_steps=3, autoreset_mode=mode, **kwargs) for kwargs in ({}, form))
    ended = 0
    assert_equal(formed.reset(seed=0)[0], in_form(plain.reset(seed=0)[0], **form))
    for _ in range(7):
        (frames, *expected, infos), (obs, *outcome, info) = (
            envs.step(np.ones(envs.num_envs, int)) for envs in (plain, formed)
        )
        assert_equal(obs, in_form(frames, **form))
        assert_equal(tuple(outcome), tuple(expected))
        assert info.keys() == infos.keys()
        for mine, other in zip(info.get("final_obs", ()), infos.get("final_obs", ()), strict=True):
            assert_equal(mine, None if other is None else in_form(other, **form))
        over = outcome[1] | outcome[2]
        ended += over.sum()
        if mode.name == "DISABLED" and over.any():
            plain.reset(options={"reset_mask": over})
            formed.reset(options={"reset_mask": over})
    assert ended


def test_a_form_goes_along_with_a_pickle():
    envs = pickle.loads(pickle.dumps(vector_env(2, obs_dtype="float32", channels_first=True)))
    assert envs.reset(seed=0)[0] in envs.observation_space
    assert envs.single_observation_space.shape == (3, 8, 8)


def test_wrong_forms():
    for make in (single_env, vector_env):
        with pytest.raises(BadArgument, match="obs_dtype must be"):
            make(obs_dtype="float64")
        with pytest.raises(BadArgument, match="channels_first must be"):
            make(channels_first="yes")


def test_action_meanings_of_a_dream():
    assert vector_env().get_action_meanings() == single_env().get_action_meanings() == MEANINGS
