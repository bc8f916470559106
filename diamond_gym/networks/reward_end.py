"""The reward and end model: a convolutional encoder of transitions and an LSTM over them.

Alonso et al. 2024 (arXiv 2405.12399), appendix on the reward and termination model.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.errors import BadConfig
from diamond_gym.networks.blocks import Downsample, ResBlocks, conv3x3, embed, to_patches
from diamond_gym.schema import REWARD_END, check_config

if TYPE_CHECKING:
    from diamond_gym.networks.inference import FoldedRewardEnd

LstmState = tuple[Tensor, Tensor]
NUM_REWARD_CLASSES = 3
"""sign(reward) + 1 in {0, 1, 2}."""
NUM_END_CLASSES = 2


@dataclass(frozen=True)
class RewardEndConfig:
    """Sizes of the reward and end model; the defaults are the paper's for Atari."""

    lstm_dim: int = 512
    img_channels: int = 3
    img_size: int = 64
    """Height of the frames."""
    cond_channels: int = 128
    depths: list[int] = field(default_factory=lambda: [2, 2, 2, 2])
    channels: list[int] = field(default_factory=lambda: [32, 32, 32, 32])
    attn_depths: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    num_actions: int | None = None
    patch_size: int = 1
    """Pixels per side folded into channels at the network's input (1: the paper's network)."""
    difference: bool = False
    """Show the network next_obs - obs in place of next_obs. Rewards often depend on a few pixels that change,
    hardly visible in either frame but plain in their difference. Not the paper's."""
    img_width: int | None = None
    """Width of the frames, where it differs from the height (None: the height)."""

    def __post_init__(self) -> None:
        check_config(self, REWARD_END)


class TransitionEncoder(nn.Module):
    """The U-Net's way down, conditioned on an action, with two attention blocks at the bottom."""

    def __init__(self, config: RewardEndConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        channels, cond = config.channels, config.cond_channels
        self.conv_in = conv3x3(2 * config.img_channels * config.patch_size**2, channels[0])
        blocks = []
        for i, n in enumerate(config.depths):
            c_prev, c = channels[max(0, i - 1)], channels[i]
            blocks.append(ResBlocks([c_prev] + [c] * (n - 1), [c] * n, cond, bool(config.attn_depths[i])))
        blocks.append(ResBlocks([channels[-1]] * 2, [channels[-1]] * 2, cond, attn=True))
        self.blocks = nn.ModuleList(blocks)
        self.downsamples = nn.ModuleList([nn.Identity(), *(Downsample(c) for c in channels[:-1]), nn.Identity()])

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Frame pairs (B, 2C, H, W) and action embeddings (B, cond_channels) -> features (B, C', H', W')."""
        x = self.conv_in(to_patches(x, self.patch_size))
        for downsample, block in zip(self.downsamples, self.blocks, strict=True):
            x, _ = block(downsample(x), cond)
        return x


class RewardEnd(nn.Module):
    """Logits of sign(reward) and of the episode's end for each transition of a sequence."""

    def __init__(self, config: RewardEndConfig) -> None:
        super().__init__()
        if config.num_actions is None:
            raise BadConfig("the reward and end model needs num_actions")
        self.config = config
        self.encoder = TransitionEncoder(config)
        self.act_emb = nn.Embedding(config.num_actions, config.cond_channels)
        h, w = (-(-side // config.patch_size) for side in (config.img_size, config.img_width or config.img_size))
        for _ in config.channels[1:]:
            h, w = -(-h // 2), -(-w // 2)  # a stride-2 convolution with padding 1 rounds up
        self.lstm = nn.LSTM(config.channels[-1] * h * w, config.lstm_dim, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(config.lstm_dim, config.lstm_dim),
            nn.SiLU(),
            nn.Linear(config.lstm_dim, NUM_REWARD_CLASSES + NUM_END_CLASSES, bias=False),
        )
        init_lstm_(self.lstm)
        self.float()  # whatever torch's default is: dreams and weights files are float32

    def forward(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, state: LstmState | None = None
    ) -> tuple[Tensor, Tensor, LstmState]:
        """Scores transitions.

        Args:
            obs: Frames in [-1, 1] the actions were taken in, float32 (B, T, C, H, W).
            act: Actions, int64 (B, T), or vectors (B, T, A).
            next_obs: The frames that followed, float32 (B, T, C, H, W); where a step ended its episode, the
                episode's true final frame.
            state: LSTM state (hx, cx), each (1, B, lstm_dim), zero where not given.

        Returns:
            Reward logits (B, T, 3) for the signs -1, 0 and 1, end logits (B, T, 2), and the LSTM state after the
            last transition, all float32.
        """
        b, t = act.shape[:2]
        second = next_obs - obs if self.config.difference else next_obs
        x = self.encoder(
            torch.cat((obs, second), dim=2).flatten(0, 1),  # (B*T, 2C, H, W)
            embed(self.act_emb, act.flatten(0, 1)),
        )
        x, (hx, cx) = self.lstm(x.reshape(b, t, -1), state)
        logits = self.head(x).float()
        logits_rew, logits_end = logits.split((NUM_REWARD_CLASSES, NUM_END_CLASSES), dim=-1)
        return logits_rew, logits_end, (hx, cx)

    def fold(self, dtype: torch.dtype) -> "FoldedRewardEnd":
        """The model prepared for dreams, in their arithmetic and without gradient."""
        from diamond_gym.networks.inference import FoldedRewardEnd

        return FoldedRewardEnd(self, dtype)

    def loss(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, rew: Tensor, end: Tensor, mask_padding: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cross-entropies of sign(reward) and of end over the real steps, 0 where there is none.

        Args:
            obs, act, next_obs: As in forward.
            rew: Rewards of any size, float32 (B, T).
            end: Whether the step ended the episode, (B, T) bool or int64.
            mask_padding: bool (B, T), True where the step is real; or the steps' weights, float32.

        Returns:
            The reward loss and the end loss (scalars), and both logits.
        """
        logits_rew, logits_end, _ = self(obs, act, next_obs)
        weight = mask_padding.float().flatten()
        weight = weight / weight.sum().clamp(min=1e-6)  # a sum, as a choice of rows would wait for the device
        classes = rew.sign().long() + 1, end.long()
        loss_rew, loss_end = (
            (F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none") * weight).sum()
            for logits, wanted in zip((logits_rew, logits_end), classes, strict=True)
        )
        return loss_rew, loss_end, logits_rew, logits_end


def init_lstm_(lstm: nn.LSTM | nn.LSTMCell) -> None:
    """Xavier input weights, orthogonal recurrent weights, zero biases with the forget gate's input bias at 1."""
    for name, parameter in lstm.named_parameters():
        if "weight_ih" in name:
            nn.init.xavier_uniform_(parameter.data)
        elif "weight_hh" in name:
            nn.init.orthogonal_(parameter.data)
        else:
            parameter.data.zero_()
            if "bias_ih" in name:
                quarter = parameter.shape[0] // 4  # gates are ordered input, forget, cell, output
                parameter.data[quarter : 2 * quarter].fill_(1)
