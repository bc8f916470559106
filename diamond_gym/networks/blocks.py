"""Building blocks of DIAMOND's networks: norms, attention, residual blocks, the U-Net.

The attribute names below are part of a file format: together they spell the state-dict keys of the
released checkpoints, which therefore load without a renaming table.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.errors import BadConfig

GROUP_SIZE = 32
GROUP_NORM_EPS = 1e-5
ATTENTION_HEAD_DIM = 8
SHORT_ATTENTION = 256


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A pointwise convolution, (B, in, H, W) -> (B, out, H, W)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the image size, (B, in, H, W) -> (B, out, H, W)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def to_patches(x: Tensor, patch: int) -> Tensor:
    """Folds patches into channels, (B, C, H, W) -> (B, C * patch^2, H', W'); zeros fill up right and bottom."""
    if patch == 1:
        return x
    pad_h, pad_w = -x.shape[-2] % patch, -x.shape[-1] % patch
    return F.pixel_unshuffle(F.pad(x, (0, pad_w, 0, pad_h)) if pad_h or pad_w else x, patch)


def from_patches(x: Tensor, patch: int, shape: torch.Size) -> Tensor:
    """The way back from `to_patches`, to images of that shape's height and width."""
    return F.pixel_shuffle(x, patch)[..., : shape[-2], : shape[-1]] if patch > 1 else x


def zero_(module: nn.Linear | nn.Conv2d, bias: bool = True) -> None:
    """Zeroes a layer's weight, and its bias if asked, so that its branch starts out silent."""
    nn.init.zeros_(module.weight)
    if bias and module.bias is not None:
        nn.init.zeros_(module.bias)


def num_groups(channels: int) -> int:
    """How many groups the paper's group norm has at this width.

    The paper's widths are multiples of 32; for others, the next smaller number that divides the width.
    """
    groups = max(1, channels // GROUP_SIZE)
    while channels % groups:
        groups -= 1
    return groups


@cache
def _triton_norm() -> Callable[..., Tensor] | None:
    try:
        from diamond_gym.networks.triton_norm import group_norm
    except ImportError:  # Triton comes with torch's builds for GPUs alone
        return None
    return group_norm


def fused_norm(x: Tensor) -> Callable[..., Tensor] | None:
    """`triton_norm.group_norm`, which takes the place of several kernels of torch, where x is on a GPU; else None.

    None, too, without Triton and in what torch.compile compiles.
    """
    return _triton_norm() if x.is_cuda and not torch.compiler.is_compiling() else None


class GroupNorm(nn.Module):
    """Group norm with a learned affine part, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups(channels), channels, eps=GROUP_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W)."""
        if (fused := fused_norm(x)) is not None:
            return fused(x, self.norm.num_groups, self.norm.weight, self.norm.bias, GROUP_NORM_EPS, silu=False)
        return self.norm(x)  # type: ignore[no-any-return]


class AdaGroupNorm(nn.Module):
    """Group norm whose scale and shift are linear in a condition, and SiLU: silu(norm(x) * (1 + scale) + shift)."""

    def __init__(self, channels: int, cond_channels: int) -> None:
        super().__init__()
        self.groups = num_groups(channels)
        self.linear = nn.Linear(cond_channels, 2 * channels)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Normalises (B, C, H, W) under a condition (B, cond_channels)."""
        scale, shift = self.linear(cond).chunk(2, dim=1)
        if (fused := fused_norm(x)) is not None:
            return fused(x, self.groups, 1 + scale.float(), shift, GROUP_NORM_EPS, silu=True)
        x = F.group_norm(x, self.groups, eps=GROUP_NORM_EPS)
        return F.silu(x * (1 + scale[:, :, None, None]) + shift[:, :, None, None])


class SelfAttention2d(nn.Module):
    """Self-attention over the pixels of a feature map, in heads of width 8.

    The residual is taken from the *normalised* input, as in the released networks.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // ATTENTION_HEAD_DIM)
        if channels % self.heads:
            raise BadConfig(f"attention needs a multiple of {ATTENTION_HEAD_DIM} channels, got {channels}")
        self.norm = GroupNorm(channels)
        self.qkv_proj = conv1x1(channels, 3 * channels)
        self.out_proj = conv1x1(channels, channels)
        zero_(self.out_proj)

    def forward(self, x: Tensor) -> Tensor:
        """Attends over the H * W pixels of (B, C, H, W)."""
        b, c, h, w = x.shape
        x = self.norm(x)
        # (B, 3C, H, W) -> 3 x (B, heads, head_dim, H*W)
        q, k, v = self.qkv_proj(x).reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        if h * w <= SHORT_ATTENTION and not x.is_cuda:
            # the fused kernels of a CPU are three times slower than this on so few pixels and so narrow heads
            weights = (q.transpose(-1, -2) * (c // self.heads) ** -0.5 @ k).softmax(-1)  # (B, heads, H*W, H*W)
            y = v @ weights.transpose(-1, -2)
        else:
            y = F.scaled_dot_product_attention(*(i.transpose(-1, -2) for i in (q, k, v))).transpose(-1, -2)
        return x + self.out_proj(y.reshape(b, c, h, w))  # type: ignore[no-any-return]


class FourierFeatures(nn.Module):
    """Random Fourier features of a scalar, (B,) -> (B, channels)."""

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise BadConfig(f"Fourier features come in pairs, got {channels} channels")
        self.register_buffer("weight", torch.randn(1, channels // 2, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Cosines, then sines, of random frequencies."""
        f = 2 * math.pi * x[:, None] @ self.weight
        return torch.cat((f.cos(), f.sin()), dim=-1)


def embed(table: nn.Embedding, act: Tensor) -> Tensor:
    """Embeds actions: numbers int64 (N,) are looked up, vectors (N, A) go through the table as a linear map.

    A vector of zeros and ones is thus the sum of rows, as in the released networks for CS:GO.
    """
    if act.ndim == 1:
        return table(act)  # type: ignore[no-any-return]
    return act.to(table.weight.dtype) @ table.weight


class ActionEmbedding(nn.Sequential):
    """An embedding of the last `past` actions: int64 (B, T) or vectors (B, T, A) -> (B, past * width)."""

    def __init__(self, num_actions: int, width: int, past: int) -> None:
        super().__init__(nn.Embedding(num_actions, width))
        self.past = past

    def forward(self, act: Tensor) -> Tensor:
        """Embeds the actions one by one."""
        table, act = self[0], act[:, -self.past :]
        assert isinstance(table, nn.Embedding)
        return embed(table, act.flatten(0, 1)).reshape(len(act), -1)


class Downsample(nn.Module):
    """Halves the image size with a strided 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)
        nn.init.orthogonal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2), odd sizes rounded up."""
        if min(x.shape[-2:]) == 1 and x.device.type == "cpu" and self.conv.weight.dtype == torch.float32:
            # in bfloat16 torch's gradient of these weights is garbage there (2.13.0)
            with torch.autocast("cpu", enabled=False):
                return self.conv(x.float())  # type: ignore[no-any-return]
        return self.conv(x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles the image size: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class ResBlock(nn.Module):
    """Two conditioned 3x3 convolutions with a skip, then self-attention where asked for."""

    def __init__(self, in_channels: int, out_channels: int, cond_channels: int, attn: bool) -> None:
        super().__init__()
        same_width = in_channels == out_channels
        self.proj = nn.Identity() if same_width else conv1x1(in_channels, out_channels)
        self.norm1 = AdaGroupNorm(in_channels, cond_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = AdaGroupNorm(out_channels, cond_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.attn = SelfAttention2d(out_channels) if attn else nn.Identity()
        zero_(self.conv2, bias=False)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, in_channels, H, W) and a condition (B, cond_channels) -> (B, out_channels, H, W)."""
        r = self.proj(x)
        x = self.conv1(self.norm1(x, cond))
        x = self.conv2(self.norm2(x, cond))
        return self.attn(x + r)  # type: ignore[no-any-return]


class ResBlocks(nn.Module):
    """Residual blocks in a row; a skip, where given, is concatenated before its block."""

    def __init__(self, in_channels: list[int], out_channels: list[int], cond_channels: int, attn: bool) -> None:
        super().__init__()
        pairs = zip(in_channels, out_channels, strict=True)
        self.resblocks = nn.ModuleList(ResBlock(i, o, cond_channels, attn) for i, o in pairs)

    def forward(self, x: Tensor, cond: Tensor, skips: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Returns the last block's output and every block's output, in order."""
        outputs = []
        for i, block in enumerate(self.resblocks):
            x = x if skips is None else torch.cat((x, skips[i]), dim=1)
            x = block(x, cond)
            outputs.append(x)
        return x, outputs


class UNet(nn.Module):
    """The conditioned U-Net, (B, channels[0], H, W) -> the same shape.

    Level i has depths[i] blocks on the way down and depths[i] + 1 on the way up; the last of these
    takes the level's own input as its skip and changes to the next level's width.
    """

    def __init__(self, cond_channels: int, depths: list[int], channels: list[int], attn_depths: list[int]) -> None:
        super().__init__()
        if not len(depths) == len(channels) == len(attn_depths):
            raise BadConfig(
                "depths, channels and attn_depths describe the same levels, "
                f"got {len(depths)}, {len(channels)} and {len(attn_depths)} of them"
            )
        self.multiple = 2 ** (len(channels) - 1)
        d_blocks, u_blocks = [], []
        for i, n in enumerate(depths):
            c_prev, c, attn = channels[max(0, i - 1)], channels[i], bool(attn_depths[i])
            d_blocks.append(ResBlocks([c_prev] + [c] * (n - 1), [c] * n, cond_channels, attn))
            u_blocks.append(ResBlocks([2 * c] * n + [c_prev + c], [c] * n + [c_prev], cond_channels, attn))
        self.d_blocks = nn.ModuleList(d_blocks)
        self.u_blocks = nn.ModuleList(reversed(u_blocks))
        self.mid_blocks = ResBlocks([channels[-1]] * 2, [channels[-1]] * 2, cond_channels, attn=True)
        # index 0 is a placeholder at both ends: the outermost level changes no resolution
        self.downsamples = nn.ModuleList([nn.Identity(), *(Downsample(c) for c in channels[:-1])])
        self.upsamples = nn.ModuleList([nn.Identity(), *(Upsample(c) for c in reversed(channels[:-1]))])

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Any image size: it is padded with zeros on the right and bottom to what the levels can halve."""
        h, w = x.shape[-2:]
        pad_h, pad_w = -h % self.multiple, -w % self.multiple
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        levels = []
        for downsample, block in zip(self.downsamples, self.d_blocks, strict=True):
            x_in = downsample(x)
            x, outputs = block(x_in, cond)
            levels.append([*reversed(outputs), x_in])
        x, _ = self.mid_blocks(x, cond)
        for upsample, block, skips in zip(self.upsamples, self.u_blocks, reversed(levels), strict=True):
            x, _ = block(upsample(x), cond, skips)
        return x[..., :h, :w] if pad_h or pad_w else x
