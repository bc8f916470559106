"""The agent: a small convolutional encoder, an LSTM cell, a policy head and a value head.

Alonso et al. 2024 (arXiv 2405.12399), section on reinforcement learning in imagination.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.errors import BadConfig
from diamond_gym.networks.blocks import GroupNorm, conv1x1, conv3x3, zero_
from diamond_gym.networks.reward_end import LstmState, init_lstm_
from diamond_gym.schema import ACTOR_CRITIC, check_config


@dataclass(frozen=True)
class ActorCriticConfig:
    """Sizes of the agent; the defaults are the paper's for Atari."""

    lstm_dim: int = 512
    img_channels: int = 3
    img_size: int = 64
    """Height of the frames."""
    channels: list[int] = field(default_factory=lambda: [32, 32, 64, 64])
    down: list[int] = field(default_factory=lambda: [1, 1, 1, 1])
    num_actions: int | None = None
    img_width: int | None = None
    """Width of the frames, where it differs from the height (None: the height)."""

    def __post_init__(self) -> None:
        check_config(self, ACTOR_CRITIC)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Of the frames that it sees, (H, W, C)."""
        return self.img_size, self.img_width or self.img_size, self.img_channels


class SmallResBlock(nn.Module):
    """A residual block: conv(silu(norm(x))) plus a skip, no condition."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.f = nn.Sequential(GroupNorm(in_channels), nn.SiLU(), conv3x3(in_channels, out_channels))
        same_width = in_channels == out_channels
        self.skip_projection = nn.Identity() if same_width else conv1x1(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.skip_projection(x) + self.f(x)  # type: ignore[no-any-return]


class FrameEncoder(nn.Module):
    """A residual block and, where the level asks for it, a 2x2 max-pool, level after level."""

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__()
        self.least = 2 ** sum(config.down)
        layers: list[nn.Module] = [conv3x3(config.img_channels, config.channels[0])]
        for i, (c, down) in enumerate(zip(config.channels, config.down, strict=True)):
            layers.append(SmallResBlock(config.channels[max(0, i - 1)], c))
            layers.append(nn.MaxPool2d(2) if down else nn.Identity())
        self.encoder = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, img_channels, H, W) -> (B, channels[-1], H / 2^n, W / 2^n), at least 1 a side, with n pools."""
        h, w = x.shape[-2:]
        if h < self.least or w < self.least:  # nothing would be left of them
            x = F.pad(x, (0, max(0, self.least - w), 0, max(0, self.least - h)))
        return self.encoder(x)  # type: ignore[no-any-return]


class ActorCritic(nn.Module):
    """A recurrent policy and its value over single frames."""

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__()
        if config.num_actions is None:
            raise BadConfig("the actor-critic needs num_actions")
        self.config = config
        self.encoder = FrameEncoder(config)
        h, w = (max(1, side // self.encoder.least) for side in config.frame_shape[:2])
        self.lstm = nn.LSTMCell(config.channels[-1] * h * w, config.lstm_dim)
        self.critic_linear = nn.Linear(config.lstm_dim, 1)
        self.actor_linear = nn.Linear(config.lstm_dim, config.num_actions)
        zero_(self.critic_linear)
        zero_(self.actor_linear)
        init_lstm_(self.lstm)
        self.float()  # whatever torch's default is: dreams and weights files are float32

    def initial_state(self, batch: int, device: torch.device | str = "cpu") -> LstmState:
        """A zero LSTM state: two float32 (batch, lstm_dim)."""
        zeros = torch.zeros(batch, self.config.lstm_dim, dtype=torch.float32, device=device)
        return zeros, zeros.clone()

    def forward(self, obs: Tensor, state: LstmState) -> tuple[Tensor, Tensor, LstmState]:
        """One step: obs in [-1, 1] float32 (B, C, H, W) -> action logits (B, A), value (B,), next LSTM state."""
        x = self.encoder(obs).flatten(1)
        hx, cx = self.lstm(x, state)
        return self.actor_linear(hx).float(), self.critic_linear(hx).float().squeeze(-1), (hx, cx)

    def sequence(self, obs: Tensor, state: LstmState) -> tuple[Tensor, Tensor, LstmState]:
        """L steps: obs (B, L, C, H, W) -> logits (B, L, A), values (B, L), next state; the encoder sees all at once."""
        hx, cx = state
        hidden = []
        for x in self.encoder(obs.flatten(0, 1)).flatten(1).unflatten(0, obs.shape[:2]).unbind(1):
            hx, cx = self.lstm(x, (hx, cx))
            hidden.append(hx)
        after = torch.stack(hidden, dim=1)
        return self.actor_linear(after).float(), self.critic_linear(after).float().squeeze(-1), (hx, cx)
