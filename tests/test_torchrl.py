"""TorchRL's GymEnv over a dream: single ones by their id, and batches."""

import gymnasium as gym
import pytest
import torch
from stubs import ACTIONS, SIZE, StubWorldModel

import diamond_gym  # noqa: F401

pytest.importorskip("torchrl")

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchrl.envs import GymEnv, GymWrapper, StepCounter, TransformedEnv, set_gym_backend
    from torchrl.envs.utils import check_env_specs

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _gymnasium():
    with set_gym_backend("gymnasium"):
        yield


def test_gym_env():
    env = GymEnv("DiamondDream-v0", model=StubWorldModel(), max_episode_steps=6, categorical_action_encoding=True)
    check_env_specs(env, seed=0)
    assert env.observation_spec["pixels"].shape == (SIZE, SIZE, 3)
    assert env.observation_spec["pixels"].dtype == torch.uint8
    assert env.action_spec.space.n == ACTIONS
    env.set_seed(0)
    rollout = TransformedEnv(env, StepCounter()).rollout(30, break_when_any_done=False)
    assert rollout.shape == (30,)
    done = rollout["next", "done"].flatten()
    assert done.any()
    assert rollout["next", "step_count"].max() <= 6
    assert set(rollout["next", "reward"].flatten().tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(done, (rollout["next", "terminated"] | rollout["next", "truncated"]).flatten())


def test_seeds_agree_with_gymnasium():
    ours = gym.make("DiamondDream-v0", model=StubWorldModel(), max_episode_steps=6)
    env = GymEnv("DiamondDream-v0", model=StubWorldModel(), max_episode_steps=6, categorical_action_encoding=True)
    env.set_seed(3, static_seed=True)
    ours.reset(seed=3)  # as set_seed does
    expected, _ = ours.reset()
    assert torch.equal(env.reset()["pixels"], torch.as_tensor(expected))


def test_wrapped_after_make():
    env = GymWrapper(gym.make("DiamondDream-v0", model=StubWorldModel(), max_episode_steps=4))
    assert env.rollout(10).shape[0] <= 4
    env.close()


def test_torchrl():
    env = GymWrapper(gym.make("DiamondDream-v0", model=StubWorldModel()), device="cpu")
    check_env_specs(env)
    assert env.rollout(5)["next", "reward"].shape[-1] == 1
