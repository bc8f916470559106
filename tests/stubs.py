"""A world model whose arithmetic is exact at any batch size, so that tests can ask for equality."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from diamond_gym.actions import ActionCodec, Discrete
from diamond_gym.dream import Dream
from diamond_gym.frames import to_pixels
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.registry import Card, save_model
from diamond_gym.sampler import SamplerConfig
from diamond_gym.starts import Starts
from diamond_gym.world_model import WorldModel

T, SIZE, ACTIONS, MEMORY = 4, 8, 4, 3
MEANINGS = ["NOOP", "FIRE", "UP", "UPFIRE"]


def levels(frames: Tensor) -> Tensor:
    return ((frames + 1) * 127.5).round().long()


class Conditioned:
    """Gives `denoise(x, sigma)` to a stub that has all in one method."""

    def condition(self, obs, act, sigma_cond=None, sigmas=()):
        return lambda noisy, sigma: self.denoise(noisy, sigma, obs, act, sigma_cond)


class StubDenoiser(Conditioned, nn.Module):
    """The next frame is integer arithmetic on the window's levels, the actions and the rounded noise."""

    def __init__(self, salt: int = 0) -> None:
        super().__init__()
        self.salt = nn.Parameter(torch.tensor(float(salt)), requires_grad=False)
        self.inner_model = nn.Identity()
        self.calls = 0

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        self.calls += 1
        past = (levels(obs) * torch.arange(1, obs.shape[1] + 1, device=obs.device).view(1, -1, 1, 1, 1)).sum(1)
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


def make_starts(n: int = 6, size: int = SIZE, t: int = T, seed: int = 0, codec: ActionCodec | None = None) -> Starts:
    rng = np.random.default_rng(seed)
    obs = rng.integers(0, 256, (n, t, size, size, 3), dtype=np.uint8)
    if codec is None:
        act = rng.integers(0, ACTIONS, (n, t - 1))
    else:
        act = codec.encode(codec.sample(rng, n * (t - 1)).reshape(n, t - 1, *codec.shape))
    return Starts(obs, act, np.arange(n) % 3 == 0)


class StubWorldModel(nn.Module):
    """What the environments need of a WorldModel."""

    def __init__(self, name: str = "stub", salt: int = 0, end_bias: float = 0.0, size: int = SIZE) -> None:
        super().__init__()
        self.denoiser = StubDenoiser(salt)
        self.reward_end = StubRewardEnd(end_bias)
        self.actor_critic = self.upsampler = None
        self.precision = "float32"
        self.starts = make_starts(size=size)
        self.card = SimpleNamespace(name=name, sampler={}, is_student=False)
        self.obs_shape, self.num_actions, self.codec = (size, size, 3), ACTIONS, Discrete(ACTIONS)
        self.action_meanings = MEANINGS
        self.device = torch.device("cpu")

    def dream(self, num_envs, *, sampler=None, horizon=50, seed=None, starts="any") -> Dream:
        return Dream(
            self.denoiser, self.reward_end, self.starts, num_envs, sampler or SamplerConfig(), horizon,
            seed=seed, choice=starts, model=self.card.name,
        )  # fmt: skip


def tiny_networks(size: int = 16, seed: int = 0, num_actions: int = ACTIONS) -> tuple[Denoiser, RewardEnd]:
    """The real networks, as small as they can be and not zero anywhere."""
    torch.manual_seed(seed)
    shape = {"channels": [8, 8], "depths": [1, 1], "attn_depths": [0, 0], "cond_channels": 16}
    inner = InnerModelConfig(num_steps_conditioning=T, num_actions=num_actions, **shape)
    denoiser = Denoiser(DenoiserConfig(inner))
    reward_end = RewardEnd(RewardEndConfig(lstm_dim=8, img_size=size, num_actions=num_actions, **shape))
    for parameter in [*denoiser.parameters(), *reward_end.parameters()]:
        if parameter.ndim > 1 and not parameter.any():  # the zero initialisation would hide the network
            nn.init.normal_(parameter, std=0.05)
    return denoiser.eval(), reward_end.eval()


def actions(seed: int, steps: int, batch: int) -> Tensor:
    """Random ones, of shape (steps, batch)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, ACTIONS, (steps, batch)))


def trace(step) -> tuple[Tensor, ...]:
    """All that a step tells, as integers and flags."""
    return (*to_pixels(step.obs), step.rew, step.end, step.trunc, step.start, *to_pixels(step.final_obs))


def tiny_dream(num_envs: int, **kwargs) -> Dream:
    """A dream of the real networks."""
    return Dream(*tiny_networks(), make_starts(5, size=16), num_envs, **kwargs)


def save_tiny_model(
    name: str = "tiny", game: str = "Breakout", size: int = 16, seed: int = 0, codec: ActionCodec | None = None
) -> WorldModel:
    """A model of the real networks in the user's registry, which a test has for itself."""
    num_actions = ACTIONS if codec is None else codec.num_inputs
    denoiser, reward_end = tiny_networks(size, seed, num_actions)
    kind = {"action_meanings": MEANINGS} if codec is None else {"actions": codec.table}
    card = Card(
        name=name,
        game=game,
        created="2026-11-22T12:00:00Z",
        spaces={"obs_shape": [size, size, 3], "num_actions": num_actions, **kind},
        denoiser=asdict(denoiser.config),
        reward_end=asdict(reward_end.config),
        sampler={"num_denoising_steps": 2},
    )
    model = WorldModel(denoiser, reward_end, card=card, starts=make_starts(size=size, codec=codec))
    save_model(card, model.weights(), model.starts)
    return model
