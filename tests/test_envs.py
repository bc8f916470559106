"""Which model the environments dream with, how it is sampled, and what is shown of it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from stub_envs import single_env, vector_env
from stubs import save_tiny_model

from diamond_gym.envs import DreamEnv, DreamVectorEnv
from diamond_gym.envs.checks import start_colours
from diamond_gym.sampler import QUALITIES, SamplerConfig
from diamond_gym.starts import PADDING


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


def test_the_denoising_trajectory_on_demand():
    env = single_env(denoising_trajectory=True, num_denoising_steps=2)
    _, info = env.reset(seed=0)
    assert info.keys() == {"start"}
    obs, *_, info = env.step(1)
    trajectory = info["denoising_trajectory"]
    assert (trajectory.dtype, trajectory.shape) == (np.uint8, (3, 8, 8, 3))
    np.testing.assert_array_equal(trajectory[-1], obs)
    assert "denoising_trajectory" not in vector_env().reset(seed=0)[1]


def test_the_hallucination_number_on_demand():
    env = single_env(hallucination=True)
    _, info = env.reset(seed=0)
    assert info["hallucination"] == 0, "a start is a real frame"
    assert type(info["hallucination"]) is float
    envs = vector_env(3, hallucination=True)
    _, info = envs.reset(seed=0)
    assert info["hallucination"].tolist() == [0, 0, 0]
    starts = torch.from_numpy(envs.world_model.starts.obs).flatten(0, 1)  # (N, H, W, C)
    for _ in range(3):
        obs, *_, info = envs.step(np.zeros(3, np.int64))
    assert info["hallucination"].max() > 0, "an untrained model's frames"
    # without the tolerance in place and colour as many pixels or more are unheard of
    bins = torch.from_numpy(obs)[:, None] // 16 == starts[None] // 16
    exact = (~bins.all(-1).any(1)).float().mean((1, 2))
    assert (torch.from_numpy(info["hallucination"]) <= exact).all()
    assert "hallucination" not in vector_env().reset(seed=0)[1]


def test_padding_before_a_game_is_no_colour_of_it():
    model = vector_env(1).world_model
    starts, unpadded = model.starts, start_colours(model)
    padded = np.concatenate((np.full_like(starts.obs[:1], PADDING), starts.obs))
    model.starts = replace(starts, obs=padded, act=starts.act[[0, *range(len(starts.act))]],
                           first=starts.first[[0, *range(len(starts.first))]])  # fmt: skip
    grey = torch.full((1, 3, 8, 8), PADDING, dtype=torch.uint8)
    assert start_colours(model).artefacts(grey) == unpadded.artefacts(grey) > 0


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


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
def test_a_gpu_environment(compile):
    save_tiny_model()
    kwargs = {"model": "tiny", "num_envs": 4, "precision": "float32"}
    here, there = DreamVectorEnv(device="cpu", **kwargs), DreamVectorEnv(device="cuda", compile=compile, **kwargs)
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
