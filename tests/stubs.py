"""A world model whose arithmetic is exact at any batch size, so that tests can ask for equality."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from diamond_gym.dream import Dream
from diamond_gym.sampler import SamplerConfig
from diamond_gym.starts import Starts

T, SIZE, ACTIONS, MEMORY = 4, 8, 4, 3


def levels(frames: Tensor) -> Tensor:
    return ((frames + 1) * 127.5).round().long()


class StubDenoiser(nn.Module):
    """The next frame is integer arithmetic on the window's levels, the actions and the rounded noise."""

    def __init__(self, salt: int = 0) -> None:
        super().__init__()
        self.salt = nn.Parameter(torch.tensor(float(salt)), requires_grad=False)
        self.inner_model = nn.Identity()
        self.calls = 0

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        self.calls += 1
        past = (levels(obs) * torch.arange(1, obs.shape[1] + 1, device=obs.device).view(1, -1, 1, 1, 1)).sum(
            1
        )
        acted = (act * torch.tensor([3, 5, 7, 11], device=act.device)).sum(1)
        total = past + acted[:, None, None, None] + (noisy * 8).floor().long() + self.salt.long()
        return (total % 256).float() / 255 * 2 - 1


class StubRewardEnd(nn.Module):
    """Logits and memory are small integers; an end is likelier the longer and the odder the dream."""

    def __init__(self, end_bias: float = 0.0) -> None:
        super().__init__()
        self.end_bias = end_bias

    def forward(self, obs, act, next_obs, state=None):
        b, t = act.shape[:2]
        hx, cx = state if state is not None else (torch.zeros(1, b, MEMORY), torch.zeros(1, b, MEMORY))
        rews, ends = [], []
        for i in range(t):
            seen = levels(obs[:, i]).sum((1, 2, 3)) + 2 * levels(next_obs[:, i]).sum((1, 2, 3)) + act[:, i]
            hx = (hx * 3 + (seen % 17).float()[None, :, None] + torch.arange(MEMORY)) % 11
            cx = cx + 1
            rews.append(torch.stack([hx[0, :, 0] % 3, hx[0, :, 1] % 4, hx[0, :, 2] % 3], dim=1))
            ends.append(torch.stack([torch.full((b,), 3.0), hx[0, :, 0] / 4 + self.end_bias], dim=1))
        return torch.stack(rews, 1), torch.stack(ends, 1), (hx, cx)


def make_starts(n: int = 6, size: int = SIZE, t: int = T, seed: int = 0) -> Starts:
    rng = np.random.default_rng(seed)
    obs = rng.integers(0, 256, (n, t, size, size, 3), dtype=np.uint8)
    return Starts(obs, rng.integers(0, ACTIONS, (n, t - 1)), np.arange(n) % 3 == 0)


class StubWorldModel(nn.Module):
    """What the environments need of a WorldModel."""

    def __init__(self, name: str = "stub", salt: int = 0, end_bias: float = 0.0, size: int = SIZE) -> None:
        super().__init__()
        self.denoiser = StubDenoiser(salt)
        self.reward_end = StubRewardEnd(end_bias)
        self.actor_critic = self.upsampler = None
        self.starts = make_starts(size=size)
        self.card = SimpleNamespace(name=name, sampler={}, action_meanings=("NOOP", "FIRE", "RIGHT", "LEFT"))
        self.obs_shape, self.num_actions = (size, size, 3), ACTIONS
        self.device = torch.device("cpu")

    def dream(self, num_envs, *, sampler=None, horizon=50, seed=None, starts="any") -> Dream:
        return Dream(
            self.denoiser, self.reward_end, self.starts, num_envs, sampler or SamplerConfig(), horizon,
            seed=seed, choice=starts, model=self.card.name,
        )  # fmt: skip
