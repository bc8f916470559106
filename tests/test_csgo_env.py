"""DiamondDream-CSGO-v0 and its kin: two stages, actions by hand, recorded players, Gymnasium's checks."""

import copy
import pickle
import time
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from engines import LARGE, StubEngine, engine_card, engine_starts, golden_engine
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from released import CSGO_FILES, spawns
from stub_envs import assert_equal
from stubs import StubWorldModel

import diamond_gym
from diamond_gym import csgo
from diamond_gym.actions import MultiBinary
from diamond_gym.envs import DreamEnv, DreamVectorEnv
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.registry.released import read_released
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.register import register
from diamond_gym.trainers.start_states import starts_from_folder
from diamond_gym.two_stage import FAST, TWO_STAGE_QUALITIES
from diamond_gym.world_model import WorldModel

CPU = {"device": "cpu", "precision": "float32"}
NOTHING = csgo.action()


@pytest.fixture
def engine(tmp_path):
    """The golden engine, imported from its released files and registered with spawns."""
    model = read_released(*CSGO_FILES, "CSGO")
    register(model, starts_from_folder(model, spawns(tmp_path / "spawn")), {})
    diamond_gym.register_ids()


def test_without_a_model_one_line_tells_what_helps(home):
    for make in (gym.make, gym.make_vec):
        with pytest.raises(ModelNotFound, match="diamond-gym pull csgo") as caught:
            make("DiamondDream-CSGO-v0")
        assert "\n" not in str(caught.value)
        assert "train" not in str(caught.value)


@pytest.mark.parametrize("kwargs", [{"render_mode": "rgb_array"}, {"replay": True, "denoising_trajectory": True}])
def test_check_env_on_the_imported_engine(engine, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("DiamondDream-CSGO-v0", **kwargs, **CPU)
        check_env(env.unwrapped)
    assert env.observation_space == gym.spaces.Box(0, 255, (*LARGE, 3), np.uint8)
    assert env.action_space == gym.spaces.MultiDiscrete([2] * 13 + [23, 15])


def test_single_and_batch_by_id(engine):
    env = gym.make("DiamondDream-CSGO-v0", **CPU)
    envs = gym.make_vec("DiamondDream-CSGO-v0", num_envs=3, **CPU)
    assert isinstance(envs, DreamVectorEnv)
    assert envs.observation_space.shape == (3, *LARGE, 3)
    assert envs.action_space.shape == (3, 15)
    obs, _ = envs.reset(seed=4)
    alone, info = env.reset(seed=5)
    np.testing.assert_array_equal(obs[1], alone)
    assert info["start"] in range(3)
    act = csgo.action("w", "shift", mouse_x=-30)
    obs, rewards, ends, truncs, _ = envs.step(np.stack([act] * 3))
    alone, *_ = env.step(act)
    assert np.abs(obs[1].astype(int) - alone).max() <= 3  # a convolution's blocking depends on the batch size
    assert not rewards.any()
    assert not ends.any()
    assert not truncs.any()
    differs, *_ = env.unwrapped.step(csgo.action("s"))
    assert (differs != alone).any()


def test_words_and_keys_for_people():
    env = DreamEnv(model=StubEngine())
    assert env.get_action_meanings() == list(csgo.NAMES)
    keys = env.get_keys_to_action()
    assert csgo.describe(keys["w", " "]) == (("w", "space"), 0, 0)
    assert csgo.describe(keys["w", "d", "r"])[0] == ("w", "d", "r")
    assert all(env.action_space.contains(act) for act in keys.values())


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("replay", [False, True])
def test_equals_sync_vector_env_of_singles(mode, replay):
    kwargs = {"max_episode_steps": 4, "denoising_trajectory": True, "replay": replay}
    ours = DreamVectorEnv(model=StubEngine(), num_envs=3, autoreset_mode=mode, **kwargs)
    theirs = SyncVectorEnv([lambda: DreamEnv(model=StubEngine(), **kwargs)] * 3, autoreset_mode=mode)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert_equal(ours.reset(seed=31), theirs.reset(seed=31))
    ours.action_space.seed(0)
    replayed = set()
    for _ in range(14):
        actions = ours.action_space.sample()
        step = ours.step(actions)
        assert_equal(step, theirs.step(actions))
        replayed |= set(step[4].get("_replayed", np.zeros(3, bool)).tolist())
        done = step[3]
        if mode is AutoresetMode.DISABLED and done.any():
            assert_equal(*(envs.reset(options={"reset_mask": done.copy()}) for envs in (ours, theirs)))
    assert replayed == ({True, False} if replay else {False})


def test_recorded_players_are_replayed():
    """While the recording lasts, whatever is given; afterwards, and from frames from elsewhere, what is given."""
    model = StubEngine(recorded=3)  # starts 0, 1, 2, 3 have 3, 2, 1, 0 actions
    player, follower = (DreamVectorEnv(model=model, num_envs=2, replay=replay) for replay in (True, False))
    for start in range(4):
        for env in (player, follower):
            env.reset(seed=1, options={"start": start})
        recorded = model.starts.next_act[start]
        for t in range(4):
            given = np.stack([csgo.action("a"), csgo.action("d", mouse_y=t)])
            due = t < 3 - start
            obs, *_, info = player.step(given)
            assert ("replayed" in info) == due
            if due:
                np.testing.assert_array_equal(info["replayed"], np.stack([recorded[t]] * 2))
                given = csgo.decode(info["replayed"])
            np.testing.assert_array_equal(obs, follower.step(given)[0])
    frames = np.zeros((4, *LARGE, 3), np.uint8)
    player.reset(options={"obs": frames, "act": np.stack([NOTHING] * 3)})
    assert "replayed" not in player.step(np.stack([NOTHING] * 2))[4]


def test_models_without_recordings_cannot_replay():
    for starts in (replace(engine_starts(), next_act=None), engine_starts(recorded=0)):
        model = StubEngine()
        model.starts = starts
        with pytest.raises(BadArgument, match="replay=True"):
            DreamEnv(model=model, replay=True)
    with pytest.raises(BadArgument, match="replay=True"):
        DreamVectorEnv(model=StubWorldModel(), replay=True)


def test_discrete_recordings_are_replayed_too():
    model = StubWorldModel(end_bias=-50)
    model.starts = replace(model.starts, next_act=np.full((6, 2), 3, np.int8))
    player, follower = DreamEnv(model=model, replay=True), DreamEnv(model=model)
    player.reset(seed=0), follower.reset(seed=0)
    for t in range(4):
        obs, *_, info = player.step(1)
        assert info.get("replayed", 1) == (3 if t < 2 else 1)
        np.testing.assert_array_equal(obs, follower.step(3 if t < 2 else 1)[0])


def test_qualities_and_sampler_keywords():
    def of(**kwargs):
        dream = DreamVectorEnv(model=golden_engine(), **kwargs).dream
        return dream.sampler, dream.upsampler_sampler

    assert of() == (FAST.dynamics, FAST.upsampler)
    for name, quality in TWO_STAGE_QUALITIES.items():
        assert of(quality=name) == (quality.dynamics, quality.upsampler)
    assert of(quality="quality", num_denoising_steps=2, upsampler={"num_denoising_steps": 5}) == (
        replace(TWO_STAGE_QUALITIES["quality"].dynamics, num_denoising_steps=2),
        replace(TWO_STAGE_QUALITIES["quality"].upsampler, num_denoising_steps=5),
    )
    model = golden_engine()
    model.card = replace(model.card, sampler={"num_denoising_steps": 2, "s_cond": 0.01})
    assert DreamVectorEnv(model=model).dream.sampler == SamplerConfig(2, s_cond=0.01)
    assert DreamVectorEnv(model=model, quality="fast").dream.sampler == FAST.dynamics
    assert model.dream(1).sampler == SamplerConfig(2, s_cond=0.01)
    with pytest.raises(BadArgument, match="one of fast, quality"):
        of(quality="paper")
    with pytest.raises(BadArgument, match="'order' must be"):
        of(upsampler={"order": 3})
    for wrong in ({"steps": 1}, {"upsampler": {"steps": 1}}):
        with pytest.raises(TypeError, match="unexpected keyword argument 'steps'"):
            of(**wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'upsampler'"):
        DreamVectorEnv(model=StubWorldModel(), upsampler={})


def test_actions_outside_the_space():
    envs = DreamVectorEnv(model=StubEngine(), num_envs=2)
    envs.reset(seed=0)
    two = np.stack([NOTHING] * 2)
    for wrong in (NOTHING, csgo.encode(two), two.astype(float), two - 1, two + 2):
        with pytest.raises(gym.error.InvalidAction, match=r"integers of shape \(2, 15\), each row below \(2, 2"):
            envs.step(wrong)
    frames = np.zeros((4, *LARGE, 3), np.uint8)
    with pytest.raises(ValueError, match="an action is 15 integers"):
        envs.reset(options={"obs": frames, "act": csgo.encode(two[[0, 0, 0]])})
    obs, info = envs.reset(options={"obs": frames, "act": two[[0, 0, 0]]})
    assert not obs.any()
    assert info["start"].tolist() == [-1, -1]


def test_other_multi_hot_models_keep_zeros_and_ones():
    model = StubEngine()
    model.codec = MultiBinary([50])
    assert DreamEnv(model=model).action_space == gym.spaces.MultiBinary(50)


@pytest.mark.parametrize("through", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_pickles_and_copies_dream_on_as_the_original_does(through):
    env = DreamEnv(model=StubEngine(), replay=True)
    env.reset(seed=0)
    env.step(NOTHING)
    twin = through(env)
    for _ in range(5):
        assert_equal(env.step(NOTHING), twin.step(NOTHING))
    state = env.clone_state(include_rng=True)
    once = env.step(NOTHING)
    env.restore_state(state)
    assert_equal(once, env.step(NOTHING))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@torch.no_grad()
def test_at_full_size_on_random_weights():
    """The authors' 381 million parameters, untrained: 150x280 frames, one by one."""
    wide = {"cond_channels": 2048, "depths": [2] * 4, "noise_cond": True}  # arXiv 2405.12399, appendix
    dynamics = InnerModelConfig(**wide, channels=[128, 256, 512, 1024], attn_depths=[0, 0, 1, 1], num_actions=51)
    upsampler = InnerModelConfig(
        **wide, num_steps_conditioning=1, channels=[64, 64, 128, 256], attn_depths=[0, 0, 0, 1], num_extra_images=1
    )
    edm = {"sigma_data": 0.5, "sigma_offset_noise": 0.1}
    parts = []
    for config in (
        DenoiserConfig(dynamics, **edm, noise_previous_obs=True),
        DenoiserConfig(upsampler, **edm, upsampling_factor=5),
    ):
        with torch.device("meta"):  # the orthogonal initialisation of networks this wide takes minutes
            part = Denoiser(config)
        part = part.to_empty(device="cpu")
        for parameter in (*part.parameters(), *part.buffers()):
            parameter.normal_(std=0.02)
        parts.append(part.eval())
    starts = engine_starts(2, (30, 56), (150, 280))
    card = engine_card(*parts, (150, 280))
    model = WorldModel(parts[0], upsampler=parts[1], card=card, starts=starts)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(381e6, rel=0.01)
    env = DreamEnv(model=model, replay=True, quality="fast")
    obs, _ = env.reset(seed=0, options={"start": 0})
    assert env.observation_space.shape == obs.shape == (150, 280, 3)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        obs, reward, terminated, truncated, info = env.step(csgo.action("w"))
        seconds.append(time.perf_counter() - start)
        assert env.observation_space.contains(obs)
        assert obs.std() > 0
        assert (reward, terminated, truncated) == (0, False, False)
        assert info["replayed"].shape == (51,)
    print(f"{min(seconds):.1f} s a frame")  # pytest -s shows it
