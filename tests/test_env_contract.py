"""The vector environments' contract: whatever the history, they do as a simple model of it."""

import pickle

import numpy as np
from gymnasium.vector import AutoresetMode
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from stub_envs import MODES, single_env, vector_env
from stubs import ACTIONS, make_starts

FRAMES = make_starts().obs


class Contract(RuleBasedStateMachine):
    """A vector environment beside a simple model of it: singles, and the rules of the three modes."""

    @initialize(mode=st.sampled_from(MODES), batch=st.integers(1, 3), horizon=st.sampled_from([1, 3, 6, -1]))
    def begin(self, mode, batch, horizon):
        self.mode, self.batch, self.horizon = mode, batch, horizon
        self.envs = vector_env(batch, autoreset_mode=mode, max_episode_steps=horizon)
        self.rows = [single_env(max_episode_steps=horizon) for _ in range(batch)]
        self.done, self.lengths, self.states = [False] * batch, [0] * batch, []
        self.reset(seed=1)

    @rule(seed=st.none() | st.integers(0, 5))
    def reset(self, seed):
        obs, info = self.envs.reset(seed=seed)
        singles = [row.reset(seed=None if seed is None else seed + i) for i, row in enumerate(self.rows)]
        for i, (frame, single_info) in enumerate(singles):
            np.testing.assert_array_equal(obs[i], frame)
            np.testing.assert_array_equal(obs[i], FRAMES[info["start"][i], -1])
            assert info["start"][i] == single_info["start"]
        self.obs, self.done, self.lengths = obs, [False] * self.batch, [0] * self.batch

    @rule(data=st.data(), seed=st.none() | st.integers(0, 5), given=st.booleans())
    def reset_some(self, data, seed, given):
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=self.batch, max_size=self.batch)))
        mask[data.draw(st.integers(0, self.batch - 1))] = True
        starts = make_starts()
        options = {"obs": starts.obs[1], "act": starts.act[1]} if given else {}
        obs, info = self.envs.reset(seed=seed, options={"reset_mask": mask, **options})
        assert info["_start"].tolist() == mask.tolist()
        for i in range(self.batch):
            if mask[i]:
                row_seed = None if seed is None else seed + i
                frame, single_info = self.rows[i].reset(seed=row_seed, options=options)
                assert info["start"][i] == single_info["start"]
                assert given == (info["start"][i] == -1)
                self.obs[i], self.done[i], self.lengths[i] = frame, False, 0
        np.testing.assert_array_equal(obs, self.obs)

    @precondition(lambda self: self.mode is not AutoresetMode.DISABLED or not any(self.done))
    @rule(data=st.data())
    def step(self, data):
        actions = np.array(data.draw(st.lists(st.integers(0, ACTIONS - 1), min_size=self.batch, max_size=self.batch)))
        obs, rewards, terminated, truncated, info = self.envs.step(actions)
        assert set(rewards.tolist()) <= {-1, 0, 1}
        for i, row in enumerate(self.rows):
            if self.done[i] and self.mode is AutoresetMode.NEXT_STEP:
                frame, single_info = row.reset()
                expected = (0.0, False, False)
                self.done[i], self.lengths[i] = False, 0
            else:
                frame, *expected, single_info = row.step(actions[i])
                expected = tuple(expected)
                self.lengths[i] += 1
                assert truncated[i] == (self.lengths[i] == self.horizon)
                self.done[i] = expected[1] or expected[2]
                if self.done[i] and self.mode is AutoresetMode.SAME_STEP:
                    np.testing.assert_array_equal(info["final_obs"][i], frame)
                    assert info["final_info"]["start"][i] == single_info["start"]
                    frame, single_info = row.reset()
                    self.done[i], self.lengths[i] = False, 0
            assert (rewards[i], terminated[i], truncated[i]) == expected
            assert info["start"][i] == single_info["start"]
            self.obs[i] = frame
        finals = (terminated | truncated) & (self.mode is AutoresetMode.SAME_STEP)
        assert ("final_obs" in info) == bool(finals.any())
        if finals.any():
            assert info["_final_obs"].tolist() == info["_final_info"].tolist() == finals.tolist()
        np.testing.assert_array_equal(obs, self.obs)

    @rule(include_rng=st.booleans())
    def clone(self, include_rng):
        states = [env.clone_state(include_rng) for env in (self.envs, *self.rows)]
        self.states.append((pickle.loads(pickle.dumps(states)), self.obs.copy(), [*self.done], [*self.lengths]))

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def restore(self, data):
        states, obs, done, lengths = data.draw(st.sampled_from(self.states))
        for env, state in zip((self.envs, *self.rows), states, strict=True):
            env.restore_state(state)
        self.obs, self.done, self.lengths = obs.copy(), [*done], [*lengths]

    @precondition(lambda self: len(self.states) < 3)
    @rule()
    def pickle(self):
        self.envs = pickle.loads(pickle.dumps(self.envs))


TestContract = Contract.TestCase
TestContract.settings = settings(max_examples=25, stateful_step_count=20)
