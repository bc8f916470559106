"""Models of two stages: the golden one, and one whose arithmetic is exact at any batch size."""

from dataclasses import asdict

import numpy as np
import torch
from stubs import Conditioned, StubWorldModel, levels
from test_golden import CSGO_INNER, CSGO_UPSAMPLER_INNER, GOLDEN, load_part
from torch import nn

from diamond_gym.csgo import NAMES, NUM_INPUTS, SIZES, CsgoActions, encode
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig
from diamond_gym.registry import Card
from diamond_gym.starts import Starts
from diamond_gym.two_stage import TwoStageDream, TwoStageSampler
from diamond_gym.world_model import WorldModel

T, SMALL, LARGE = 4, (6, 8), (30, 40)


def engine_starts(n: int = 5, small=SMALL, large=LARGE, t: int = T, recorded: int = 3, seed: int = 0) -> Starts:
    """Noise, with actions that could be; the k-th player's recording is k actions shorter than `recorded`, or 0."""
    rng = np.random.default_rng(seed)
    act = encode(rng.integers(0, SIZES, (n, t - 1 + recorded, len(SIZES))))
    next_act = act[:, t - 1 :].astype(np.int8)
    for k in range(n):
        next_act[k, max(0, recorded - k) :] = -1
    frames = [rng.integers(0, 256, (n, k, *size, 3), dtype=np.uint8) for k, size in ((t, small), (1, large))]
    return Starts(frames[0], act[:, : t - 1], np.zeros(n, bool), frames[1], next_act)


def golden_engine(**kwargs) -> WorldModel:
    """The authors' networks at golden size, with starts of noise."""
    dynamics = Denoiser(DenoiserConfig(CSGO_INNER, sigma_offset_noise=0.1, noise_previous_obs=True))
    upsampler = Denoiser(DenoiserConfig(CSGO_UPSAMPLER_INNER, sigma_offset_noise=0.1, upsampling_factor=5))
    for prefix, part in (("denoiser.", dynamics), ("upsampler.", upsampler)):
        load_part(GOLDEN / "csgo" / "csgo.pt", prefix, part)
    return WorldModel(
        dynamics, upsampler=upsampler, card=engine_card(dynamics, upsampler), starts=engine_starts(**kwargs)
    )


def engine_card(dynamics: Denoiser, upsampler: Denoiser, size: tuple[int, int] = LARGE) -> Card:
    """A card of the two networks; `size` is that of the large frames."""
    return Card(
        name="csgo-diamond",
        game="CSGO",
        created="2024-10-31T00:00:00Z",
        spaces={"obs_shape": [*size, 3], "num_actions": NUM_INPUTS, "actions": {"kind": "csgo"}},
        denoiser=asdict(dynamics.config),
        upsampler=asdict(upsampler.config),
    )


class StubDynamics(Conditioned, nn.Module):
    """The next small frame is integer arithmetic on the window's levels, the actions and the rounded noise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner_model = nn.Identity()

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        past = (levels(obs) * torch.arange(1, obs.shape[1] + 1).view(1, -1, 1, 1, 1)).sum(1)
        acted = (act * torch.arange(1, act.shape[1] * NUM_INPUTS + 1).view(-1, NUM_INPUTS)).sum((1, 2))
        total = past + acted[:, None, None, None] + (noisy * 8).floor().long()
        return (total % 256).float() / 255 * 2 - 1


class StubUpsampler(Conditioned, nn.Module):
    """The same of the large frame before and the enlarged small one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner_model = nn.Identity()

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        assert act is None
        past, enlarged = levels(obs).unbind(1)
        return ((past + 3 * enlarged + (noisy * 8).floor().long()) % 256).float() / 255 * 2 - 1


class StubEngine(StubWorldModel):
    """What the environments need of a WorldModel of two stages."""

    def __init__(self, **kwargs) -> None:
        super().__init__("engine")
        self.denoiser, self.upsampler, self.reward_end = StubDynamics(), StubUpsampler(), None
        self.starts = engine_starts(**kwargs)
        self.obs_shape, self.num_actions = (*LARGE, 3), NUM_INPUTS
        self.action_meanings, self.codec = NAMES, CsgoActions()

    def dream(self, num_envs, *, sampler=None, horizon=50, seed=None, starts="any") -> TwoStageDream:
        return TwoStageDream(
            self.denoiser, None, self.upsampler, self.starts, num_envs, sampler or TwoStageSampler(), horizon,
            seed=seed, choice=starts, model=self.card.name,
        )  # fmt: skip
