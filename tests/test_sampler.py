"""Properties of the schedule and the sampler that hold for any configuration."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diamond_gym.sampler import QUALITIES, SamplerConfig, ancestral_levels, gamma, karras_sigmas, sample


class Constant:
    """Denoises everything to one image, so that every sampler must arrive there."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image, self.sigmas, self.conds = image, [], []

    def condition(self, obs, act, sigma_cond, sigmas):
        def denoise(x, sigma):
            self.sigmas.append(sigma)
            self.conds.append(sigma_cond)
            return self.image.expand_as(x)

        return denoise


configs = st.builds(
    SamplerConfig,
    num_denoising_steps=st.integers(1, 8),
    sigma_max=st.floats(1, 80),
    rho=st.floats(1, 10),
    order=st.sampled_from([1, 2]),
    s_churn=st.floats(0, 10),
    s_tmin=st.floats(0, 1),
    s_noise=st.floats(0, 1.1),
    s_cond=st.sampled_from([0.0, 0.005]),
) | st.builds(
    SamplerConfig,
    num_denoising_steps=st.integers(1, 8),
    sigma_max=st.floats(1, 80),
    rho=st.floats(1, 10),
    eta=st.floats(0, 1),
)


@given(configs)
def test_schedule_falls_to_zero(config: SamplerConfig) -> None:
    sigmas = karras_sigmas(config)
    assert len(sigmas) == config.num_denoising_steps + 1
    assert all(low < high for high, low in pairwise(sigmas)) and sigmas[-1] == 0
    assert sigmas[0] == pytest.approx(config.sigma_max, rel=1e-4)
    if config.num_denoising_steps > 1:
        assert sigmas[-2] == pytest.approx(config.sigma_min, rel=1e-2)


@given(configs)
def test_every_sampler_arrives_at_a_constant_denoiser(config: SamplerConfig) -> None:
    image = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    denoiser = Constant(image)
    x, trajectory = sample(
        denoiser.condition, torch.zeros(2, 4, 3, 2, 2), None, torch.randn(2, 3, 2, 2), config, torch.randn
    )
    assert len(trajectory) == config.num_denoising_steps + 1
    torch.testing.assert_close(x, image.expand(2, 3, 2, 2), atol=1e-4, rtol=0)
    heun_calls = config.num_denoising_steps - 1 if config.order == 2 else 0
    assert len(denoiser.sigmas) == config.num_denoising_steps + heun_calls
    assert all((cond is not None) == (config.s_cond > 0) for cond in denoiser.conds)


@given(configs)
def test_churn_stays_in_its_band(config: SamplerConfig) -> None:
    for sigma in karras_sigmas(config)[:-1]:
        assert 0 <= gamma(config, sigma) <= 2**0.5 - 1 + 1e-9
        assert gamma(config, sigma) == 0 or config.s_tmin <= sigma <= config.s_tmax


@given(st.floats(1e-3, 50), st.floats(0.01, 0.99), st.floats(0, 1))
def test_ancestral_steps_keep_the_level(sigma: float, part: float, eta: float) -> None:
    low = sigma * part
    down, up = ancestral_levels(sigma, low, eta)
    assert down**2 + up**2 == pytest.approx(low**2)
    assert up > 0 or eta < 1e-9
    # DDPM's posterior: what is left of the old noise is part of what was there
    assert down <= low and up <= low


class Coin:
    """The best denoiser of an image of one value that is 1 in a quarter of all cases, else -1."""

    def condition(self, obs, act, sigma_cond, sigmas):
        return lambda x, sigma: torch.tanh(x / sigma**2 - 0.5 * math.log(3))


def test_three_ancestral_steps_draw_what_three_deterministic_ones_average() -> None:
    """Beginning, like the paper, with noise of variance 1 at a level of 5, the mean is all that Euler's steps know."""
    torch.manual_seed(0)
    args = Coin().condition, torch.zeros(4000, 4, 1, 1, 1), None, torch.randn(4000, 1, 1, 1)
    mean, _ = sample(*args, SamplerConfig())
    drawn, _ = sample(*args, SamplerConfig(eta=1.0, sigma_min=0.2), torch.randn)
    many, _ = sample(*args, SamplerConfig(20, eta=1.0), torch.randn)
    assert (mean > 0).float().mean() < 0.01, "never what is not the likeliest"
    assert 0.1 < (drawn > 0).float().mean() < 0.3
    assert 0.18 < (many > 0).float().mean() < 0.3
    assert (drawn.abs() > 0.9).float().mean() > 0.9


def test_noise_is_needed_only_where_asked_for() -> None:
    args = (Constant(torch.zeros(1, 3, 2, 2)).condition, torch.zeros(1, 4, 3, 2, 2), None, torch.randn(1, 3, 2, 2))
    for config in QUALITIES.values():
        sample(*args, config)
    for config in (SamplerConfig(s_churn=1), SamplerConfig(s_cond=0.1), SamplerConfig(eta=0.5)):
        with pytest.raises(ValueError, match="needs a source of noise"):
            sample(*args, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_denoising_steps": 0}, "from 1 to"),
        ({"order": 3}, "'order' must be a whole number from 1 to 2"),
        ({"sigma_min": 6.0}, "sigma_min must not be more"),
        ({"s_churn": -1.0}, "from 0 to"),
        ({"rho": math.nan}, "a number from"),
        ({"eta": 1.5}, "'eta' must be a number from 0 to 1"),
        ({"eta": 1.0, "order": 2}, "eta must be 0 with order 2"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**fields)
