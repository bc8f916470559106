"""Real games continued: pickled, copied, cloned and restored; closed; and the same single as in a batch."""

import copy
import dataclasses
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stub_envs import assert_equal

import diamond_gym  # noqa: F401  (registers the ids)

pytest.importorskip("ale_py")
pytest.importorskip("cv2")

from diamond_gym.envs import RealEnv
from diamond_gym.envs.atari import RealVectorEnv


def steps(env: Any, seed: int, count: int, reset: bool = True) -> list[Any]:
    """What an environment does under random actions; a single one begins anew where an episode ends."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(count):
        shape = getattr(env, "num_envs", None)
        stepped = env.step(rng.integers(0, 4, shape))
        seen.append(stepped)
        if shape is None and (stepped[2] or stepped[3]) and reset:
            seen.append(env.reset())
    return seen


@pytest.mark.parametrize("life_loss", [False, True])
@pytest.mark.parametrize("game", ["Breakout", "Assault"])
def test_a_row_plays_what_a_single_game_plays(game: str, life_loss: bool) -> None:
    """Assault begins otherwise after one game than after another, if ALE is not brought back to its power-on."""
    id, keywords = f"DiamondReal-{game}-v0", {"terminal_on_life_loss": life_loss}
    envs = gym.make_vec(id, 2, autoreset_mode="Disabled", **keywords)
    singles = [gym.make(id, **keywords) for _ in range(2)]
    obs, info = envs.reset(seed=11)
    for row, env in enumerate(singles):
        first, given = env.reset(seed=11 + row)
        np.testing.assert_array_equal(first, obs[row])
        assert given == {name: info[name][row] for name in given}
    rng, ends, rewarded = np.random.default_rng(0), 0, 0
    for _ in range(300):
        act = rng.integers(0, 4, 2)
        obs, rewards, terminated, truncated, info = envs.step(act)
        for row, env in enumerate(singles):
            frame, reward, end, trunc, given = env.step(act[row])
            np.testing.assert_array_equal(frame, obs[row])
            assert (reward, end, trunc) == (rewards[row], terminated[row], truncated[row])
            assert given == {name: info[name][row] for name in given}
            rewarded += reward > 0
        over = terminated | truncated
        if over.any():
            ends += int(over.sum())
            obs, _ = envs.reset(options={"reset_mask": over})
            for row in np.flatnonzero(over):
                np.testing.assert_array_equal(singles[row].reset()[0], obs[row])
    assert rewarded
    assert ends >= life_loss


@pytest.mark.parametrize("game", ["Breakout", "Qbert"])
def test_copies_play_on_as_the_original_does(game: str) -> None:
    """ALE's own state forgets how Breakout is drawn after some 300 steps, and how Q*bert goes on at all."""
    env = gym.make(f"DiamondReal-{game}-v0", render_mode="rgb_array")
    env.reset(seed=3)
    steps(env, 0, 100)
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    state = env.unwrapped.clone_state(include_rng=True)
    for other in copies:
        np.testing.assert_array_equal(other.render(), env.render())
        assert other.spec == env.spec
    expected = [*steps(env, 1, 60), env.reset(), env.reset(), *steps(env, 2, 3)]
    branch = RealEnv(game=game)
    branch.restore_state(pickle.loads(pickle.dumps(state)))
    for other in (*copies, branch):
        assert_equal((*steps(other, 1, 60), other.reset(), other.reset(), *steps(other, 2, 3)), tuple(expected))
    assert copies[0].np_random.integers(1000) == env.np_random.integers(1000)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_copies_of_a_batch_play_on(mode: AutoresetMode) -> None:
    envs = RealVectorEnv(game="Breakout", num_envs=2, autoreset_mode=mode, max_episode_steps=20)
    pickle.loads(pickle.dumps(envs)).reset(seed=0)
    envs.reset(seed=0)
    steps(envs, 0, 20)
    assert envs.ended.all() is np.bool_(mode is not AutoresetMode.SAME_STEP)
    copies = [copy.deepcopy(envs), pickle.loads(pickle.dumps(envs))]
    begin = [envs, *copies] if mode is AutoresetMode.DISABLED else []
    for other in begin:
        other.reset()
    expected = tuple(steps(envs, 1, 19))
    for other in copies:
        assert_equal(tuple(steps(other, 1, 19)), expected)


def test_a_state_without_random_streams_meets_other_noops() -> None:
    env = RealEnv(game="Breakout")
    env.reset(seed=0)
    state = env.clone_state()
    numbers = {env.reset()[1]["episode_frame_number"] for _ in range(4)}
    env.restore_state(state)
    assert [env.reset()[1]["episode_frame_number"] for _ in range(3)] != list(numbers)[:3]
    assert len(numbers) > 1


def test_damaged_states_change_nothing() -> None:
    envs, twin = (RealVectorEnv(game="Breakout", num_envs=2, terminal_on_life_loss=True) for _ in range(2))
    for each in (envs, twin):
        each.reset(seed=0)
    for each in (envs, twin):
        steps(each, 0, 10)
    state, other = envs.clone_state(include_rng=True), RealEnv(game="Pong")
    other.reset(seed=0)
    good, row = state.rows

    def second(**changes: Any) -> Any:
        return dataclasses.replace(state, rows=(good, dataclasses.replace(row, **changes)))

    for bad in (
        None, {}, other.clone_state(), good, dataclasses.replace(state, game="Pong"),
        dataclasses.replace(state, rows=()),
        dataclasses.replace(state, life_ends=False), dataclasses.replace(state, rows=(good, None)),
        second(noops=-1), second(noops=1.5), second(noops=True), second(noops=10**9), second(frames_before="0"),
        second(actions=b"\x04"), second(actions=[1]), second(actions=bytes(10**5)), second(actions=bytes([1]) * 2000),
        second(rng={}), second(rng=[]), second(rng={**row.rng, "state": {"state": -1, "inc": 1}}),
        second(rng={**row.rng, "bit_generator": "MT19937"}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="state") as caught:
            envs.restore_state(bad)
        assert "\n" not in str(caught.value)
    fresh = RealVectorEnv(game="Breakout", num_envs=2, terminal_on_life_loss=True)
    with pytest.raises(ValueError, match="it ended"):
        fresh.restore_state(second(actions=bytes([1]) * 2000))
    with pytest.raises(gym.error.ResetNeeded):
        fresh.step([0, 0])
    assert_equal(tuple(steps(envs, 1, 40)), tuple(steps(twin, 1, 40)))


def test_closed_games_say_so() -> None:
    for env, action in ((RealEnv(game="Pong"), 0), (RealVectorEnv(game="Pong", num_envs=2), np.zeros(2, np.int64))):
        env.reset(seed=0)
        state = env.clone_state()
        env.close()
        env.close()
        for use in (
            env.reset,
            env.render,
            env.clone_state,
            lambda e=env, a=action: e.step(a),
            lambda e=env, s=state: e.restore_state(s),
            lambda e=env: pickle.dumps(e),
        ):
            with pytest.raises(gym.error.ClosedEnvironmentError, match="closed: make a new one"):
                use()
