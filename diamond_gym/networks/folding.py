"""Networks folded for dreaming: the same functions as theirs, computed with as little work per frame as there is.

What changes neither within a frame nor with the image is taken out of the denoising steps: the embeddings, the scale
and shift of every adaptive norm (one matrix product for all of them), and the half of the first convolution that sees
the past frames. Weights are held in the arithmetic of the dream and in the memory layout that convolutions like, rather
than cast at each call. In float32 the results are those of the networks up to the order of additions.

Whoever changes the original's weights has them folded anew (`refresh`).
"""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.networks.blocks import GROUP_NORM_EPS, AdaGroupNorm, ResBlock

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


class FoldedNorm(nn.Module):
    """An adaptive norm that finds its scale and shift at a place of the modulation, and the SiLU after it."""

    def __init__(self, norm: AdaGroupNorm, place: int) -> None:
        super().__init__()
        self.groups, self.channels, self.place = norm.groups, norm.linear.out_features // 2, place

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x (B, C, H, W) under a modulation (B, 2 * all channels)."""
        scale, shift = modulation[:, self.place : self.place + 2 * self.channels].chunk(2, dim=1)
        if len(x) == 1:  # of a single image the affine part is the same for all rows: the kernel does it on the way
            dtype = scale.dtype if x.device.type == "cpu" else x.dtype  # only a CPU's kernel mixes the two
            scale, shift = scale[0].to(dtype).contiguous(), shift[0].to(dtype).contiguous()
            return F.silu(F.group_norm(x, self.groups, scale, shift, GROUP_NORM_EPS), inplace=True)
        scale, shift = scale.to(x.dtype)[:, :, None, None], shift.to(x.dtype)[:, :, None, None]
        return F.silu(torch.addcmul(shift, F.group_norm(x, self.groups, eps=GROUP_NORM_EPS), scale), inplace=True)


class FoldedResBlock(nn.Module):
    """A `ResBlock` with folded norms: its condition is the modulation."""

    def __init__(self, block: ResBlock, place1: int, place2: int) -> None:
        super().__init__()
        self.proj, self.conv1, self.conv2, self.attn = block.proj, block.conv1, block.conv2, block.attn
        self.norm1, self.norm2 = FoldedNorm(block.norm1, place1), FoldedNorm(block.norm2, place2)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """As `ResBlock.forward`, without gradient."""
        r = self.proj(x)
        x = self.conv1(self.norm1(x, modulation))
        x = self.conv2(self.norm2(x, modulation))
        return self.attn(x.add_(r))  # type: ignore[no-any-return]


def fold_norms(module: nn.Module) -> Modulation:
    """Replaces the residual blocks in a module by folded ones; returns what computes their modulation."""
    norms, place = list[AdaGroupNorm](), 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResBlock):
                middle = place + child.norm1.linear.out_features
                setattr(parent, name, FoldedResBlock(child, place, middle))
                norms += [child.norm1, child.norm2]
                place = middle + child.norm2.linear.out_features
    return Modulation(norms)


def versions(module: nn.Module) -> tuple[int, ...]:
    """A record of a module's weights that differs after they have been written to, replaced or moved."""
    tensors = (*module.parameters(), *module.buffers())
    return tuple(n for x in tensors for n in (x.data_ptr(), 0 if x.is_inference() else x._version))


def shared(module: M) -> M:
    """A copy of a module whose tensors are those of the original, without gradient."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, memo | {id(b): b.detach() for b in module.buffers()})


def renew(old: nn.Module, new: nn.Module) -> None:
    """Writes a newly folded network's weights into one of the same sizes, which stays compiled."""
    values = new.state_dict()
    for name, tensor in old.state_dict().items():
        if tensor.data_ptr() != values[name].data_ptr():  # else it is the original's own
            tensor.copy_(values[name])


def hold(module: nn.Module, dtype: torch.dtype) -> None:
    """Puts a module's weights into the arithmetic and the memory layout of a dream, for good."""
    module.requires_grad_(False).eval()
    module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
