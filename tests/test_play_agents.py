"""Agents of Stable-Baselines3 in `play`: they do what their policies sample, whatever the kind of their actions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("stable_baselines3")

from stable_baselines3.common.policies import ActorCriticCnnPolicy, BasePolicy
from stable_baselines3.sac.policies import CnnPolicy

from diamond_gym.action_spaces import codec_of_space
from diamond_gym.play.agent import SavedAgentLooksOn
from diamond_gym.trainers.sb3_files import SavedAgent

SIDE, DRAWS = 36, 1500
SPACES = {
    "buttons": spaces.MultiBinary(3),
    "choices": spaces.MultiDiscrete([3, 2]),
    "numbers": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.5], np.float32)),
    "one number": spaces.Discrete(4),
}
FRAME = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8)
WINDOW = torch.zeros(4, 1, SIDE, SIDE)


def saved(space: spaces.Space, kind: type[BasePolicy] = ActorCriticCnnPolicy, **keywords: object) -> SavedAgent:
    """An agent that was never trained, but whose heads are not zero."""
    torch.manual_seed(0)
    seen = spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8)
    policy = kind(seen, space, lambda _: 1e-3, **keywords)
    policy.set_training_mode(False)
    head = policy.actor.mu if hasattr(policy, "actor") else policy.action_net
    torch.nn.init.normal_(head.weight, std=0.5)
    return SavedAgent(Path("agent.zip"), policy, 1, (SIDE, SIDE), codec_of_space(space, "it"), 0.0, None)


def moments(draws: list[np.ndarray]) -> np.ndarray:
    """Means and standard deviations of each part."""
    parts = np.array(draws, np.float64).reshape(len(draws), -1)
    return np.concatenate((parts.mean(0), parts.std(0)))


@pytest.mark.parametrize(("name", "kind"), [*((name, ActorCriticCnnPolicy) for name in SPACES), ("numbers", CnnPolicy)])
def test_it_draws_as_its_policy_samples(name: str, kind: type[BasePolicy]) -> None:
    agent = saved(SPACES[name], kind)
    onlooker = SavedAgentLooksOn(agent)
    chances, value = onlooker.see(FRAME, WINDOW, True)
    assert (value is None) == (kind is CnnPolicy)
    drawn = [onlooker.draw(np.random.default_rng(i)) for i in range(DRAWS)]
    assert all(SPACES[name].contains(np.int64(act) if isinstance(act, int) else act) for act in drawn)
    torch.manual_seed(1)
    many = np.repeat(FRAME[None], DRAWS, axis=0)
    sampled, _ = agent.policy.predict(many, deterministic=False)
    assert moments(drawn) == pytest.approx(moments(list(sampled)), abs=0.12)  # four standard errors at most
    if name == "buttons":
        assert np.array(drawn).mean(0) == pytest.approx(chances, abs=0.04) and len(chances) == 3
    else:
        assert len(chances) == (4 if name == "one number" else 0)
    assert np.array_equal(onlooker.draw(np.random.default_rng(5)), drawn[5])


def test_exploration_that_depends_on_the_state_is_drawn_too() -> None:
    onlooker = SavedAgentLooksOn(saved(SPACES["numbers"], use_sde=True, squash_output=False))
    onlooker.see(FRAME, WINDOW, True)
    drawn = [onlooker.draw(np.random.default_rng(i)) for i in range(20)]
    assert all(SPACES["numbers"].contains(act) for act in drawn) and moments(drawn)[2:].min() > 0
