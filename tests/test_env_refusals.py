"""What the environments refuse, in one line and without harm: arguments, actions, options, steps out of order."""

import gymnasium as gym
import numpy as np
import pytest
from stub_envs import assert_equal, single_env, vector_env
from stubs import ACTIONS, StubWorldModel, make_starts, save_tiny_model

from diamond_gym.envs import DreamVectorEnv
from diamond_gym.errors import BadArgument, DiamondGymError, ModelNotFound


def test_bad_arguments_are_one_clear_line():
    model, in_memory = StubWorldModel(), save_tiny_model()
    for kwargs, error, words in (
        ({}, BadArgument, "which dream"),
        ({"game": "Braekout"}, DiamondGymError, "did you mean Breakout"),
        ({"game": "Hero"}, ModelNotFound, "train-wm --game Hero"),
        ({"model": "nobody"}, ModelNotFound, "nobody"),
        ({"model": model, "num_envs": 0}, BadArgument, "at least 1, got 0"),
        ({"model": model, "num_envs": 2.5}, BadArgument, "at least 1, got 2.5"),
        ({"model": model, "num_envs": True}, BadArgument, "at least 1, got True"),
        ({"model": model, "quality": "best"}, BadArgument, "fast, paper, fine"),
        ({"model": model, "num_denoising_steps": 0}, BadArgument, "'num_denoising_steps' must be a whole number"),
        ({"model": model, "num_denoising_steps": "2"}, BadArgument, r"whole number .*, not '2'\.$"),
        ({"model": model, "num_denoising_step": 1}, TypeError, "num_denoising_step'"),
        ({"model": model, "max_episode_steps": 0}, BadArgument, "at least 1, or -1"),
        ({"model": model, "autoreset_mode": "never"}, BadArgument, '"NextStep", "SameStep", "Disabled"'),
        ({"model": model, "render_mode": "ascii"}, BadArgument, "rgb_array"),
        ({"model": model, "starts": 6}, DiamondGymError, "there are 6"),
        ({"model": model, "starts": "last"}, DiamondGymError, '"any", "first" or an index'),
        ({"model": model, "starts": True}, DiamondGymError, '"any", "first" or an index, got True'),
        ({"model": model, "starts": 1.5}, DiamondGymError, '"any", "first" or an index, got 1.5'),
        (
            {"model": model, "max_episode_steps": 2.5},
            BadArgument,
            "whole number of at least 1, or -1 to go on, got 2.5",
        ),
        ({"model": model, "max_episode_steps": True}, BadArgument, "whole number of at least 1"),
        ({"model": "tiny", "device": None}, BadArgument, "device None cannot be used here"),
        ({"model": "tiny", "device": 1.5}, BadArgument, r"device 1\.5 cannot be used here"),
        ({"model": "tiny", "game": "Pong"}, BadArgument, "the model tiny dreams Breakout, not Pong"),
        ({"model": in_memory, "game": "Pong"}, BadArgument, "the model tiny dreams Breakout, not Pong"),
        *(
            ({"model": model, flag: value}, BadArgument, f"^{flag} must be True or False, got {value!r}.$")
            for flag in ("compile", "denoising_trajectory", "hallucination", "replay", "channels_first")
            for value in ("yes", 1, None)
        ),
    ):
        with pytest.raises(error, match=words) as caught:
            DreamVectorEnv(**kwargs)
        assert "\n" not in str(caught.value)


def test_what_is_for_batches_alone_is_refused_by_single_environments():
    for keyword in ({"autoreset_mode": "SameStep"}, {"num_envs": 2}):
        (name,) = keyword
        with pytest.raises(BadArgument, match=f"^{name} is for batches: leave it out, or use gym.make_vec.$"):
            gym.make("DiamondDream-v0", model=StubWorldModel(), **keyword)
    for render_mode in ("ansi", "rgb_array_tiled"):
        with pytest.raises(BadArgument, match=f"None or one of rgb_array, got '{render_mode}'"):
            single_env(render_mode=render_mode)


def test_a_model_of_the_game_can_be_named_beside_it():
    save_tiny_model("mine")
    envs = gym.make_vec("DiamondDream-Breakout-v0", num_envs=2, model="mine", device="cpu", precision="float32")
    assert envs.world_model.card.name == "mine"
    with pytest.raises(BadArgument, match="the model mine dreams Breakout, not Pong"):
        gym.make("DiamondDream-Pong-v0", model="mine")


@pytest.mark.parametrize(
    "actions", [[0, 1, 4], [0, -1, 0], [0, 1], 0, [0.0, 1.0, 2.0], [[0, 1, 2]], ["a", "b", "c"], [None] * 3]
)
def test_actions_outside_the_space(actions):
    envs = vector_env(3)
    envs.reset(seed=0)
    before = envs.clone_state(True)
    with pytest.raises(gym.error.InvalidAction, match="actions must be 3 integers from 0 to 3") as caught:
        envs.step(actions)
    assert "\n" not in str(caught.value)
    twin = vector_env(3)
    twin.restore_state(before)
    assert_equal(envs.step([0, 1, 2]), twin.step([0, 1, 2]))


@pytest.mark.parametrize("action", [4, -1, 1.0, [1], None, "a"])
def test_an_action_outside_the_single_space(action):
    env = single_env()
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction):
        env.step(action)
    assert env.step(np.int32(3))[0].shape == (8, 8, 3)


def test_steps_before_a_reset_and_after_an_end():
    for make, action in ((single_env, 0), (vector_env, [0, 0, 0])):
        env = make(render_mode="rgb_array")
        for call in (lambda e=env, a=action: e.step(a), env.clone_state, env.render):
            with pytest.raises(gym.error.ResetNeeded, match="has not begun"):
                call()
    env = single_env(end_bias=50.0)
    env.reset(seed=0)
    assert env.step(0)[2]
    with pytest.raises(gym.error.ResetNeeded, match=r"has ended: call reset"):
        env.step(0)
    envs = vector_env(3, end_bias=50.0, autoreset_mode="Disabled")
    with pytest.raises(gym.error.ResetNeeded, match="first reset"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    envs.reset(seed=0)
    assert envs.step([0, 0, 0])[2].all()
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(gym.error.ResetNeeded, match=r"rows \[1\] have ended"):
        envs.step([0, 0, 0])


def test_bad_reset_options():
    envs = vector_env(3)
    envs.reset(seed=0)
    before, starts = envs.clone_state(True), make_starts()
    obs, act = starts.obs[0], starts.act[0]
    for options, error, words in (
        ({"reset_mask": [True, False, True]}, TypeError, "numpy array of bool"),
        ({"reset_mask": np.array([1, 0, 1])}, TypeError, "numpy array of bool"),
        ({"reset_mask": np.array([True, False])}, ValueError, r"shape \(3,\), got \(2,\)"),
        ({"reset_mask": np.zeros(3, dtype=bool)}, ValueError, "at least one row"),
        ({"obs": obs}, ValueError, "'obs' together with 'act'"),
        ({"act": act}, ValueError, "'obs' together with 'act'"),
        ({"obs": obs, "act": act, "start": 1}, ValueError, "'start' alone"),
        ({"obs": obs[1:], "act": act}, ValueError, "obs must be uint8 frames"),
        ({"obs": obs.astype(np.float32), "act": act}, ValueError, "obs must be uint8 frames"),
        ({"obs": obs, "act": act[1:]}, ValueError, "act must be the int64 actions"),
        ({"obs": obs, "act": act + 0.5}, ValueError, "act must be the int64 actions"),
        ({"obs": obs, "act": act + ACTIONS}, ValueError, "from 0 to 3"),
        ({"obs": "frames", "act": act}, ValueError, "array of numbers"),
        ({"start": 6}, ValueError, "from 0 to 5"),
        ({"start": -1}, ValueError, "from 0 to 5"),
        ({"start": 1.5}, ValueError, "must be an index"),
        ({"start": [0, 1]}, ValueError, "must be an index"),
        ({"begin": 0}, ValueError, "not 'begin'"),
    ):
        with pytest.raises(error, match=words) as caught:
            envs.reset(seed=9, options=options)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="3 rows need 3 seeds, got 2"):
        envs.reset(seed=[1, 2])
    for seed in (-1, 2**64, 1.5, [1.5, 2, 3], b"1", "1", True, np.float32(2), np.array([1.0, 2, 3]), [1, True, 2], {1}):
        with pytest.raises(ValueError, match="seed"):
            envs.reset(seed=seed)
    twin = vector_env(3)
    twin.restore_state(before)
    assert_equal(envs.step([0, 1, 2]), twin.step([0, 1, 2]))
