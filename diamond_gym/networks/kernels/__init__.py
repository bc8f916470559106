"""Kernels of our own for the convolutions of a dream on the CPU, where torch's are not the fastest there can be.

They are operators of torch (`torch.ops.diamond_gym.resblock`, `upsample`, `conv3x3`), built by the machine's own
compiler at their first use, in some seconds, and kept. Here is what builds them, and what puts them into a folded
network; `diamond_gym.networks.kernels.training` is about training.
"""

import functools
import hashlib
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library, nn

from diamond_gym.device import cache_folder, cpp_compiler
from diamond_gym.errors import BadArgument
from diamond_gym.networks.blocks import ResBlocks, Upsample
from diamond_gym.networks.folding import FoldedResBlock

SOURCE = Path(__file__).with_name("kernels.cpp")
_SOURCES = (SOURCE, *(SOURCE.with_name(f"{name}.h") for name in ("winograd", "products", "vectors")))
MULTIPLE = 16
"""All numbers of channels are multiples of this."""
_TORCH = Path(torch.__file__).parent
_FLAGS = ("-std=gnu++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", f"-I{_TORCH / 'include'}")
_LIBRARIES = (f"-L{_TORCH / 'lib'}", "-ltorch_cpu", "-lc10")
_NEEDED = frozenset({"avx2", "fma"})  # without them torch is as fast
_PROCESSOR = Path("/proc/cpuinfo")
_DEPTHS = {torch.float32: 1, torch.bfloat16: 2}  # input channels that one instruction multiplies

_log = logging.getLogger(__name__)


@functools.cache
def built_kernels() -> Any:
    """The operators of this machine, `torch.ops.diamond_gym`, by which they can be called, traced and exported.

    What the compiler (`diamond_gym.device.cpp_compiler`) makes lies in the user's cache, by compiler, processor,
    version of torch and source. None if the processor has no use for them, or nothing builds them; torch's headers
    bring what they need from 2.10 on.
    """
    features = _processor_features()
    if features is None or not _NEEDED.issubset(features.split()):
        return None
    try:
        command, version = cpp_compiler()
        words = (kernels_version(), version.decode(errors="replace"), features, torch.__version__, *_FLAGS)
        key = hashlib.sha256(chr(0).join(words).encode()).hexdigest()
        path = cache_folder("kernels") / f"{key[:16]}.so"
        if not path.exists():
            _build(command, path)
        torch.ops.load_library(path)
    except (BadArgument, OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else error
        _log.warning("the kernels could not be built, compile=True falls back on torch.compile: %s", reason)
        return None
    library.register_fake("diamond_gym::resblock", _shape_of_resblock)
    library.register_fake("diamond_gym::upsample", _shape_of_upsample)
    library.register_fake("diamond_gym::conv3x3", lambda x, weight, bias: _images(x, len(weight)))
    library.register_fake(
        "diamond_gym::conv3x3_input_gradient", lambda gradient, weight: _images(gradient, weight.shape[1])
    )
    library.register_fake("diamond_gym::conv3x3_weight_gradient", lambda x, gradient, weight: torch.empty_like(weight))
    library.register_autograd("diamond_gym::conv3x3", _gradients, setup_context=_keep_inputs)
    return torch.ops.diamond_gym


@functools.cache
def kernels_version() -> str:
    """A hash of the kernels' source."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def _processor_features() -> str | None:
    """What the processor can do, as Linux lists it; None on other systems."""
    if sys.platform != "linux" or not _PROCESSOR.exists():
        return None
    lines = (line.partition(":") for line in _PROCESSOR.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == "flags"), None)


def _build(command: list[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # two processes may build at once: the last one stays
        made = Path(folder) / path.name
        words = [*command, *_FLAGS, str(SOURCE), "-o", str(made), *_LIBRARIES]
        subprocess.run(words, check=True, capture_output=True)
        made.replace(path)


def _shape_of_resblock(x: Tensor, skip: Tensor | None, modulation: Tensor, weights1: Tensor, bias1: Tensor,
                       *rest: Any) -> Tensor:  # fmt: skip
    """What the operator returns, without its numbers: for tracing."""
    return _images(x, bias1.numel())


def _shape_of_upsample(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    return _images(x, bias.numel(), 2)


def _images(x: Tensor, channels: int, zoom: int = 1) -> Tensor:
    b, _, h, w = x.shape
    return x.new_empty((b, channels, zoom * h, zoom * w)).contiguous(memory_format=torch.channels_last)


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of `conv3x3` with respect to images (B, I, H, W), weights (O, I, 3, 3) and bias (O,)."""
    kernels, (x, weight) = torch.ops.diamond_gym, ctx.saved_tensors
    return (
        kernels.conv3x3_input_gradient(gradient, weight) if ctx.needs_input_grad[0] else None,
        kernels.conv3x3_weight_gradient(x, gradient, weight) if ctx.needs_input_grad[1] else None,
        gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None,
    )


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
    if not on_cpu or dtype not in _DEPTHS or not _fits(module) or (kernels := built_kernels()) is None:
        return False
    if dtype == torch.bfloat16 and not kernels.has_bfloat16():
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


class _Packed(nn.Module):
    """A module whose weights are packed for the kernels of this machine."""

    def __init__(self) -> None:
        super().__init__()
        self.width = built_kernels().block_width()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if (kernels := built_kernels()) is None or kernels.block_width() != self.width:
            raise RuntimeError("this network was made on a machine with other kernels; make the dream anew here")


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


class KernelResBlock(_Packed):
    """A `FoldedResBlock` that is one call of a kernel, and its attention."""

    def __init__(self, block: FoldedResBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.attn = block.attn
        self.convolutions = (*_winograd(block.conv1, dtype), *_winograd(block.conv2, dtype))
        self.projection: tuple[Tensor | None, Tensor | None] = (None, None)
        if isinstance(block.proj, nn.Conv2d):
            self.projection = _packed(block.proj.weight[None, :, :, 0, 0], dtype), _bias(block.proj)
        self.norms = block.norm1.groups, block.norm2.groups, block.norm1.place

    def forward(self, x: Tensor, modulation: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) and a skip of the same size, if any, under a modulation (B, 2 * all channels)."""
        if skip is not None and self.projection[0] is None:
            x, skip = torch.cat((x, skip), dim=1), None  # what is added to the result has to lie in one piece
        resblock = torch.ops.diamond_gym.resblock.default
        x = resblock(x, skip, modulation, *self.convolutions, *self.projection, *self.norms)
        return self.attn(x)  # type: ignore[no-any-return]


class KernelUpsample(_Packed):
    """An `Upsample` that is one call of a kernel: no enlarged image is written down."""

    def __init__(self, upsample: Upsample, dtype: torch.dtype) -> None:
        super().__init__()
        self.convolution = _winograd(upsample.conv, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return torch.ops.diamond_gym.upsample.default(x, *self.convolution)  # type: ignore[no-any-return]


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach().float()


def _winograd(conv: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The transformed filters of a 3x3 convolution, packed, and its bias."""
    return built_kernels().pack(conv.weight.detach().float(), dtype == torch.bfloat16), _bias(conv)


def _packed(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices (P, out, in) in the order in which the kernels read them, one-dimensional.

    Blocks of outputs (the last one of what is left), in each the P matrices, in each the inputs (in bfloat16 pairs of
    them), for each all outputs of the block.
    """
    depth, blocks = _DEPTHS[dtype], []
    for block in matrices.detach().split(built_kernels().block_width(), dim=1):
        p, out, width = block.shape
        blocks.append(block.reshape(p, out, width // depth, depth).transpose(1, 2).flatten())
    return torch.cat(blocks).to(dtype)
