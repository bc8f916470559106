"""A longer memory begins as the shorter one, and is then its own."""

from dataclasses import replace

import pytest
import torch
import worlds

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.networks.denoiser import Denoiser, InnerModelConfig
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.trainers.warm_start import begin_with
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.trainers.world_model_config import WorldModelConfig


def with_memory(**inner: int) -> WorldModelConfig:
    return replace(worlds.CONFIG, denoiser=replace(worlds.CONFIG.denoiser, inner_model=replace(worlds.INNER, **inner)))


@pytest.fixture
def short(tmp_path) -> WorldModelTrainer:
    fit = WorldModelTrainer(worlds.CONFIG, worlds.store(tmp_path / "data"), 20)
    for _ in range(6):  # the last convolution begins at zero
        fit.train_step()
    return fit


def test_it_dreams_what_the_shorter_one_does(tmp_path, short: WorldModelTrainer) -> None:
    config = with_memory(num_steps_conditioning=5, num_actions_conditioning=2)
    long = WorldModelTrainer(config, worlds.store(tmp_path / "more"), 20)
    begin_with(long, short.world_model.weights())
    obs, act = torch.rand(3, 5, 3, 8, 8) * 2 - 1, torch.randint(worlds.ACTIONS, (3, 5))
    noise = torch.randn(3, 3, 8, 8)
    expected, _ = sample(short.world_model.denoiser.condition, obs[:, -2:], act[:, -2:], noise, SamplerConfig())
    for model in (long.world_model, long.averaged()):
        assert torch.equal(sample(model.denoiser.condition, obs, act, noise, SamplerConfig())[0], expected)
    before = long.world_model.denoiser.inner_model.conv_in.weight[:, :12].clone()
    assert not before.any()
    for _ in range(3):
        long.train_step()
    assert long.world_model.denoiser.inner_model.conv_in.weight[:, :12].any(), "and learns to use what it sees besides"


def test_a_network_that_gets_the_noise_level_begins_as_one_without(tmp_path, short: WorldModelTrainer) -> None:
    fit = WorldModelTrainer(replace(with_memory(noise_cond=True), past_noise=0.3), worlds.store(tmp_path / "more"), 20)
    begin_with(fit, {key: weight.half() for key, weight in short.world_model.weights().items()})
    short.world_model.load_weights({key: weight.half() for key, weight in short.world_model.weights().items()})
    obs, act = torch.rand(3, 2, 3, 8, 8) * 2 - 1, torch.randint(worlds.ACTIONS, (3, 2))
    noisy, sigma = torch.randn(3, 3, 8, 8), torch.full((3,), 0.7)
    for model in (fit.world_model, fit.averaged()):
        outputs = [
            m.denoiser.model_output(noisy, m.denoiser.precondition(sigma), obs, act) for m in (model, short.world_model)
        ]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    fit.train_step()


def test_only_the_last_actions_are_told() -> None:
    inner = replace(worlds.INNER, num_steps_conditioning=4, num_actions_conditioning=2)
    denoiser = Denoiser(replace(worlds.CONFIG.denoiser, inner_model=inner))
    torch.manual_seed(0)
    for parameter in denoiser.parameters():  # some begin at zero
        torch.nn.init.normal_(parameter, std=0.1)
    obs, act = torch.rand(1, 4, 3, 8, 8) * 2 - 1, torch.zeros(1, 4, dtype=torch.int64)
    noisy, sigma = torch.randn(1, 3, 8, 8), torch.tensor(1.0)
    frames = []
    for place in (None, 0, 1, 2, 3):
        changed = act.clone()
        if place is not None:
            changed[0, place] = 2
        frames.append(
            denoiser.model_output(noisy, denoiser.precondition(sigma[None]), obs, changed)
        )  # 8 bits hide much
    same = [torch.equal(frame, frames[0]) for frame in frames[1:]]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("given", [0, 3])
def test_so_many_actions_there_are_not(given: int) -> None:
    sizes = {"num_steps_conditioning": 2, "cond_channels": 6, "num_actions": 3, "num_actions_conditioning": given}
    with pytest.raises(ValueError, match="num_actions_conditioning"):
        Denoiser(replace(worlds.CONFIG.denoiser, inner_model=InnerModelConfig(**sizes)))
    with pytest.raises((BadArgument, ValueError), match="num_actions_conditioning"):
        replace(worlds.CONFIG, denoiser=replace(worlds.CONFIG.denoiser, inner_model=InnerModelConfig(**sizes)))


def test_it_must_be_told_as_many_actions(tmp_path, short: WorldModelTrainer) -> None:
    longer = WorldModelTrainer(with_memory(num_steps_conditioning=4), worlds.store(tmp_path / "more"), 20)
    with pytest.raises(DiamondGymError, match="do not fit the networks"):
        begin_with(longer, short.world_model.weights())
    shorter = WorldModelTrainer(
        with_memory(num_steps_conditioning=1, num_actions_conditioning=1), worlds.store(tmp_path / "x"), 20
    )
    with pytest.raises(DiamondGymError, match="do not fit the networks"):
        begin_with(shorter, short.world_model.weights())
