"""Dreams for Stable-Baselines3: held to its own DummyVecEnv, in its wrappers and its algorithms."""

import warnings

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)
from stub_envs import assert_equal
from stubs import ACTIONS, StubWorldModel, make_starts, save_tiny_model

from diamond_gym.envs import DreamEnv, DreamVectorEnv
from diamond_gym.errors import BadArgument, DiamondGymError, ModelNotFound
from diamond_gym.sb3 import DreamVecEnv, make_dream_vec_env

SIDE = 36  # the least that SB3's CnnPolicy takes


def make(n_envs=3, size=8, end_bias=0.0, **kwargs):
    model = StubWorldModel(size=size, end_bias=end_bias)
    return make_dream_vec_env("DiamondDream-v0", n_envs, model=model, **kwargs)


@pytest.mark.parametrize("trajectory", [False, True])
def test_equals_dummy_vec_env_of_singles(trajectory):
    """Frames, rewards, dones, infos, terminal observations and reset infos over whole dreams."""
    kwargs = {"max_episode_steps": 6, "denoising_trajectory": trajectory}
    ours = make(**kwargs)
    theirs = DummyVecEnv([lambda: DreamEnv(model=StubWorldModel(), **kwargs)] * 3)
    assert ours.seed(11) == theirs.seed(11) == [11, 12, 13]
    assert_equal(ours.reset(), theirs.reset())
    rng, ends = np.random.default_rng(0), set()
    for _ in range(40):
        actions = rng.integers(0, ACTIONS, 3)
        step, expected = ours.step(actions), theirs.step(actions)
        assert_equal(step[:3], expected[:3])
        for info, expected_info in zip(step[3], expected[3], strict=True):
            assert_equal(info, expected_info)
            if "terminal_observation" in info:
                ends.add(info["TimeLimit.truncated"])
        for info, expected_info in zip(ours.reset_infos, theirs.reset_infos, strict=True):
            assert_equal(info, expected_info)
    assert ends == {True, False}
    assert_equal(ours.reset(), theirs.reset())
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space


def test_a_death_at_the_horizon_is_not_a_time_out():
    envs = make(end_bias=50.0, max_episode_steps=1)
    envs.reset()
    _, _, dones, infos = envs.step(np.zeros(3, dtype=int))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * 3
    envs = make(end_bias=-50.0, max_episode_steps=1)
    envs.reset()
    assert [info["TimeLimit.truncated"] for info in envs.step(np.zeros(3, dtype=int))[3]] == [True] * 3


def test_options_for_the_next_reset():
    envs, starts = make(2), make_starts()
    envs.set_options({"start": 4})
    envs.reset()
    assert [info["start"] for info in envs.reset_infos] == [4, 4]
    envs.set_options([{"start": 1}, {"start": 5}])
    envs.reset()
    assert [info["start"] for info in envs.reset_infos] == [1, 5]
    envs.set_options([{"obs": starts.obs[i], "act": starts.act[i]} for i in (2, 3)])
    np.testing.assert_array_equal(envs.reset(), starts.obs[[2, 3], -1])
    envs.reset()
    assert all(info["start"] >= 0 for info in envs.reset_infos)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ([{"start": 1}, {}], ValueError, "same kind for every row"),
        ([{"start": 1}], ValueError, "2 rows need 2 dictionaries of options, got 1"),
        (5, TypeError, "options must be a dictionary, got int"),
        ([{"start": 1}, 5], TypeError, "options must be a dictionary, got int"),
        ([{"start": 1}, {"start": [1, 2]}], ValueError, "same shape"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(options, error, message):
    envs = make(2)
    envs.set_options({"start": 4})
    with pytest.raises(error, match=message):
        envs.set_options(options)
    envs.reset()
    assert [info["start"] for info in envs.reset_infos] == [4, 4], "those that were set before"


def test_a_reset_that_is_refused_is_forgotten():
    envs = make(2)
    envs.seed(1)
    first = envs.reset()
    for spoil in (lambda: envs.set_options({"start": 999}), lambda: envs.seed(-5)):
        envs.seed(1)
        spoil()
        with pytest.raises(ValueError, match="must be"):
            envs.reset()
        assert envs.reset().shape == (2, 8, 8, 3)
    envs.seed(1)
    np.testing.assert_array_equal(envs.reset(), first)


def test_seeding():
    envs, other = make(), make()
    assert len(set(envs.seed())) == 3
    envs.seed(5)
    first = envs.reset()
    assert not np.array_equal(envs.reset(), first) or not np.array_equal(envs.reset(), first)
    envs.seed(5)
    np.testing.assert_array_equal(envs.reset(), first)
    other.seed(4)
    np.testing.assert_array_equal(other.reset()[1:], first[:2])


def test_attributes_and_methods():
    envs = make(3, render_mode="rgb_array")
    envs.reset()
    assert envs.get_attr("render_mode") == ["rgb_array"] * 3
    assert envs.get_attr("spec", 1)[0].id == "DiamondDream-v0"
    assert envs.get_attr("observation_space", [0, 2]) == [envs.observation_space] * 2
    assert envs.get_attr("action_space") == [gym.spaces.Discrete(ACTIONS)] * 3
    assert envs.has_attr("world_model")
    assert not envs.has_attr("no_such_thing")
    envs.set_attr("horizon", 7)
    assert envs.envs.horizon == 7
    state = envs.env_method("clone_state", include_rng=True)[0]
    expected = envs.step(np.zeros(3, dtype=int))[0]
    envs.env_method("restore_state", state, indices=[0, 1, 2])
    np.testing.assert_array_equal(envs.step(np.zeros(3, dtype=int))[0], expected)
    assert envs.env_method("render")[1].shape == (8, 8, 3)
    for call in (lambda: envs.set_attr("horizon", 3, 0), lambda: envs.env_method("render", indices=[1])):
        with pytest.raises(ValueError, match="share one model"):
            call()
    assert envs.env_is_wrapped(Monitor) == [False] * 3
    assert envs.env_is_wrapped(Monitor, 0) == [False]


def test_attributes_as_single_environments_have_them():
    """Held to SB3's DummyVecEnv where that has them; what the batch refuses is refused."""
    ours, theirs = (
        make(2, end_bias=-20.0, max_episode_steps=2),
        DummyVecEnv([lambda: DreamEnv(model=StubWorldModel())] * 2),
    )
    for name in ("render_mode", "observation_space", "action_space", "get_action_meanings"):
        for rows in (None, 1, -1, [1, 0], (0,)):
            mine, other = ours.get_attr(name, rows), theirs.get_attr(name, rows)
            assert [each() if callable(each) else each for each in mine] == [
                each() if callable(each) else each for each in other
            ]
    for envs in (ours, theirs):
        envs.set_attr("level", [1, 2])  # one value, for each row
        assert envs.get_attr("level") == [[1, 2], [1, 2]] and envs.get_attr("level", 1) == [[1, 2]]
        for rows in (2, -3, [0, 7]):
            with pytest.raises(IndexError):
                envs.get_attr("render_mode", rows)
    assert ours.has_attr("reset") and ours.has_attr("horizon") and not ours.has_attr("no_such_thing")
    ours.reset()
    ours.step(np.zeros(2, int))
    assert ours.get_attr("ended") == [False, False] and ours.get_attr("ended", [1]) == [False]
    for name in ("num_envs", "ended", "step"):
        with pytest.raises(BadArgument, match=f"{name} cannot be set"):
            ours.set_attr(name, 5)
    for call in (lambda: ours.set_attr("horizon", 3, [0, 1, 2]), lambda: ours.env_is_wrapped(Monitor, 2),
                 lambda: ours.env_method("render", indices=[7])):  # fmt: skip
        with pytest.raises(IndexError, match="there is no row"):
            call()
    assert ours.step(np.zeros(2, int))[2].all(), "two steps, as before"


def test_images():
    envs = make(3, render_mode="rgb_array")
    obs = envs.reset()
    np.testing.assert_array_equal(np.stack(envs.get_images()), obs)
    assert envs.render().shape == (16, 16, 3)
    assert envs.metadata["render_fps"] == 15
    blind = make(2)
    blind.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert blind.get_images() == [None, None]


def test_wrappers(tmp_path):
    envs = VecMonitor(make(3, max_episode_steps=5), str(tmp_path / "monitor"))
    envs = VecCheckNan(VecFrameStack(envs, 4), raise_exception=True)
    obs = envs.reset()
    assert obs.shape == (3, 8, 8, 12)
    episodes = []
    for t in range(20):
        obs, _, dones, infos = envs.step(np.full(3, t % ACTIONS))
        for done, info in zip(dones, infos, strict=True):
            assert ("episode" in info) == done
            if done:
                episodes.append(info["episode"]["l"])
                assert info["terminal_observation"].shape == (8, 8, 12)
    assert 1 <= min(episodes) <= max(episodes) == 5
    transposed = VecTransposeImage(make(2, max_episode_steps=1))
    assert transposed.reset().shape == (2, 3, 8, 8)
    assert transposed.step(np.zeros(2, dtype=int))[3][0]["terminal_observation"].shape == (3, 8, 8)
    normal = VecNormalize(make(2), norm_obs=False)
    normal.reset()
    assert normal.step(np.zeros(2, dtype=int))[1].dtype == np.float32
    assert normal.unwrapped.num_envs == 2


def test_video_recorder(tmp_path):
    pytest.importorskip("moviepy")
    envs = VecVideoRecorder(make(2, size=32, render_mode="rgb_array"), str(tmp_path), lambda s: s == 0, video_length=4)
    envs.reset()
    for _ in range(6):
        envs.step(np.zeros(2, dtype=int))
    envs.close()
    assert len(list(tmp_path.glob("*.mp4"))) == 1


def test_the_checker_of_sb3_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(DreamEnv(model=StubWorldModel(size=SIDE), render_mode="rgb_array"), warn=True)
        check_env(gym.make("DiamondDream-v0", model=StubWorldModel(size=SIDE)), warn=True)


ALGORITHMS = {
    PPO: {"n_steps": 8, "batch_size": 8, "n_epochs": 1},
    A2C: {"n_steps": 4},
    DQN: {"buffer_size": 200, "learning_starts": 8, "train_freq": 4, "batch_size": 8},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.__name__)
def test_algorithms_learn_in_dreams(algorithm, tmp_path):
    envs = VecMonitor(make(2, size=SIDE, max_episode_steps=6))
    agent = algorithm("CnnPolicy", envs, seed=0, device="cpu", **ALGORITHMS[algorithm])
    before = {k: v.clone() for k, v in agent.policy.state_dict().items()}
    agent.learn(40)
    assert any(not v.equal(before[k]) for k, v in agent.policy.state_dict().items())
    assert len(agent.ep_info_buffer) > 0
    agent.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=make(2, size=SIDE, max_episode_steps=6), device="cpu")
    mean, _ = evaluate_policy(loaded, VecMonitor(make(2, size=SIDE, max_episode_steps=6)), n_eval_episodes=3)
    assert -6 <= mean <= 6


def test_recurrent_ppo_learns_in_dreams():
    contrib = pytest.importorskip("sb3_contrib")
    envs = make(2, size=SIDE, max_episode_steps=6)
    kwargs = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"lstm_hidden_size": 8}}
    contrib.RecurrentPPO("CnnLstmPolicy", envs, seed=0, device="cpu", **kwargs).learn(16)


def test_a_registered_model(home):
    save_tiny_model("mine", "Pong")
    for id in ("DiamondDream-Pong-v0", "DiamondDream-mine-v0"):
        envs = make_dream_vec_env(id, 2, device="cpu", precision="float32", num_denoising_steps=1)
        assert envs.reset().shape == (2, 16, 16, 3)
        envs.close()
        with pytest.raises(gym.error.ClosedEnvironmentError):
            envs.reset()


def test_bad_arguments():
    model = StubWorldModel()
    for args, kwargs, error, words in (
        (("DiamondDream-v0", 0), {"model": model}, BadArgument, "n_envs must be .* got 0"),
        (("DiamondDream-v0", "4"), {"model": model}, BadArgument, "n_envs must be .* got '4'"),
        (("DiamondDream-v0", 2), {}, DiamondGymError, "which dream"),
        (("DiamondDream-Hero-v0", 2), {}, ModelNotFound, "train-wm --game Hero"),
        (
            ("DiamondDream-v0", 2),
            {"model": model, "autoreset_mode": "NextStep"},
            BadArgument,
            "autoreset_mode",
        ),
        (
            ("DiamondDream-v0", 2),
            {"model": model, "render_mode": "rgb_array_tiled"},
            BadArgument,
            'use render_mode="rgb_array"',
        ),
        (("CartPole-v1", 2), {}, BadArgument, "not a dream"),
        (("DiamondDream-Brekaout-v0", 2), {}, gym.error.Error, "DiamondDream-Brekaout"),
    ):
        with pytest.raises(error, match=words):
            make_dream_vec_env(*args, **kwargs)
    with pytest.raises(BadArgument, match="SameStep"):
        DreamVecEnv(DreamVectorEnv(model=model))
