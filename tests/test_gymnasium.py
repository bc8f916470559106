"""Dreams among Gymnasium's own tools: ids, checker, wrappers, vectorisation, videos, play."""

import copy
import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from stub_envs import assert_equal
from stubs import StubWorldModel, save_tiny_model

from diamond_gym.envs import DreamEnv, DreamVectorEnv

CPU = {"device": "cpu", "precision": "float32"}
# Before, the batch's statistics count a step too few in mode SAME_STEP, and its wrappers of rewards refuse it.
before_1_4 = tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4)


def make(**kwargs):
    return gym.make("DiamondDream-v0", model=StubWorldModel(), **kwargs)


def make_vec(num_envs=3, **kwargs):
    return gym.make_vec("DiamondDream-v0", num_envs=num_envs, model=StubWorldModel(), **kwargs)


def run(env, steps=12, seed=0):
    """Random actions; resets where it is up to the caller."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    results = []
    for _ in range(steps):
        results.append(env.step(env.action_space.sample()))
        if not hasattr(env, "num_envs") and (results[-1][2] or results[-1][3]):
            env.reset()
    return results


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
@pytest.mark.parametrize("kwargs", [{}, {"denoising_trajectory": True}, {"starts": "first", "quality": "fast"}])
def test_check_env_without_a_warning(render_mode, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(render_mode=render_mode, **kwargs).unwrapped)


def test_check_env_on_a_registered_model():
    save_tiny_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("DiamondDream-Breakout-v0", render_mode="rgb_array", **CPU).unwrapped)


def test_ids_make_single_and_batch():
    save_tiny_model("mine", "Pong")
    env = gym.make("diamond_gym:DiamondDream-Pong-v0", **CPU)
    assert type(env.unwrapped) is DreamEnv
    envs = gym.make_vec("DiamondDream-Pong-v0", num_envs=4, **CPU)
    assert type(envs) is DreamVectorEnv
    assert envs.dream.num_envs == 4
    assert envs.dream.horizon == 50
    assert envs.autoreset_mode is AutoresetMode.NEXT_STEP
    obs, _ = envs.reset(seed=3)
    np.testing.assert_array_equal(env.reset(seed=4)[0], obs[1])


def test_make_vec_hands_over_the_horizon():
    assert make_vec(max_episode_steps=7).dream.horizon == 7
    assert make_vec(max_episode_steps=-1).dream.horizon is None
    assert make_vec().dream.horizon == 50


@pytest.mark.parametrize("mode", [None, "SameStep", AutoresetMode.DISABLED])
def test_a_spec_survives_json(mode):
    save_tiny_model()
    kwargs = {"model": "tiny", "num_denoising_steps": 1, "starts": "first", "render_mode": "rgb_array", **CPU}
    env = gym.make("DiamondDream-v0", max_episode_steps=9, **kwargs)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    for ours, theirs in zip(run(again), run(env), strict=True):
        assert_equal(ours, theirs)
    kwargs |= {} if mode is None else {"autoreset_mode": mode}
    envs = gym.make_vec("DiamondDream-v0", num_envs=2, max_episode_steps=9, **kwargs)
    assert json.loads(envs.spec.to_json())["kwargs"]["num_denoising_steps"] == 1
    again = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert again.spec == envs.spec
    assert (again.num_envs, again.autoreset_mode, again.dream.horizon) == (2, envs.autoreset_mode, 9)
    assert_equal(again.reset(seed=0), envs.reset(seed=0))


def test_a_spec_with_a_path_survives_json(home):
    save_tiny_model()
    envs = gym.make_vec("DiamondDream-v0", model=home / "models" / "tiny", **CPU)
    assert gym.make_vec(EnvSpec.from_json(envs.spec.to_json())).world_model.card.name == "tiny"


def test_async_vector_env():
    save_tiny_model()
    kwargs = {"model": "tiny", "max_episode_steps": 5, **CPU}
    ours = gym.make_vec("DiamondDream-v0", num_envs=2, vectorization_mode="async", **kwargs)
    assert isinstance(ours, AsyncVectorEnv)
    theirs = gym.make_vec("DiamondDream-v0", num_envs=2, vectorization_mode="sync", **kwargs)
    try:
        for a, b in zip(run(ours, 7), run(theirs, 7), strict=True):
            assert_equal(a[:4], b[:4])
            assert a[4]["start"].tolist() == b[4]["start"].tolist()
    finally:
        ours.close()


def test_an_environment_in_memory_goes_to_a_process_by_pickle():
    env = make()
    envs = AsyncVectorEnv([lambda: copy.deepcopy(env)], context="spawn")  # the closure takes the model along
    try:
        results = [envs.reset(seed=0)[0], envs.step([1])[0], envs.step([2])[0]]
    finally:
        envs.close()
    expected = [env.reset(seed=0)[0], env.step(1)[0], env.step(2)[0]]
    np.testing.assert_array_equal(np.concatenate(results), np.stack(expected))


def test_make_vec_equals_sync_vectorisation():
    for ours, theirs in zip(
        run(make_vec(max_episode_steps=6)),
        run(SyncVectorEnv([lambda: make(max_episode_steps=6)] * 3)),
        strict=True,
    ):
        assert_equal(ours, theirs)


def test_single_wrappers(tmp_path):
    env = wrappers.RecordEpisodeStatistics(make(max_episode_steps=6))
    env.reset(seed=0)
    total, length, done = 0.0, 0, False
    while not done:
        _, reward, terminated, truncated, info = env.step(1)
        total, length, done = total + reward, length + 1, terminated or truncated
    assert (info["episode"]["r"], info["episode"]["l"]) == (total, length)

    grey = wrappers.GrayscaleObservation(wrappers.ResizeObservation(make(), (16, 12)), keep_dim=True)
    stacked = wrappers.FrameStackObservation(grey, 3)
    obs, _ = stacked.reset(seed=0)
    assert obs.shape == stacked.observation_space.shape == (3, 16, 12, 1)
    first = stacked.step(0)[0]
    np.testing.assert_array_equal(first[:2], obs[1:])
    assert stacked.observation_space.contains(first)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_statistics(mode):
    if before_1_4 and mode is AutoresetMode.SAME_STEP:
        pytest.skip("Gymnasium's own fault until 1.4")
    envs = vector_wrappers.RecordEpisodeStatistics(make_vec(max_episode_steps=5, autoreset_mode=mode))
    envs.reset(seed=0)
    returns, lengths = np.zeros(3), np.zeros(3, dtype=int)
    resting, seen = np.zeros(3, dtype=bool), 0
    for t in range(25):
        _, rewards, terminated, truncated, info = envs.step(np.full(3, t % 4))
        returns, lengths = returns + rewards, lengths + ~resting
        done = terminated | truncated
        for i in np.flatnonzero(done):
            assert (info["episode"]["r"][i], info["episode"]["l"][i]) == (returns[i], lengths[i])
            seen += 1
        returns[done], lengths[done] = 0, 0
        resting = done & (mode is AutoresetMode.NEXT_STEP)
        if mode is AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
    assert seen > 5


def test_vector_observation_wrappers():
    envs = vector_wrappers.ResizeObservation(make_vec(), (16, 16))
    envs = vector_wrappers.GrayscaleObservation(envs, keep_dim=False)
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (3, 16, 16)
    assert envs.observation_space.contains(run(envs)[-1][0])
    infos = vector_wrappers.DictInfoToList(make_vec(max_episode_steps=4))
    assert [info["start"] for info in infos.reset(seed=0)[1]] == make_vec().reset(seed=0)[1]["start"].tolist()
    clipped = vector_wrappers.ClipReward(make_vec(), 0, 1)
    assert min(step[1].min() for step in run(clipped)) == 0


def test_tensors_by_gymnasiums_wrapper():
    pytest.importorskip("array_api_compat")
    tensors = vector_wrappers.NumpyToTorch(make_vec())
    assert isinstance(tensors.reset(seed=0)[0], torch.Tensor)
    assert isinstance(tensors.step(torch.tensor([0, 1, 2]))[1], torch.Tensor)


@pytest.mark.skipif(before_1_4, reason="Gymnasium's own fault until 1.4")
def test_same_step_is_refused_where_gymnasium_refuses_it_and_by_nobody_else():
    with pytest.raises(ValueError, match="same-step|SAME_STEP"):
        vector_wrappers.ResizeObservation(make_vec(autoreset_mode="SameStep"), (16, 16))
    assert len(run(vector_wrappers.ClipReward(make_vec(autoreset_mode="SameStep"), 0, 1))) == 12


def test_videos(tmp_path):
    pytest.importorskip("moviepy")
    model = StubWorldModel(size=32)
    kwargs = {"model": model, "render_mode": "rgb_array", "max_episode_steps": 4}
    env = gym.make("DiamondDream-v0", **kwargs)
    env = wrappers.RecordVideo(env, str(tmp_path / "single"), episode_trigger=lambda e: e == 0)
    run(env, 6)
    env.close()
    envs = gym.make_vec("DiamondDream-v0", num_envs=4, **kwargs)
    assert envs.metadata["render_fps"] == 15
    envs = vector_wrappers.RecordVideo(envs, str(tmp_path / "batch"), step_trigger=lambda t: t == 0, video_length=5)
    run(envs, 8)
    envs.close()
    for folder in ("single", "batch"):
        videos = list((tmp_path / folder).glob("*.mp4"))
        assert len(videos) == 1
        assert videos[0].stat().st_size > 500


def test_human_and_list_rendering_by_gymnasiums_wrappers(monkeypatch):
    pytest.importorskip("pygame")
    pytest.importorskip("cv2")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    collected = make(render_mode="rgb_array_list")
    run(collected, 1)
    assert [frame.shape for frame in collected.render()] == [(8, 8, 3)] * 2
    with pytest.warns(UserWarning, match="HumanRendering"):
        human = make(render_mode="human")
    run(human, 2)
    human.close()
    tiles = vector_wrappers.HumanRendering(make_vec(render_mode="rgb_array"), screen_size=(64, 64))
    run(tiles, 2)
    tiles.close()


@pytest.mark.parametrize(
    ("id", "keys", "actions"),
    [
        ("DiamondDream-v0", ["w", " "], [2, 3, 1, 0]),  # up, up and fire, fire, nothing
        ("DiamondReal-Breakout-v0", ["d", " "], [2, 0, 1, 0]),  # right, no such action, fire, nothing
        ("DiamondGym/Catch-v0", ["a", "d"], [1, 0, 2, 0]),  # left, both, right, nothing
    ],
)
def test_play_with_the_keyboard(id, keys, actions, monkeypatch):
    pygame = pytest.importorskip("pygame")
    if "Real" in id:
        pytest.importorskip("ale_py")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    from gymnasium.utils.play import play

    env, played = gym.make(id, render_mode="rgb_array", **({"model": StubWorldModel()} if "Dream" in id else {})), []
    script = [[(kind, ord(key))] for kind in (pygame.KEYDOWN, pygame.KEYUP) for key in keys]
    script.append([(pygame.KEYDOWN, pygame.K_ESCAPE)])

    def press():
        pressed = script.pop(0) if script else []
        return [pygame.event.Event(kind, key=key) for kind, key in pressed]

    monkeypatch.setattr(pygame.event, "get", press)
    play(env, fps=1000, zoom=4, seed=0, callback=lambda *step: played.append(step[2]))
    assert played == actions
