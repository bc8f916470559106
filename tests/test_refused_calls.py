"""After any refused call an environment goes on as if the call had not been made: dreams and real games."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stub_envs import assert_equal, single_env, vector_env
from stubs import ACTIONS, make_starts

REFUSED = (ValueError, TypeError, gym.error.Error)

NO_SEEDS = [
    1.5,
    [1.5],
    b"1",
    "1",
    True,
    -1,
    2**64,
    [0, -1],
    [1, 2, 3, 4],
    {},
    np.float64(1),
    np.array(1.0),
    [None, "a"],
]
NO_SEEDS += [np.array([[1, 2]]), [True, False], torch.tensor(1), float("nan"), 10**5000, [2**64, 0], object()]
NO_OPTIONS = [5, [1], "start", {"start": -1}, {"start": 10**6}, {"start": 1.5}, {"start": [0, 1, 2]}, {"begin": 1}]
NO_OPTIONS += [{"obs": make_starts().obs[0]}, {"obs": "x", "act": "y"}, {"start": None, "act": [0, 1, 2]}]
NO_OPTIONS += [{"obs": make_starts().obs[0], "act": make_starts().act[0] + ACTIONS}, {"start": "first"}]
NO_OPTIONS += [{"obs": make_starts().obs[0, 1:], "act": make_starts().act[0]}, {"start": np.array([[0, 1]])}]
NO_MASKS = [np.zeros(2, bool), np.ones(3, bool), np.ones(2), [True, False], True, "all", np.ones((2, 1), bool), 1]
NO_ACTIONS = [None, -1, ACTIONS, 1.0, "a", [0], [0, 0, 0], [[0, 0]], [0, ACTIONS], [0.0, 1.0], [None, 0], [-1, 0]]
NO_ACTIONS += [2**70, [0, 2**70], {}, object(), np.array([0, 1], np.float32), np.array([True, False]), [[0], [0, 1]]]
NO_ACTIONS += [np.uint64(2**63), float("nan")]


def damages(state: Any) -> list[Any]:
    """What is no state: other things, and the state with a part of it replaced by another thing."""
    bad: list[Any] = [None, {}, 5, "state", object(), type(state)]
    holder = state.dream if hasattr(state, "dream") else state.rows[-1]

    def put(part: Any) -> Any:
        if hasattr(state, "dream"):
            return dataclasses.replace(state, dream=part)
        return dataclasses.replace(state, rows=(*state.rows[:-1], part))

    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        others: list[Any] = ["damaged", -1, 1.5, [], object(), np.zeros(2)]
        if isinstance(value, torch.Tensor):
            others += [value[:0], value[None], value.to(torch.float64)]
            others += [value / 0] if value.is_floating_point() else [value - 1000]
        if isinstance(value, tuple):
            others += [
                value[:1],
                tuple(part * float("nan") for part in value),
                tuple(part[..., :1] for part in value),
                None,
            ]
        if isinstance(value, dict):
            others += [{}, *({**value, name: None} for name in value), dict(list(value.items())[:1])]
        bad += [put(dataclasses.replace(holder, **{field.name: other})) for other in others if other is not value]
    bad += [put(part) for part in (None, 5, {}, state)]
    return bad


class Pair:
    """An environment, its untouched twin, and how both are used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.env, self.twin = make(), make()
        self.calls = 0
        self.batch = hasattr(self.env, "num_envs")

    def both(self, call: Callable[[Any], Any]) -> None:
        self.calls += 2
        assert_equal(call(self.env), call(self.twin))

    def go_on(self, action: int) -> None:
        self.calls += 2
        act = np.array([action, ACTIONS - 1 - action]) if self.batch else action
        try:
            expected = self.twin.step(act)
        except gym.error.ResetNeeded:
            with pytest.raises(gym.error.ResetNeeded):
                self.env.step(act)
            self.both(lambda env: env.reset())
        else:
            assert_equal(self.env.step(act), expected)

    def refuses(self, data: st.DataObject) -> None:
        """One call that has to be refused."""
        kind = data.draw(st.sampled_from(["seed", "options", "mask", "action", "state"]))
        if kind == "seed":
            values = NO_SEEDS if self.batch else [*NO_SEEDS, [1, 2]]
        elif kind == "options":
            values = NO_OPTIONS  # a real game has none of those of dreams
        elif kind == "mask":
            values = NO_MASKS if self.batch else [*NO_MASKS, np.ones(2, bool)]
        else:
            values = NO_ACTIONS if kind == "action" else damages(self.state())
        value = data.draw(st.sampled_from(values))
        calls: dict[str, Callable[[Any], Any]] = {
            "seed": lambda env: env.reset(seed=value),
            "options": lambda env: env.reset(seed=3, options=value),
            "mask": lambda env: env.reset(options={"reset_mask": value}),
            "action": lambda env: env.step(value),
            "state": lambda env: env.restore_state(value),
        }
        self.calls += 1
        with pytest.raises(REFUSED) as caught:
            calls[kind](self.env)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500

    @property
    def real(self) -> bool:
        return type(self.env).__module__.startswith("diamond_gym.envs.atari")

    def state(self) -> Any:
        """A state of this kind of environment."""
        try:
            return self.twin.clone_state(include_rng=True)
        except gym.error.ResetNeeded:
            other = copy.deepcopy(self.twin)
            other.reset(seed=0)
            return other.clone_state(include_rng=True)


def real(batch: bool) -> Any:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    from diamond_gym.envs import RealEnv
    from diamond_gym.envs.atari import RealVectorEnv

    return RealVectorEnv(game="Breakout", num_envs=2, max_episode_steps=6) if batch else RealEnv(game="Breakout")


KINDS: dict[str, Callable[[], Any]] = {
    "dream": single_env,
    "dreams": lambda: vector_env(2, max_episode_steps=4),
    "dreams, same step": lambda: vector_env(2, autoreset_mode="SameStep", max_episode_steps=4),
    "dreams, disabled": lambda: vector_env(2, autoreset_mode="Disabled", max_episode_steps=4),
    "real": lambda: real(batch=False),
    "reals": lambda: real(batch=True),
}


def check(pair: Pair, calls: int, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for each in (pair.env, pair.twin):  # the first reset of each example, perhaps after a refused one, is unseeded too
        each._np_random = copy.deepcopy(np.random.Generator(np.random.PCG64(1)))
    for _ in range(data.draw(st.integers(0, 2))):
        pair.refuses(data)
    seed = data.draw(st.integers(0, 2**62))
    pair.both(lambda env: env.reset(seed=seed))
    for _ in range(calls):
        for _ in range(data.draw(st.integers(0, 2))):
            pair.refuses(data)
        pair.go_on(int(random.integers(ACTIONS)))
    assert_equal(pair.env.np_random.bit_generator.state, pair.twin.np_random.bit_generator.state)


QUICK = {"deadline": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.explicit, Phase.generate]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_call_changes_nothing(kind: str) -> None:
    pair = Pair(KINDS[kind])

    @settings(max_examples=6, derandomize=True, database=None, **QUICK)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(pair, 4, data)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_refused_calls_change_nothing(kind: str) -> None:
    """At least 3,000 calls over all kinds."""
    pair = Pair(KINDS[kind])

    @settings(max_examples=60, database=None, **QUICK)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(pair, 6, data)

    run()
    assert pair.calls >= 3000 / len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_integers_of_all_kinds_are_seeds(kind: str) -> None:
    env = KINDS[kind]()
    seeds: list[Any] = [7, np.int64(7), np.uint8(7), np.int32(7)]
    if hasattr(env, "num_envs"):
        seeds += [[7, 8], (np.int64(7), 8), np.array([7, 8]), np.array([7, 8], np.uint64)]
    first = env.reset(seed=7)
    for seed in seeds:
        assert_equal(env.reset(seed=seed), first)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_options_of_unsigned_numbers(dtype: type[np.unsignedinteger]) -> None:
    """Torch can compare only the first of these."""
    starts, env = make_starts(), KINDS["dream"]()
    given = {"obs": starts.obs[0], "act": starts.act[0]}
    obs, _ = env.reset(seed=0, options=given)
    again, _ = env.reset(seed=0, options=given | {"act": starts.act[0].astype(dtype)})
    assert_equal(again, obs)
    assert env.reset(seed=0, options={"start": np.array(1, dtype)})[1]["start"] == 1
    with pytest.raises(ValueError, match="must be actions from 0 to"):
        env.reset(options=given | {"act": np.full_like(starts.act[0], 200, dtype)})
    if dtype is np.uint64:
        with pytest.raises(ValueError, match="must be actions from 0 to"):
            env.reset(options=given | {"act": np.full(len(starts.act[0]), 2**64 - 1, dtype)})


def test_the_first_reset_goes_on_after_a_refused_one() -> None:
    """No start is drawn, and no random stream moves, by a reset that was refused before the first one."""
    for kind in ("dream", "dreams"):
        env = KINDS[kind]()
        env.np_random = np.random.default_rng(0)
        twin = pickle.loads(pickle.dumps(env))
        with pytest.raises(ValueError, match="obs must be"):
            env.reset(options={"obs": make_starts().obs[0, 1:], "act": make_starts().act[0]})
        assert_equal(env.reset(), twin.reset())
