"""Dreams in the surroundings of users' scripts: another default dtype, inference mode."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from stub_envs import assert_equal
from stubs import save_tiny_model

import diamond_gym
from diamond_gym.envs import DreamEnv, DreamVectorEnv

TINY = {"model": "tiny", "device": "cpu", "precision": "float32"}


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def frames(env) -> tuple:
    seen = []
    for seed in range(3):
        env.reset(seed=seed)
        seen.append(env.step(np.zeros(env.action_space.shape, np.int64)))
    return tuple(seen)


@pytest.mark.parametrize("kind", [DreamEnv, DreamVectorEnv])
@pytest.mark.parametrize("options", [{}, {"quality": "fine"}, {"eta": 1.0, "s_cond": 0.01, "s_churn": 1.0}])
def test_the_default_dtype_changes_nothing(kind, options, float64) -> None:
    torch.set_default_dtype(torch.float32)
    save_tiny_model()
    expected, before = frames(kind(**TINY, **options)), kind(**TINY, **options)
    torch.set_default_dtype(torch.float64)
    assert_equal(frames(before), expected)
    assert_equal(frames(kind(**TINY, **options)), expected)


def test_networks_are_float32_whatever_the_default_is(float64) -> None:
    save_tiny_model()
    model = diamond_gym.load_world_model("tiny")
    assert {tensor.dtype for tensor in model.weights().values()} == {torch.float32}


@pytest.mark.parametrize("make_inside", [False, True])
@pytest.mark.parametrize("kind", ["single", "batch", "sb3", "dream"])
def test_what_began_in_inference_mode_goes_on_outside(kind: str, make_inside: bool) -> None:
    save_tiny_model()

    def make():
        if kind == "sb3":
            sb3 = pytest.importorskip("diamond_gym.sb3")
            return sb3.make_dream_vec_env("DiamondDream-v0", 2, **TINY)
        if kind == "dream":
            return diamond_gym.load_world_model("tiny", device="cpu", precision="float32").dream(2, seed=0)
        return DreamEnv(**TINY) if kind == "single" else DreamVectorEnv(**TINY, num_envs=2)

    def begin(env):
        if kind == "sb3":
            env.seed(0)
        return env.reset() if kind == "sb3" else env.reset(seed=0)

    def step(env):
        if kind == "dream":
            return env.step(torch.zeros(2, dtype=torch.int64)).obs.numpy()
        if kind == "single" and env.unwrapped._batch.ended.any():
            return env.reset()[0]
        return env.step(0 if kind == "single" else np.zeros(2, np.int64))[0]

    with torch.inference_mode(make_inside):
        env = make()
    with torch.inference_mode():
        begin(env)
        seen = [step(env)]
        state = None if kind == "sb3" else env.clone_state(True)
    seen += [step(env), step(env)]
    if state is not None:
        with torch.inference_mode():
            env.restore_state(state)
        np.testing.assert_array_equal(step(env), seen[1])
    other = make()
    begin(other)
    for frame in seen:
        np.testing.assert_array_equal(step(other), frame)
    with torch.inference_mode():
        begin(env)
    np.testing.assert_array_equal(step(env), seen[0])
