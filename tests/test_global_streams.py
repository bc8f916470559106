"""Nothing moves the global random streams of torch, NumPy and Python: they are the user's."""

import copy
import pickle
import random
from contextlib import contextmanager

import gymnasium as gym
import numpy as np
import pytest
import torch
from stubs import save_tiny_model

import diamond_gym
from diamond_gym import device, registry, world_model
from diamond_gym.registry.saving import export, remove
from diamond_gym.sb3 import make_dream_vec_env

WORDS = {"model": "tiny", "device": "cpu"}


def streams():
    numpys = np.random.get_state()  # noqa: NPY002  (the global one is what this is about)
    return [torch.get_rng_state().numpy().tobytes(), pickle.dumps(numpys), pickle.dumps(random.getstate())]


@contextmanager
def nothing_moves():
    before = streams()
    yield
    assert streams() == before


@pytest.fixture(autouse=True)
def model(monkeypatch, tmp_path):
    """A model, and nothing decided yet on this machine."""
    save_tiny_model()
    monkeypatch.setattr(device, "user_folder", lambda _: tmp_path / "cache")
    device.bfloat16_pays.cache_clear()
    yield
    device.bfloat16_pays.cache_clear()


def play(envs, vector):
    with nothing_moves():
        envs.reset(seed=3)
    with nothing_moves():
        envs.reset()
    with nothing_moves():
        for _ in range(3):
            done = envs.step(envs.action_space.sample())[2]
            if not vector and done:
                envs.reset()
    env = envs if vector else envs.unwrapped
    with nothing_moves():
        env.restore_state(env.clone_state(include_rng=True))
    with nothing_moves():
        copy.deepcopy(env).step(envs.action_space.sample())
    with nothing_moves():
        pickle.loads(pickle.dumps(env)).reset()
    with nothing_moves():
        envs.close()


@pytest.mark.parametrize("large", [False, True])
def test_loading(large, monkeypatch):
    if large:
        monkeypatch.setattr(world_model, "LARGE", 0)
    for _ in range(2):  # the first time is no other than the second
        with nothing_moves():
            diamond_gym.load_world_model("tiny")
    with nothing_moves():
        dream = diamond_gym.load_world_model("tiny", "cpu").dream(2)
        dream.reset()
        dream.step(torch.zeros(2, dtype=torch.int64))


def test_single_environments():
    for _ in range(2):
        with nothing_moves():
            env = gym.make("DiamondDream-v0", **WORDS)
        play(env, vector=False)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_batches(mode):
    with nothing_moves():
        envs = gym.make_vec("DiamondDream-v0", num_envs=2, autoreset_mode=mode, max_episode_steps=2, **WORDS)
    play(envs, vector=True)


def test_churning_and_ancestral_samplers():
    with nothing_moves():
        envs = gym.make_vec("DiamondDream-v0", num_envs=2, s_churn=1.0, s_cond=0.01, eta=0.5, **WORDS)
    play(envs, vector=True)


def test_the_bridge_to_stable_baselines3():
    with nothing_moves():
        envs = make_dream_vec_env("DiamondDream-v0", 2, **WORDS)
        envs.seed(3)
        envs.reset()
        for _ in range(3):
            envs.step(np.zeros(2, np.int64))
        envs.close()


def test_the_real_games_and_catch():
    pytest.importorskip("ale_py")
    for id in ("DiamondReal-Breakout-v0", "DiamondGym/Catch-v0"):
        with nothing_moves():
            env = gym.make(id)
            env.reset(seed=3)
            env.step(env.action_space.sample())
            env.reset()
            env.close()
    with nothing_moves():
        envs = gym.make_vec("DiamondReal-Breakout-v0", num_envs=2)
        envs.reset()
        envs.step(envs.action_space.sample())
        envs.close()


def test_the_registry(tmp_path):
    with nothing_moves():
        diamond_gym.register_ids()
        entry = registry.verify(registry.resolve("tiny"))
        export(entry, tmp_path / "exported")
        remove("tiny")


def test_an_agents_file(tmp_path):
    from diamond_gym.trainers.policies import own_file

    with nothing_moves():
        assert own_file(registry.resolve("breakout-nano"), "cpu") is not None


def test_an_agents_weights_do_not_depend_on_dreams():
    def weights(dreams):
        torch.manual_seed(0)
        for _ in range(dreams):
            gym.make("DiamondDream-v0", **WORDS).reset(seed=0)
        return torch.nn.Linear(3, 3).weight

    assert weights(0).equal(weights(1)) and weights(0).equal(weights(2))
