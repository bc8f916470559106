"""Folded networks whose residual blocks and enlargements are computed by the kernels."""

import ctypes

import torch
from torch import Tensor, nn

from diamond_gym.blocks import ResBlocks, Upsample
from diamond_gym.folded import FoldedResBlock
from diamond_gym.kernels.library import ResBlockWeights, library

LANES = 16
"""All numbers of channels are multiples of this."""
_WIDE = 4 * LANES


def use_kernels(module: nn.Module, dtype: torch.dtype) -> bool:
    """Replaces the `ResBlocks` and `Upsample` in a folded network on the CPU by such as call the kernels.

    Args:
        module: Whose residual blocks have been folded (`diamond_gym.folded.fold_norms`), its weights where they stay.
        dtype: The arithmetic of the network.

    Returns:
        Whether that was done: it is in bfloat16, on processors with AVX512-BF16, if a compiler is at hand and all
        widths are multiples of 16. Otherwise the module is as it was.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    if dtype != torch.bfloat16 or not on_cpu or not _fits(module) or library() is None:
        return False
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResBlocks):
                setattr(parent, name, KernelResBlocks(child))
            elif isinstance(child, Upsample):
                setattr(parent, name, KernelUpsample(child))
    return True


def _fits(module: nn.Module) -> bool:
    convolutions = [m.conv for m in module.modules() if isinstance(m, Upsample)]
    convolutions += [c for m in module.modules() if isinstance(m, FoldedResBlock) for c in (m.conv1, m.conv2)]
    return all(c.in_channels % LANES == c.out_channels % LANES == 0 for c in convolutions)


class KernelResBlocks(nn.Module):
    """`ResBlocks` of folded blocks."""

    def __init__(self, blocks: ResBlocks) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(KernelResBlock(block) for block in blocks.resblocks)  # type: ignore[arg-type]

    def forward(self, x: Tensor, modulation: Tensor, skips: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """As `ResBlocks.forward`, without gradient; skips are read where they lie instead of being concatenated."""
        outputs = []
        for i, block in enumerate(self.resblocks):
            x = block(x, modulation, None if skips is None else skips[i])
            outputs.append(x)
        return x, outputs


class KernelResBlock(nn.Module):
    """A `FoldedResBlock` that is one call of a kernel, and its attention."""

    def __init__(self, block: FoldedResBlock) -> None:
        super().__init__()
        self.attn, self.channels = block.attn, block.conv2.out_channels
        self.weights1, self.weights2 = _winograd(block.conv1), _winograd(block.conv2)
        self.bias1, self.bias2 = _bias(block.conv1), _bias(block.conv2)
        self.weights_proj, self.bias_proj = None, None
        if isinstance(block.proj, nn.Conv2d):
            self.weights_proj = _packed(block.proj.weight[None, :, :, 0, 0])
            self.bias_proj = _bias(block.proj)
        self._sizes = {"groups1": block.norm1.groups, "groups2": block.norm2.groups, "out_channels": self.channels}
        self._places = {"place1": block.norm1.place, "place2": block.norm2.place}

    def forward(self, x: Tensor, modulation: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) and a skip of the same size, if any, under a modulation (B, 2 * all channels)."""
        x = x.contiguous(memory_format=torch.channels_last)
        skip = None if skip is None else skip.contiguous(memory_format=torch.channels_last)
        # the kernel is given addresses, and takes on trust what lies there
        assert x.dtype == torch.bfloat16
        assert modulation.dtype == torch.float32
        assert modulation.stride(1) == 1
        b, _, h, w = x.shape
        out = torch.empty((b, self.channels, h, w), dtype=torch.bfloat16, memory_format=torch.channels_last)
        middle = torch.empty_like(out)
        weights = ResBlockWeights(
            **{name: _pointer(getattr(self, name)) for name in ("weights1", "weights2", "weights_proj")},
            **{name: _pointer(getattr(self, name)) for name in ("bias1", "bias2", "bias_proj")},
            first_channels=x.shape[1], second_channels=0 if skip is None else skip.shape[1],
            **self._sizes, **self._places,
        )  # fmt: skip
        _kernels().resblock(
            ctypes.byref(weights), x.data_ptr(), _pointer(skip), modulation.data_ptr(), modulation.stride(0),
            b, h, w, middle.data_ptr(), out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return self.attn(out)  # type: ignore[no-any-return]


class KernelUpsample(nn.Module):
    """An `Upsample` that is one call of a kernel: no enlarged image is written down."""

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.channels = upsample.conv.out_channels
        self.weights, self.bias = _winograd(upsample.conv), _bias(upsample.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        x = x.contiguous(memory_format=torch.channels_last)
        assert x.dtype == torch.bfloat16
        b, c, h, w = x.shape
        out = torch.empty((b, self.channels, 2 * h, 2 * w), dtype=x.dtype, memory_format=torch.channels_last)
        _kernels().convolution(
            x.data_ptr(), c, self.weights.data_ptr(), self.bias.data_ptr(), self.channels,
            b, h, w, True, out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return out


def _kernels() -> ctypes.CDLL:
    """The library, asked for at each call: a network that held it could not be copied or pickled."""
    kernels = library()
    if kernels is None:
        raise RuntimeError("this network was made on a machine with other kernels; make the dream anew here")
    return kernels


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach().float()


def _winograd(conv: nn.Conv2d) -> Tensor:
    """The transformed filters G g G^T of a 3x3 convolution, packed."""
    g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    transformed = torch.einsum("ia,ocab,jb->ijoc", g, conv.weight.detach().float(), g)
    return _packed(transformed.flatten(0, 1))


def _packed(matrices: Tensor) -> Tensor:
    """Matrices (P, out, in) in the order in which the kernels read them, one-dimensional bfloat16.

    Blocks of 64 outputs (the last one of what is left), in each the P matrices, in each pairs of inputs, for each all
    outputs of the block.
    """
    blocks = []
    for block in matrices.detach().split(_WIDE, dim=1):
        p, out, width = block.shape
        pairs = block.reshape(p, out // LANES, LANES, width // 2, 2)
        blocks.append(pairs.permute(0, 3, 1, 2, 4).flatten())
    return torch.cat(blocks).bfloat16()
