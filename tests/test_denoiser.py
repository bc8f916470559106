"""What the golden data cannot show: options of small presets, padding, and the algebra of preconditioning."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diamond_gym.errors import BadConfig
from diamond_gym.networks.blocks import Downsample
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig, quantise
from diamond_gym.networks.preconditioning import SigmaDistribution, TrainingNoise, edm

SMALL = InnerModelConfig(
    num_steps_conditioning=2, cond_channels=8, depths=[1, 1], channels=[8, 8], attn_depths=[0, 0], num_actions=3
)


def batch(b: int = 3, steps: int = 4, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    obs = torch.rand(b, steps, 3, size, size, generator=generator) * 2 - 1
    return obs, torch.randint(3, (b, steps), generator=generator)


@given(st.floats(0.002, 20), st.floats(0, 1), st.floats(0.1, 2))
def test_scalings_keep_unit_variance(sigma: float, offset: float, sigma_data: float) -> None:
    """EDM's two requirements: inputs and targets of unit variance for data of variance sigma_data^2."""
    cs = edm(torch.tensor([sigma], dtype=torch.float64), sigma_data, offset)
    variance = sigma**2 + offset**2
    c_in, c_out, c_skip = (c.item() for c in (cs.c_in, cs.c_out, cs.c_skip))
    assert c_in**2 * (variance + sigma_data**2) == pytest.approx(1)
    assert ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * variance) / c_out**2 == pytest.approx(1)


def test_quantise_truncates_and_nearest_keeps_levels() -> None:
    levels = torch.arange(256) / 255 * 2 - 1
    assert torch.equal(quantise(levels, nearest=True), levels)
    assert torch.equal(quantise(quantise(levels, nearest=True), nearest=True), levels)
    assert (quantise(levels) <= levels).all(), "truncation never brightens"
    assert torch.equal(quantise(torch.tensor([-7.0, 7.0])), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("size", [7, 8, 12])
def test_patches_keep_shapes(patch: int, size: int) -> None:
    model = Denoiser(DenoiserConfig(replace(SMALL, patch_size=patch)))
    obs, act = batch(size=size)
    frame = model.condition(obs[:, :2], act[:, :2])(torch.randn(3, 3, size, size), 1.0)
    assert frame.shape == (3, 3, size, size) and frame.dtype == torch.float32
    assert frame.abs().max() <= 1


def test_untrained_residual_model_repeats_the_last_frame() -> None:
    model = Denoiser(DenoiserConfig(SMALL, residual=True))
    torch.nn.init.zeros_(model.inner_model.conv_out.bias)  # its weight starts at zero
    obs, act = batch()
    past = quantise(obs[:, :2], nearest=True)
    for sigma in (0.002, 1.0, 5.0):
        frame = model.condition(past, act[:, :2])(torch.randn(3, 3, 8, 8), sigma)
        assert torch.equal(frame, past[:, -1])


@pytest.mark.parametrize("residual", [False, True])
@given(threshold=st.integers(1, 40), seed=st.integers(0, 99))
def test_small_changes_leave_a_pixel_as_it_was(residual: bool, threshold: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(256, (2, 3, 8, 8), generator=generator)
    changed = (levels + torch.randint(-60, 61, levels.shape, generator=generator)).clamp(0, 255)
    last, new = (quantise(x / 255 * 2 - 1, nearest=True) for x in (levels, changed))
    config = DenoiserConfig(SMALL, residual=residual, change_threshold=threshold)
    frame = Denoiser(config).image(new + 0.2 / 255, last)  # within the level whichever way it is rounded
    still = ((changed - levels).abs().amax(1, keepdim=True) <= threshold).expand_as(new)
    assert torch.equal(frame, torch.where(still, last, new))


def test_an_error_below_the_threshold_does_not_add_up() -> None:
    """Of a residual denoiser that brightens everything by two levels a step."""
    for threshold, brighter in ((0.0, 20), (2.0, 0), (1.0, 20)):
        model = Denoiser(DenoiserConfig(SMALL, residual=True, change_threshold=threshold))
        cs = model.precondition(torch.ones(1))
        torch.nn.init.constant_(model.inner_model.conv_out.bias, 2 * 2 / 255 / cs.c_out.item())
        window = torch.zeros(1, 2, 3, 8, 8) + 1 / 255  # level 128
        for _ in range(10):
            frame = model.condition(window, torch.zeros(1, 2, dtype=torch.int64))(torch.zeros(1, 3, 8, 8), 1.0)
            window = torch.cat((window[:, 1:], frame[:, None]), dim=1)
        assert torch.allclose((window[:, -1] + 1) * 127.5, torch.tensor(128.0 + brighter), atol=0.01)


def test_an_upsampler_has_no_threshold() -> None:
    with pytest.raises(BadConfig, match="change_threshold is for frames that follow one another"):
        DenoiserConfig(SMALL, upsampling_factor=3, change_threshold=1)


def test_loss_ignores_padding_and_needs_no_real_row() -> None:
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(SMALL))
    obs, act = batch()
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1:, 2:] = False

    def loss(frames: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return model.loss(frames, act, real, TrainingNoise.on("cpu", SigmaDistribution()))

    changed = obs.clone()
    changed[1:, 3] = 0.5  # the last targets of the padded rows
    assert torch.equal(loss(obs, mask), loss(changed, mask))
    assert loss(obs, torch.zeros_like(mask)) == 0


def test_pixel_weights_of_one_change_nothing() -> None:
    model = Denoiser(DenoiserConfig(SMALL))
    obs, act = batch()
    mask = torch.ones(3, 4, dtype=torch.bool)
    losses = []
    for weight in (None, lambda window: torch.ones_like(window[:, 0, :1]), lambda window: window[:, 0, :1] * 0 + 2):
        torch.manual_seed(1)
        losses.append(
            model.loss(obs, act, mask, TrainingNoise.on("cpu", SigmaDistribution()), pixel_weight=weight).item()
        )
    assert losses[0] == losses[1] and losses[2] == pytest.approx(2 * losses[0])


@pytest.mark.parametrize("residual", [False, True])
def test_noise_on_past_frames_is_added_and_its_level_handed_on(monkeypatch, residual: bool) -> None:
    model, seen = Denoiser(DenoiserConfig(replace(SMALL, noise_cond=True), residual=residual)), []
    inner = model.inner_model.forward
    monkeypatch.setattr(model.inner_model, "forward", lambda *args: seen.append(args) or inner(*args))
    obs, act = batch()
    mask, drawn = torch.ones(3, 3, dtype=torch.bool), []

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        drawn.append(torch.randn(shape))
        return drawn[-1]

    levels = torch.tensor([0.0, 0.3, 1.0])
    noise = TrainingNoise(lambda n: torch.full((n,), 0.7), normal, past=lambda n: levels)
    loss = model.loss(obs[:, :3], act[:, :3], mask, noise)
    past = obs[:, :2] + levels.view(3, 1, 1, 1, 1) * drawn[0]
    _, _, shown, _, given = seen[0]
    torch.testing.assert_close(shown, past.flatten(1, 2) / 0.5)
    torch.testing.assert_close(given, torch.tensor([0.0, math.log(0.3) / 4, 0.0]))
    # the target is the clean next frame; a residual output has to take the last frame's noise back
    cs = model.precondition(torch.full((3,), 0.7))
    noisy = obs[:, 2] + 0.3 * drawn[1] + 0.7 * drawn[2]
    base = past[:, -1] if residual else cs.c_skip * noisy
    output = model.model_output(noisy, cs, past, act[:, :2], levels)
    torch.testing.assert_close(loss, ((output - (obs[:, 2] - base) / cs.c_out) ** 2).mean())


def test_levels_of_noise_on_past_frames() -> None:
    torch.manual_seed(0)
    assert TrainingNoise.on("cpu", SigmaDistribution()).past is None
    past = TrainingNoise.of(SigmaDistribution(), torch.randn, torch.rand, past_noise=0.4).past
    assert past is not None
    levels = past(20_000)
    assert (levels == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    noised = levels[levels > 0]
    assert noised.mean().item() == pytest.approx(0.2, abs=0.01) and 0.39 < noised.max() <= 0.4


def test_multi_hot_action_of_one_key_is_that_action() -> None:
    model = Denoiser(DenoiserConfig(SMALL))
    torch.nn.init.normal_(model.inner_model.conv_out.weight)
    obs, act = batch()
    one_hot = torch.nn.functional.one_hot(act[:, :2], 3)
    noisy, sigma = torch.randn(3, 3, 8, 8), torch.tensor([0.5, 1.0, 2.0])
    expected = model.condition(obs[:, :2], act[:, :2])(noisy, sigma)
    assert torch.equal(model.condition(obs[:, :2], one_hot)(noisy, sigma), expected)


def test_sigma_distribution() -> None:
    torch.manual_seed(0)
    sigma = SigmaDistribution()(20_000, torch.randn, torch.rand)
    assert sigma.min() >= 2e-3 and sigma.max() <= 20
    assert sigma.log().mean().item() == pytest.approx(-0.4, abs=0.03)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=0.03)


def test_misfitting_sizes_are_told() -> None:
    with pytest.raises(ValueError, match="cond_channels 8 must be a multiple of num_steps_conditioning 3"):
        Denoiser(DenoiserConfig(replace(SMALL, num_steps_conditioning=3)))
    with pytest.raises(ValueError, match="describe the same levels"):
        Denoiser(DenoiserConfig(replace(SMALL, depths=[1])))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_gradients_in_bfloat16_of_the_smallest_images(size):
    for seed in range(5):
        torch.manual_seed(seed)
        x, down = torch.randn(144, 32, *size), Downsample(32)
        gradients = []
        for enabled in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                result = down(x)
            (grad,) = torch.autograd.grad(result.float().sin().sum(), [down.conv.weight])
            gradients.append(grad)
        assert (gradients[0] - gradients[1]).abs().max() < 0.02 * gradients[1].abs().max()
