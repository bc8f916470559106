"""Folded networks whose residual blocks and enlargements are computed by the kernels."""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from diamond_gym.networks.blocks import ResBlocks, Upsample
from diamond_gym.networks.folding import FoldedResBlock
from diamond_gym.networks.kernels.building import ResBlockWeights, built_kernels

MULTIPLE = 16
"""All numbers of channels are multiples of this."""
_DEPTHS = {torch.float32: 1, torch.bfloat16: 2}  # input channels that one instruction multiplies


def use_kernels(module: nn.Module, dtype: torch.dtype) -> bool:
    """Replaces the `ResBlocks` and `Upsample` in a folded network on the CPU by such as call the kernels.

    Args:
        module: Whose residual blocks have been folded (`diamond_gym.networks.folding.fold_norms`), its weights where
            they stay.
        dtype: The arithmetic of the network.

    Returns:
        Whether that was done: it is on processors with AVX2 (bfloat16: with AVX512-BF16), if a compiler is at hand
        and all widths are multiples of 16. Otherwise the module is as it was.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    if not on_cpu or not _fits(module) or (kernels := built_kernels()) is None:
        return False
    if dtype != torch.float32 and (dtype != torch.bfloat16 or not kernels.has_bfloat16()):
        return False
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResBlocks):
                setattr(parent, name, KernelResBlocks(child, dtype))
            elif isinstance(child, Upsample):
                setattr(parent, name, KernelUpsample(child, dtype))
    return True


def _fits(module: nn.Module) -> bool:
    convolutions = [m.conv for m in module.modules() if isinstance(m, Upsample)]
    convolutions += [c for m in module.modules() if isinstance(m, FoldedResBlock) for c in (m.conv1, m.conv2)]
    return all(c.in_channels % MULTIPLE == c.out_channels % MULTIPLE == 0 for c in convolutions)


class KernelResBlocks(nn.Module):
    """`ResBlocks` of folded blocks."""

    def __init__(self, blocks: ResBlocks, dtype: torch.dtype) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(KernelResBlock(block, dtype) for block in blocks.resblocks)  # type: ignore[arg-type]

    def forward(self, x: Tensor, modulation: Tensor, skips: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """As `ResBlocks.forward`, without gradient; skips are read where they lie instead of being concatenated."""
        outputs = []
        for i, block in enumerate(self.resblocks):
            x = block(x, modulation, None if skips is None else skips[i])
            outputs.append(x)
        return x, outputs


class KernelResBlock(nn.Module):
    """A `FoldedResBlock` that is one call of a kernel, and its attention."""

    def __init__(self, block: FoldedResBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.attn, self.channels, self.dtype = block.attn, block.conv2.out_channels, dtype
        self.weights1, self.weights2 = _winograd(block.conv1, dtype), _winograd(block.conv2, dtype)
        self.bias1, self.bias2 = _bias(block.conv1), _bias(block.conv2)
        self.weights_proj, self.bias_proj = None, None
        if isinstance(block.proj, nn.Conv2d):
            self.weights_proj = _packed(block.proj.weight[None, :, :, 0, 0], dtype)
            self.bias_proj = _bias(block.proj)
        self._fixed = {
            "out_channels": self.channels,
            "groups1": block.norm1.groups,
            "groups2": block.norm2.groups,
            "place1": block.norm1.place,
            "place2": block.norm2.place,
        }

    def forward(self, x: Tensor, modulation: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) and a skip of the same size, if any, under a modulation (B, 2 * all channels)."""
        if skip is not None and self.weights_proj is None:
            x, skip = torch.cat((x, skip), dim=1), None  # what is added to the result has to lie in one piece
        x = x.contiguous(memory_format=torch.channels_last)
        skip = None if skip is None else skip.contiguous(memory_format=torch.channels_last)
        # the kernel is given addresses, and takes on trust what lies there
        assert x.dtype == self.dtype
        assert modulation.dtype == torch.float32
        assert modulation.stride(1) == 1
        b, _, h, w = x.shape
        out = torch.empty((b, self.channels, h, w), dtype=self.dtype, memory_format=torch.channels_last)
        middle = torch.empty_like(out)
        weights = ResBlockWeights(
            **{name: _pointer(getattr(self, name)) for name in ("weights1", "weights2", "weights_proj")},
            **{name: _pointer(getattr(self, name)) for name in ("bias1", "bias2", "bias_proj")},
            first_channels=x.shape[1], second_channels=0 if skip is None else skip.shape[1],
            **self._fixed,
        )  # fmt: skip
        _kernel("resblock", self.dtype)(
            ctypes.byref(weights), x.data_ptr(), _pointer(skip), modulation.data_ptr(), modulation.stride(0),
            b, h, w, middle.data_ptr(), out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return self.attn(out)  # type: ignore[no-any-return]


class KernelUpsample(nn.Module):
    """An `Upsample` that is one call of a kernel: no enlarged image is written down."""

    def __init__(self, upsample: Upsample, dtype: torch.dtype) -> None:
        super().__init__()
        self.channels, self.dtype = upsample.conv.out_channels, dtype
        self.weights, self.bias = _winograd(upsample.conv, dtype), _bias(upsample.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        x = x.contiguous(memory_format=torch.channels_last)
        assert x.dtype == self.dtype
        b, c, h, w = x.shape
        out = torch.empty((b, self.channels, 2 * h, 2 * w), dtype=x.dtype, memory_format=torch.channels_last)
        _kernel("convolution", self.dtype)(
            x.data_ptr(), c, self.weights.data_ptr(), self.bias.data_ptr(), self.channels,
            b, h, w, True, out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return out


def _kernel(name: str, dtype: torch.dtype) -> Any:
    """A kernel, asked for at each call: a network that held it could not be copied or pickled."""
    kernels = built_kernels()
    if kernels is None:
        raise RuntimeError("this network was made on a machine with other kernels; make the dream anew here")
    return getattr(kernels, f"{name}_{'float32' if dtype == torch.float32 else 'bfloat16'}")


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach().float()


def _winograd(conv: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """The transformed filters G g G^T of a 3x3 convolution, packed."""
    g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float32)
    transformed = torch.einsum("ia,ocab,jb->ijoc", g, conv.weight.detach().float(), g)
    return _packed(transformed.flatten(0, 1), dtype)


def _packed(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices (P, out, in) in the order in which the kernels read them, one-dimensional.

    Blocks of outputs (the last one of what is left), in each the P matrices, in each the inputs (in bfloat16 pairs of
    them), for each all outputs of the block.
    """
    depth, kernels = _DEPTHS[dtype], built_kernels()
    assert kernels is not None
    blocks = []
    for block in matrices.detach().split(kernels.block_width(), dim=1):
        p, out, width = block.shape
        blocks.append(block.reshape(p, out, width // depth, depth).transpose(1, 2).flatten())
    return torch.cat(blocks).to(dtype)
