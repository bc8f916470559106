"""Folded networks computed by the kernels: each of their modules becomes one call of an operator."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.networks import kernels
from diamond_gym.networks.blocks import ATTENTION_HEAD_DIM, ResBlocks, SelfAttention2d, Upsample
from diamond_gym.networks.folding import Enter, FoldedResBlock, Leave

if TYPE_CHECKING:
    from diamond_gym.networks.denoiser import DenoiserConfig

_DEPTHS = {torch.float32: 1, torch.bfloat16: 2}  # input channels that one instruction multiplies


def use_kernels(module: nn.Module, dtype: torch.dtype) -> bool:
    """Replaces the parts of a folded network on the CPU that have kernels by such as call them.

    Args:
        module: Whose residual blocks have been folded (`diamond_gym.networks.folding.fold_norms`), its weights where
            they stay.
        dtype: The arithmetic of the network.

    Returns:
        Whether that was done: it is on processors with AVX2 (bfloat16: with AVX512-BF16), if a compiler is at hand
        and all widths are multiples of 16. Otherwise the module is as it was.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    if not on_cpu or not kernels.kernels_fit(_widths(module), dtype):
        return False
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            for kind, replacement in _REPLACEMENTS.items():
                if isinstance(child, kind) and (kind is not nn.Conv2d or child.stride == (2, 2)):
                    setattr(parent, name, replacement(child, dtype))
    return True


def kernel_frame(config: "DenoiserConfig") -> Callable[[Tensor, Tensor], Tensor]:
    """`Denoiser.frame` as one call of a kernel, bit for bit the same."""
    # Changes are whole levels: those up to the threshold lie below half a level more.
    below = config.change_threshold + 0.5 if config.change_threshold else 0.0
    kernel, nearest = torch.ops.diamond_gym.frame.default, bool(config.residual)
    return lambda image, last: kernel(image, last, nearest, below)


def _widths(module: nn.Module) -> Iterator[int]:
    """The numbers of channels of the parts that have kernels."""
    for part in module.modules():
        if isinstance(part, FoldedResBlock):
            yield from (part.conv1.in_channels, part.conv1.out_channels)
        elif isinstance(part, Upsample):
            yield part.conv.in_channels


class _Packed(nn.Module):
    """A module whose weights are packed for the kernels of this machine, and whose call is its `forward` at once."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.packing = dtype, _packing(dtype)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if kernels.built_kernels() is None or _packing(self.dtype) != self.packing:
            raise RuntimeError("this network was made on a machine with other kernels; make the dream anew here")


class KernelResBlocks(nn.Module):
    """`ResBlocks` of folded blocks."""

    def __init__(self, blocks: ResBlocks, dtype: torch.dtype) -> None:
        super().__init__()
        # a plain list, through which Python goes much faster than through a list of modules
        self.resblocks = [KernelResBlock(block, dtype) for block in blocks.resblocks]  # type: ignore[arg-type]

    def forward(self, x: Tensor, modulation: Tensor, skips: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """As `ResBlocks.forward`, without gradient; skips are read where they lie instead of being concatenated."""
        outputs = []
        for i, block in enumerate(self.resblocks):
            x = block(x, modulation, None if skips is None else skips[i])
            outputs.append(x)
        return x, outputs

    __call__ = forward


class KernelResBlock(_Packed):
    """A `FoldedResBlock` that is one call of a kernel, and another one for its attention."""

    def __init__(self, block: FoldedResBlock, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.convolutions = (*_filters(block.conv1, dtype), *_filters(block.conv2, dtype))
        self.projection: tuple[Tensor | None, Tensor | None] = (None, None)
        if isinstance(block.proj, nn.Conv2d):
            self.projection = _pointwise(block.proj, dtype)
        self.norms = block.norm1.groups, block.norm2.groups, block.norm1.place
        self.attention: tuple[Any, ...] | None = None
        if isinstance(block.attn, SelfAttention2d):
            assert block.conv2.out_channels == ATTENTION_HEAD_DIM * block.attn.heads
            projections = _pointwise(block.attn.qkv_proj, dtype), _pointwise(block.attn.out_proj, dtype)
            self.attention = (*_norm(block.attn.norm), *projections[0], *projections[1])

    def forward(self, x: Tensor, modulation: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) and a skip of the same size, if any, under a modulation (B, 2 * all channels)."""
        if skip is not None and self.projection[0] is None:
            x, skip = torch.cat((x, skip), dim=1), None  # what is added to the result has to lie in one piece
        operators = torch.ops.diamond_gym
        x = operators.resblock.default(x, skip, modulation, *self.convolutions, *self.projection, *self.norms)
        return x if self.attention is None else operators.attention.default(x, *self.attention)

    __call__ = forward


class KernelUpsample(_Packed):
    """An `Upsample` that is one call of a kernel: no enlarged image is written down."""

    def __init__(self, upsample: Upsample, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.convolution = _filters(upsample.conv, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return torch.ops.diamond_gym.upsample.default(x, *self.convolution)  # type: ignore[no-any-return]

    __call__ = forward


class KernelDownsample(_Packed):
    """The convolution of a `Downsample`."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        matrix = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (O, 3 * 3 * I)
        self.convolution = _packed(matrix[None], dtype), _bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2), rounded up."""
        return torch.ops.diamond_gym.halve.default(x, *self.convolution)  # type: ignore[no-any-return]

    __call__ = forward


class KernelEnter(_Packed):
    """An `Enter`."""

    def __init__(self, enter: Enter, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        more = -enter.weight.shape[1] % kernels.MULTIPLE
        weight = F.pad(enter.weight.detach().float(), (0, 0, 0, 0, 0, more))
        self.patch = enter.patch
        bias = weight.new_zeros(len(weight)) if enter.bias is None else enter.bias.detach().float()
        self.convolution = kernels.built_kernels().pack(weight, dtype == torch.bfloat16), bias

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """As `Enter.forward`."""
        return torch.ops.diamond_gym.enter.default(x, self.patch, *self.convolution, more)  # type: ignore[no-any-return]

    __call__ = forward


class KernelLeave(_Packed):
    """A `Leave`."""

    def __init__(self, leave: Leave, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.patch, self.channels = leave.patch, leave.conv.out_channels // leave.patch**2
        more = -leave.conv.out_channels % kernels.MULTIPLE
        weight = F.pad(leave.conv.weight.detach().float(), (0, 0, 0, 0, 0, 0, 0, more))
        packed = kernels.built_kernels().pack(weight, dtype == torch.bfloat16)
        self.arguments = (*_norm(leave.norm), packed, F.pad(_bias(leave.conv), (0, more)))

    def forward(self, x: Tensor, shape: torch.Size) -> Tensor:
        """As `Leave.forward`."""
        size = self.patch, self.channels, *shape[-2:]
        return torch.ops.diamond_gym.leave.default(x, *self.arguments, *size)  # type: ignore[no-any-return]

    __call__ = forward


_REPLACEMENTS: dict[type[nn.Module], Any] = {
    ResBlocks: KernelResBlocks,
    Upsample: KernelUpsample,
    nn.Conv2d: KernelDownsample,  # those with a stride of 2
    Enter: KernelEnter,
    Leave: KernelLeave,
}


def _packing(dtype: torch.dtype) -> tuple[int, bool]:
    """What the order of packed weights depends on: how wide their blocks are, and whether tiles of AMX read them."""
    built = kernels.built_kernels()
    return built.block_width(), dtype == torch.bfloat16 and built.has_amx()


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach().float()


def _norm(norm: nn.Module) -> tuple[Tensor, int]:
    """A group norm's scales and shifts in one piece, and how many groups it has."""
    assert isinstance(norm, nn.GroupNorm)
    return torch.cat((norm.weight.detach().float(), norm.bias.detach().float())), norm.num_groups


def _filters(conv: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The filters of a 3x3 convolution, packed, and its bias."""
    return kernels.built_kernels().pack(conv.weight.detach().float(), dtype == torch.bfloat16), _bias(conv)


def _pointwise(conv: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weights of a pointwise convolution, packed, and its bias."""
    return _packed(conv.weight[None, :, :, 0, 0], dtype), _bias(conv)


def _packed(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices (P, out, in) in the order in which the kernels read them, one-dimensional.

    Blocks of outputs (the last one of what is left), in each the P matrices, in each the inputs (in bfloat16 pairs of
    them), for each all outputs of the block.
    """
    depth, blocks = _DEPTHS[dtype], []
    for block in matrices.detach().split(kernels.built_kernels().block_width(), dim=1):
        p, out, width = block.shape
        blocks.append(block.reshape(p, out, width // depth, depth).transpose(1, 2).flatten())
    return torch.cat(blocks).to(dtype)
