"""Properties of the schedule and the sampler that hold for any configuration."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diamond_gym.sampler import QUALITIES, SamplerConfig, gammas, karras_sigmas, sample


class Constant:
    """Denoises everything to one image, so that every sampler must arrive there."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image, self.sigmas, self.conds = image, [], []

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        self.sigmas.append(sigma.item())
        self.conds.append(sigma_cond)
        return self.image.expand_as(noisy)


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
)


@given(configs)
def test_schedule_falls_to_zero(config: SamplerConfig) -> None:
    sigmas = karras_sigmas(config)
    assert len(sigmas) == config.num_denoising_steps + 1
    assert (sigmas[1:] < sigmas[:-1]).all() and sigmas[-1] == 0
    assert sigmas[0].item() == pytest.approx(config.sigma_max, rel=1e-4)
    if config.num_denoising_steps > 1:
        assert sigmas[-2].item() == pytest.approx(config.sigma_min, rel=1e-2)


@given(configs)
def test_every_sampler_arrives_at_a_constant_denoiser(config: SamplerConfig) -> None:
    image = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    denoiser = Constant(image)
    x, trajectory = sample(denoiser, torch.zeros(2, 4, 3, 2, 2), None, torch.randn(2, 3, 2, 2), config, torch.randn)
    assert len(trajectory) == config.num_denoising_steps + 1
    torch.testing.assert_close(x, image.expand(2, 3, 2, 2), atol=1e-4, rtol=0)
    heun_calls = config.num_denoising_steps - 1 if config.order == 2 else 0
    assert len(denoiser.sigmas) == config.num_denoising_steps + heun_calls
    assert all((cond is not None) == (config.s_cond > 0) for cond in denoiser.conds)


@given(configs)
def test_churn_stays_in_its_band(config: SamplerConfig) -> None:
    for gamma, sigma in zip(gammas(config), karras_sigmas(config).tolist(), strict=False):
        assert 0 <= gamma <= 2**0.5 - 1 + 1e-9
        assert gamma == 0 or config.s_tmin <= sigma <= config.s_tmax


def test_noise_is_needed_only_where_asked_for() -> None:
    args = (Constant(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 4, 3, 2, 2), None, torch.randn(1, 3, 2, 2))
    for config in QUALITIES.values():
        sample(*args, config)
    for config in (SamplerConfig(s_churn=1), SamplerConfig(s_cond=0.1)):
        with pytest.raises(ValueError, match="needs a source of noise"):
            sample(*args, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_denoising_steps": 0}, "at least 1"),
        ({"order": 3}, "order must be 1"),
        ({"sigma_min": 6.0}, "sigma_min <= sigma_max"),
        ({"s_churn": -1.0}, "must not be negative"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**fields)
