"""Networks folded for dreaming: the same functions as theirs, computed with as little work per frame as there is.

What changes neither within a frame nor with the image is taken out of the denoising steps: the embeddings, the scale
and shift of every adaptive norm (one matrix product for all of them), and the half of the first convolution that sees
the past frames. Weights are held in the arithmetic of the dream and in the memory layout that convolutions like, rather
than cast at each call. In float32 the results are those of the networks up to the order of additions.

Whoever changes the original's weights has them folded anew (`refresh`).
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.networks.blocks import (
    GROUP_NORM_EPS,
    AdaGroupNorm,
    Downsample,
    GroupNorm,
    ResBlock,
    from_patches,
    fused_norm,
    to_patches,
)

M = TypeVar("M", bound=nn.Module)


class Modulation(nn.Module):
    """The linear layers of all adaptive norms of a network as one: condition (B, cond) -> (B, 2 * all channels)."""

    def __init__(self, norms: Sequence[AdaGroupNorm]) -> None:
        super().__init__()
        weights, biases = [], []
        for norm in norms:
            channels = norm.linear.out_features // 2
            bias = norm.linear.bias.detach().float().clone()
            bias[:channels] += 1  # the norm's output is multiplied by 1 + scale
            weights.append(norm.linear.weight.detach().float())
            biases.append(bias)
        self.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
        self.bias = nn.Parameter(torch.cat(biases), requires_grad=False)

    def forward(self, cond: Tensor) -> Tensor:
        """(..., cond) -> (..., 2 * all channels), float32."""
        return F.linear(cond, self.weight, self.bias)


class Norm(NamedTuple):
    """An adaptive norm: its groups, its channels, and where its scales and shifts begin in the modulation."""

    groups: int
    channels: int
    place: int


class FoldedResBlock(nn.Module):
    """A `ResBlock` without gradient whose norms find their scales and shifts in the modulation."""

    def __init__(self, block: ResBlock, place: int) -> None:
        super().__init__()
        self.proj, self.conv1, self.conv2, self.attn = block.proj, block.conv1, block.conv2, block.attn
        self.fused_norm = fused_norm(self.conv1.weight)
        channels = self.conv1.in_channels, self.conv2.in_channels
        self.norm1 = Norm(block.norm1.groups, channels[0], place)
        self.norm2 = Norm(block.norm2.groups, channels[1], place + 2 * channels[0])

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x (B, C, H, W) under a modulation (B, 2 * all channels)."""
        r = self.proj(x)
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            scale, shift = modulation[:, norm.place : norm.place + 2 * norm.channels].chunk(2, dim=1)
            if self.fused_norm is not None and not torch.compiler.is_compiling():
                x = conv(self.fused_norm(x, norm.groups, scale, shift, GROUP_NORM_EPS, silu=True))
                continue
            if len(x) == 1:  # of a single image the affine part is the same for all rows: group_norm does it on the way
                dtype = scale.dtype if x.device.type == "cpu" else x.dtype  # only a CPU's kernel mixes the two
                scale, shift = scale[0].to(dtype).contiguous(), shift[0].to(dtype).contiguous()
                x = F.group_norm(x, norm.groups, scale, shift, GROUP_NORM_EPS)
            else:
                scale, shift = scale.to(x.dtype)[:, :, None, None], shift.to(x.dtype)[:, :, None, None]
                x = torch.addcmul(shift, F.group_norm(x, norm.groups, eps=GROUP_NORM_EPS), scale)
            x = conv(F.silu(x, inplace=True))
        return self.attn(x.add_(r))  # type: ignore[no-any-return]


class Enter(nn.Module):
    """The first convolution of a network, or of a part of its input channels, on patches of images.

    Args:
        weight: (O, I, 3, 3).
        bias: (O,), or None.
        patch: Pixels per side folded into channels.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, patch: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.patch = patch

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """Images, float32 (B, C, H, W) -> (B, O, H', W') in the weights' arithmetic, plus what else is given."""
        x = to_patches(x.to(self.weight.dtype), self.patch).contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, self.weight, self.bias, padding=1)
        return x if more is None else x.add_(more)


class Leave(nn.Module):
    """The last norm and convolution of a network, and the way back from patches to images."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d, patch: int) -> None:
        super().__init__()
        self.norm, self.conv, self.patch = norm, conv, patch
        self.fused_norm = fused_norm(conv.weight)

    def forward(self, x: Tensor, shape: torch.Size) -> Tensor:
        """(B, O, H', W') -> float32 (B, C, H, W), height and width as in that shape."""
        if self.fused_norm is not None and not torch.compiler.is_compiling():
            x = self.fused_norm(x, self.norm.num_groups, self.norm.weight, self.norm.bias, GROUP_NORM_EPS, silu=True)
        else:
            x = F.silu(self.norm(x), inplace=True)
        return from_patches(self.conv(x).float(), self.patch, shape)


def fold_norms(module: nn.Module) -> Modulation:
    """Replaces the residual blocks in a module by folded ones; returns what computes their modulation."""
    norms, place = list[AdaGroupNorm](), 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResBlock):
                setattr(parent, name, FoldedResBlock(child, place))
                norms += [child.norm1, child.norm2]
                place += child.norm1.linear.out_features + child.norm2.linear.out_features
            elif isinstance(child, Downsample) or (
                isinstance(child, GroupNorm) and fused_norm(child.norm.weight) is None
            ):
                # which add nothing to what they hold but its name
                setattr(parent, name, child.norm if isinstance(child, GroupNorm) else child.conv)
    return Modulation(norms)


def shared(module: M) -> M:
    """A copy of a module whose tensors are those of the original, without gradient."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, memo | {id(b): b.detach() for b in module.buffers()})


def hold(module: nn.Module, dtype: torch.dtype) -> None:
    """Puts a module's weights into the arithmetic and the memory layout of a dream, for good."""
    module.requires_grad_(False).eval()
    module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Turns autocast off where it is on; to enter torch's own context costs as much as a small operator."""
    on = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if on else nullcontext()


def renew(old: nn.Module, new: nn.Module) -> None:
    """Writes a newly folded network's weights into one of the same sizes, which stays compiled."""
    values = new.state_dict()
    for name, tensor in old.state_dict().items():
        if tensor.data_ptr() != values[name].data_ptr():  # else it is the original's own
            tensor.copy_(values[name])
