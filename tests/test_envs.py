"""The environments' contract, held against singles, SyncVectorEnv and a simple model of it."""

import copy
import gc
import itertools
import pickle
import weakref

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from stubs import ACTIONS, StubWorldModel, make_starts, save_tiny_model

from diamond_gym.envs import DreamEnv, DreamVectorEnv
from diamond_gym.errors import BadArgument, DiamondGymError, ModelNotFound
from diamond_gym.sampler import QUALITIES, SamplerConfig

MODES = list(AutoresetMode)
FRAMES = make_starts().obs


def vector_env(num_envs=3, end_bias=0.0, **kwargs):
    return DreamVectorEnv(model=StubWorldModel(end_bias=end_bias), num_envs=num_envs, **kwargs)


def single_env(end_bias=0.0, **kwargs):
    return DreamEnv(model=StubWorldModel(end_bias=end_bias), **kwargs)


def assert_equal(ours, theirs):
    """Deep equality, of types, dtypes and shapes too."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype == object:
            for a, b in zip(ours, theirs, strict=True):
                assert_equal(a, b)
        else:
            np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize("trajectory", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("mode", MODES)
def test_equals_sync_vector_env_of_singles(mode, batch, trajectory):
    """Whole episodes, infos and masks included: the native batch is SyncVectorEnv of its rows."""
    kwargs = {"max_episode_steps": 7, "denoising_trajectory": trajectory}
    ours = vector_env(batch, autoreset_mode=mode, **kwargs)
    theirs = SyncVectorEnv([lambda: single_env(**kwargs)] * batch, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.single_action_space == theirs.single_action_space
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert_equal(ours.reset(seed=31), theirs.reset(seed=31))
    ours.action_space.seed(0)
    ends = truncations = 0
    for _ in range(30):
        actions = ours.action_space.sample()
        step = ours.step(actions)
        assert_equal(step, theirs.step(actions))
        ends, truncations = ends + step[2].sum(), truncations + step[3].sum()
        done = step[2] | step[3]
        if mode is AutoresetMode.DISABLED and done.any():
            assert_equal(*(envs.reset(options={"reset_mask": done.copy()}) for envs in (ours, theirs)))
    assert ends
    assert truncations
    assert_equal(ours.reset(seed=5), theirs.reset(seed=5))
    assert_equal(ours.reset(), theirs.reset())
    seeds = [7 if i else None for i in range(batch)]
    assert_equal(ours.reset(seed=seeds), theirs.reset(seed=seeds))


@pytest.mark.parametrize("mode", MODES)
def test_reset_mask_equals_sync_vector_env(mode):
    ours = vector_env(4, autoreset_mode=mode, max_episode_steps=6)
    theirs = SyncVectorEnv([lambda: single_env(max_episode_steps=6)] * 4, autoreset_mode=mode)
    assert_equal(ours.reset(seed=2), theirs.reset(seed=2))
    rng = np.random.default_rng(0)
    for _ in range(25):
        mask = rng.random(4) < 0.3
        if mode is AutoresetMode.DISABLED:
            mask |= ours.ended
        if mask.any():
            seed = int(rng.integers(100)) if rng.random() < 0.5 else None
            results = [envs.reset(seed=seed, options={"reset_mask": mask.copy()}) for envs in (ours, theirs)]
            assert_equal(*results)
        actions = rng.integers(0, ACTIONS, 4)
        assert_equal(ours.step(actions), theirs.step(actions))


def test_options_of_the_caller_are_left_alone():
    envs = vector_env(2)
    envs.reset(seed=0)
    mask = np.array([True, False])
    options = {"reset_mask": mask, "start": 1}
    envs.reset(options=options)
    assert options == {"reset_mask": mask, "start": 1}


def test_returned_arrays_are_the_callers_own():
    for mode in MODES:
        kwargs = {"render_mode": "rgb_array", "denoising_trajectory": True, "max_episode_steps": 2}
        envs, twin = (vector_env(3, autoreset_mode=mode, **kwargs) for _ in range(2))

        def spoil(x):
            if isinstance(x, dict):
                for value in x.values():
                    spoil(value)
            elif isinstance(x, tuple | list) or (isinstance(x, np.ndarray) and x.dtype == object):
                for value in x:
                    spoil(value)
            elif isinstance(x, np.ndarray):
                assert x.flags.writeable
                x[...] = 1

        spoil(envs.reset(seed=0))
        twin.reset(seed=0)
        for t in range(4):
            actions = np.full(3, t % ACTIONS)
            result, expected = envs.step(actions), twin.step(actions)
            assert_equal(result, expected)
            spoil((result, envs.render()))
            actions[:] = 0
            if mode is AutoresetMode.DISABLED and envs.ended.any():
                mask = envs.ended
                envs.reset(options={"reset_mask": mask})
                twin.reset(options={"reset_mask": mask.copy()})
                mask[:] = True


def test_metadata_belongs_to_the_instance():
    envs = [vector_env(autoreset_mode=mode) for mode in MODES]
    for env, mode in zip(envs, MODES, strict=True):
        assert env.metadata["autoreset_mode"] is mode
    envs[0].metadata["render_modes"].append("human")
    single = single_env()
    single.metadata["render_modes"].append("human")
    assert "human" not in DreamVectorEnv.metadata["render_modes"] + DreamEnv.metadata["render_modes"]
    assert DreamVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("word", ["SameStep", "same_step", "SAME_STEP", AutoresetMode.SAME_STEP])
def test_autoreset_modes_are_plain_words_too(word):
    assert vector_env(autoreset_mode=word).autoreset_mode is AutoresetMode.SAME_STEP


def test_horizons():
    for steps, expected in ((3, [3, 6, 9]), (-1, [])):
        envs = vector_env(1, end_bias=-50, max_episode_steps=steps, autoreset_mode="SameStep")
        envs.reset(seed=0)
        assert [t for t in range(1, 11) if envs.step([0])[3].any()] == expected
    default = vector_env(1, end_bias=-50, autoreset_mode="SameStep")
    default.reset(seed=0)
    assert [t for t in range(1, 120) if default.step([0])[3].any()] == [50, 100]


def test_the_single_environment_truncates_bare_and_through_make():
    def truncations(env):
        env.reset(seed=0)
        seen = []
        for t in range(1, 130):
            if env.step(0)[3]:
                seen.append(t)
                env.reset()
        return seen

    model = StubWorldModel(end_bias=-50)
    assert truncations(DreamEnv(model=model)) == [50, 100]
    assert truncations(DreamEnv(model=model, max_episode_steps=60)) == [60, 120]
    assert truncations(DreamEnv(model=model, max_episode_steps=-1)) == []
    make = lambda **kwargs: gym.make("DiamondDream-v0", model=model, **kwargs)  # noqa: E731
    assert truncations(make()) == [50, 100]
    assert truncations(make(max_episode_steps=60)) == [60, 120]
    assert truncations(make(max_episode_steps=120)) == [120]
    assert truncations(make(max_episode_steps=-1)) == []
    assert truncations(pickle.loads(pickle.dumps(make(max_episode_steps=60)))) == [60, 120]


def test_starts():
    for choice, allowed in (("any", set(range(6))), ("first", {0, 3}), (2, {2})):
        _, info = vector_env(50, starts=choice).reset(seed=0)
        assert set(info["start"].tolist()) == allowed
    env = single_env(starts=4)
    obs, info = env.reset(seed=0)
    assert info == {"start": 4}
    assert type(info["start"]) is int
    np.testing.assert_array_equal(obs, FRAMES[4, -1])
    assert env.reset(options={"start": 1})[1] == {"start": 1}
    assert vector_env(2).reset(options={"start": np.array([5, 1])})[1]["start"].tolist() == [5, 1]


def test_dreams_from_real_frames():
    starts = make_starts()
    options = {"obs": starts.obs[2], "act": starts.act[2]}
    env, stored = single_env(), single_env(starts=2)
    obs, info = env.reset(seed=4, options=options)
    np.testing.assert_array_equal(obs, starts.obs[2, -1])
    assert info == {"start": -1}
    stored.reset(seed=4)
    for action in (0, 3, 1):
        ours, theirs = env.step(action), stored.step(action)
        assert_equal(ours[:4], theirs[:4])
        if ours[2]:
            break
    envs = vector_env(3)
    envs.reset(seed=0)
    obs, info = envs.reset(options={**options, "reset_mask": np.array([True, False, True])})
    np.testing.assert_array_equal(obs[[0, 2]], starts.obs[[2, 2], -1])
    assert info["start"].tolist() == [-1, 0, -1]
    assert info["_start"].tolist() == [True, False, True]
    obs, info = envs.reset(options={"obs": starts.obs[:3], "act": starts.act[:3]})
    np.testing.assert_array_equal(obs, starts.obs[:3, -1])


def test_the_denoising_trajectory_on_demand():
    env = single_env(denoising_trajectory=True, num_denoising_steps=2)
    _, info = env.reset(seed=0)
    assert info.keys() == {"start"}
    obs, *_, info = env.step(1)
    trajectory = info["denoising_trajectory"]
    assert (trajectory.dtype, trajectory.shape) == (np.uint8, (3, 8, 8, 3))
    np.testing.assert_array_equal(trajectory[-1], obs)
    assert "denoising_trajectory" not in vector_env().reset(seed=0)[1]


def test_render():
    envs = vector_env(3, render_mode="rgb_array")
    obs, _ = envs.reset(seed=0)
    frames = envs.render()
    assert type(frames) is tuple
    np.testing.assert_array_equal(np.stack(frames), obs)
    tiled = vector_env(3, render_mode="rgb_array_tiled")
    tiled.reset(seed=0)
    image = tiled.render()
    assert image.shape == (16, 16, 3)
    for row, (y, x) in enumerate(itertools.product((0, 8), repeat=2)):
        np.testing.assert_array_equal(image[y : y + 8, x : x + 8], obs[row] if row < 3 else 0)
    env = single_env(render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), obs)
    silent = single_env()
    silent.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert silent.render() is None


def test_sampler_keywords():
    save_tiny_model()
    sampler = lambda **kwargs: DreamVectorEnv(model="tiny", device="cpu", **kwargs).dream.sampler  # noqa: E731
    assert sampler() == SamplerConfig(num_denoising_steps=2)  # what its card says
    for quality, config in QUALITIES.items():
        assert sampler(quality=quality) == config
    assert sampler(quality="fast", sigma_max=3.0) == SamplerConfig(num_denoising_steps=1, sigma_max=3.0)
    assert sampler(order=2, s_churn=1.0) == SamplerConfig(num_denoising_steps=2, order=2, s_churn=1.0)


def test_models_by_name_game_and_folder(home):
    save_tiny_model("mine", "Pong")
    folder = home / "models" / "mine"
    for kwargs in ({"game": "Pong"}, {"model": "mine"}, {"model": folder}, {"model": str(folder)}):
        env = DreamEnv(**kwargs, device="cpu", precision="float32")
        assert env.world_model.card.name == "mine"
        assert env.reset(seed=0)[0].shape == (16, 16, 3)
        assert env.get_action_meanings() == ["NOOP", "FIRE", "UP", "UPFIRE"]
        assert env.get_keys_to_action() == {(" ",): 1, ("w",): 2, ("w", " "): 3}
    assert DreamEnv(model="mine", device="cpu", precision="bfloat16").world_model.precision == "bfloat16"


@pytest.mark.parametrize("include_rng", [True, False])
def test_clone_and_restore_branch_the_environment(include_rng):
    envs, other = (vector_env(3, max_episode_steps=5) for _ in range(2))
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(8):
        envs.step(rng.integers(0, ACTIONS, 3))
    while not envs.ended.any():
        envs.step(rng.integers(0, ACTIONS, 3))
    state = pickle.loads(pickle.dumps(envs.clone_state(include_rng)))
    actions = rng.integers(0, ACTIONS, (12, 3))
    first = [envs.step(a) for a in actions]
    envs.restore_state(state)
    other.restore_state(state)
    for branch in (envs, other):
        second = [branch.step(a) for a in actions]
        if include_rng:
            assert_equal(tuple(second), tuple(first))
        else:
            assert not np.array_equal([s[0] for s in second], [s[0] for s in first])


def test_states_of_other_environments_are_refused():
    env = single_env()
    others = (DreamEnv(model=model) for model in (StubWorldModel("other"), StubWorldModel(size=16)))
    for other in (vector_env(2), *others):
        other.reset(seed=0)
        with pytest.raises(ValueError, match="another dream") as caught:
            env.restore_state(other.clone_state())
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="what clone_state returned"):
        env.restore_state({})


def test_pickles_and_deep_copies_dream_on_as_the_original_does():
    save_tiny_model()
    tiny = {"model": "tiny", "device": "cpu", "precision": "float32"}
    for env in (single_env(end_bias=-50), vector_env(2), DreamVectorEnv(**tiny), DreamEnv(**tiny)):
        action = np.zeros(env.action_space.shape, dtype=np.int64)
        pickle.loads(pickle.dumps(env)).reset(seed=0)
        env.reset(seed=0)
        copies = []
        for t in range(6):
            if t == 2:
                copies = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
            expected = env.step(action)
            for twin in copies:
                assert_equal(twin.step(action), expected)
            if isinstance(env, DreamEnv) and expected[2]:
                env.reset()
                for twin in copies:
                    twin.reset()
        expected = env.reset()
        for twin in copies:
            assert_equal(twin.reset(), expected)
            assert twin.np_random.integers(1000) == copy.deepcopy(env.np_random).integers(1000)


def test_the_first_unseeded_reset_draws_from_np_random():
    def first(env):
        env.np_random = np.random.default_rng(3)
        return env.reset()

    for make in (single_env, vector_env):
        assert_equal(first(make()), first(make()))


def test_closing_frees_the_model():
    for make in (DreamEnv, DreamVectorEnv):
        model = StubWorldModel()
        reference = weakref.ref(model)
        env = make(model=model)
        env.reset(seed=0)
        state = env.clone_state()
        env.close()
        env.close()
        for use in (
            env.reset,
            env.render,
            env.clone_state,
            lambda e=env: e.step(0),
            lambda e=env, s=state: e.restore_state(s),
            lambda e=env: e.world_model,
            lambda e=env: pickle.dumps(e),
        ):
            with pytest.raises(gym.error.ClosedEnvironmentError, match="closed: make a new one"):
                use()
        del model, use
        gc.collect()
        assert reference() is None


def test_bad_arguments_are_one_clear_line():
    model = StubWorldModel()
    for kwargs, error, words in (
        ({}, BadArgument, "which dream"),
        ({"game": "Braekout"}, DiamondGymError, "did you mean Breakout"),
        ({"game": "Hero"}, ModelNotFound, "train-wm --game Hero"),
        ({"model": "nobody"}, ModelNotFound, "nobody"),
        ({"model": model, "num_envs": 0}, BadArgument, "at least 1, got 0"),
        ({"model": model, "num_envs": 2.5}, BadArgument, "at least 1, got 2.5"),
        ({"model": model, "num_envs": True}, BadArgument, "at least 1, got True"),
        ({"model": model, "quality": "best"}, BadArgument, "fast, paper, fine"),
        ({"model": model, "num_denoising_steps": 0}, BadArgument, "num_denoising_steps must be at least 1"),
        ({"model": model, "num_denoising_step": 1}, TypeError, "num_denoising_step'"),
        ({"model": model, "max_episode_steps": 0}, BadArgument, "at least 1, or -1"),
        ({"model": model, "autoreset_mode": "never"}, BadArgument, '"NextStep", "SameStep", "Disabled"'),
        ({"model": model, "render_mode": "ascii"}, BadArgument, "rgb_array"),
        ({"model": model, "starts": 6}, DiamondGymError, "there are 6"),
        ({"model": model, "starts": "last"}, DiamondGymError, '"any", "first" or an index'),
    ):
        with pytest.raises(error, match=words) as caught:
            DreamVectorEnv(**kwargs)
        assert "\n" not in str(caught.value)


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
    with pytest.raises(gym.error.Error):
        envs.reset(seed=-1)
    twin = vector_env(3)
    twin.restore_state(before)
    assert_equal(envs.step([0, 1, 2]), twin.step([0, 1, 2]))


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


@pytest.mark.gpu
def test_a_gpu_environment():
    save_tiny_model()
    kwargs = {"model": "tiny", "num_envs": 4, "precision": "float32"}
    here, there = (DreamVectorEnv(device=device, **kwargs) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(here.reset(seed=0)[0], there.reset(seed=0)[0])
    ours, theirs = here.step([0, 1, 2, 3]), there.step([0, 1, 2, 3])
    assert np.abs(ours[0].astype(int) - theirs[0]).max() <= 1
    assert there.dream.obs.device.type == "cuda"
    assert torch.cuda.memory_allocated() > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_networks_dream_the_same_up_to_rounding():
    save_tiny_model()
    plain, compiled = (
        DreamVectorEnv(model="tiny", num_envs=2, device="cpu", precision="float32", compile=compile)
        for compile in (False, True)
    )
    np.testing.assert_array_equal(plain.reset(seed=0)[0], compiled.reset(seed=0)[0])
    ours, theirs = compiled.step(np.array([0, 1])), plain.step(np.array([0, 1]))
    assert np.abs(ours[0].astype(int) - theirs[0]).max() <= 1
    assert compiled.world_model.weights().keys() == plain.world_model.weights().keys()
