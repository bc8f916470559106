"""The replay memory of Stable-Baselines3's DQN: stored with each frame once, and cut where a sitting ended."""

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from diamond_gym.trainers.sb3_replay import cut_replay, load_replay_state, replay_state

KEPT = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def filled(steps, frame_stack, rows=2, size=8, seed=0):
    """A buffer as SB3 fills it: so many steps of rows that end at random, some of them by a limit."""
    space, acts = spaces.Box(0, 255, (3 * frame_stack, 4, 4), np.uint8), spaces.Discrete(3)
    buffer = NStepReplayBuffer(size * rows, space, acts, device="cpu", n_envs=rows, n_steps=3, gamma=0.5)
    rng = np.random.default_rng(seed)

    def frame():
        return rng.integers(256, size=(rows, 3, 4, 4), dtype=np.uint8)

    stack = np.concatenate((np.zeros((rows, 3 * (frame_stack - 1), 4, 4), np.uint8), frame()), axis=1)
    for _ in range(steps):
        done, limit = rng.random(rows) < 0.3, rng.random(rows) < 0.5
        after = np.concatenate((stack[:, 3:], frame()), axis=1)
        infos = [{"TimeLimit.truncated": bool(over)} for over in done & limit]
        buffer.add(stack, after, rng.integers(3, size=rows), rng.normal(size=rows), done, infos)
        stack = after.copy()
        stack[done] = 0
        stack[done, -3:] = frame()[done]
    return buffer


@pytest.mark.parametrize("frame_stack", [1, 2, 4])
@pytest.mark.parametrize("steps", [0, 1, 5, 8, 21])
def test_a_buffer_is_stored_with_each_frame_once(steps, frame_stack):
    buffer, copy = filled(steps, frame_stack), filled(0, frame_stack)
    state = replay_state(buffer, 3)
    load_replay_state(copy, state)
    assert (copy.pos, copy.full) == (buffer.pos, buffer.full)
    for name in KEPT:
        np.testing.assert_array_equal(getattr(copy, name), getattr(buffer, name))
    assert state["frames"].nbytes == min(steps, 8) * 2 * 3 * 4 * 4
    assert len(state["finals"]) <= 2 * 8


def test_no_return_reaches_over_a_cut():
    buffer = filled(5, 1)
    buffer.dones[:], buffer.timeouts[:], buffer.rewards[:] = 0, 0, 1
    cut_replay(buffer)
    other = filled(3, 1, seed=1)
    buffer.add(other.observations[0], other.next_observations[0], np.zeros(2), np.full(2, 100.0), np.zeros(2), [{}, {}])
    found = buffer._get_samples(np.array([2, 3, 4]))
    assert found.rewards.flatten().tolist() == [1.75, 1.5, 1]
    assert not found.dones.any()
    cut_replay(ReplayBuffer(4, buffer.observation_space, buffer.action_space, n_envs=2))  # an empty one
