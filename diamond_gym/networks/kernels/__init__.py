"""Kernels of our own for the convolutions of a dream on the CPU, where torch's are not the fastest there can be.

They are operators of torch (`torch.ops.diamond_gym.resblock`, `attention`, `conv3x3`, ...), built by the machine's own
compiler at their first use, in some seconds, and kept. Here is what builds them;
`diamond_gym.networks.kernels.dreams` puts them into a folded network, and `training` into one that is trained.
"""

import functools
import hashlib
import logging
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library

from diamond_gym.device import cache_folder, cpp_compiler
from diamond_gym.errors import BadArgument

SOURCE = Path(__file__).with_name("kernels.cpp")
_SOURCES = (SOURCE, *sorted(SOURCE.parent.glob("*.h")))
MULTIPLE = 16
"""All numbers of channels are multiples of this."""
_TORCH = Path(torch.__file__).parent
_FLAGS = ("-std=gnu++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", f"-I{_TORCH / 'include'}")
_LIBRARIES = (f"-L{_TORCH / 'lib'}", "-ltorch_cpu", "-lc10")
_NEEDED = frozenset({"avx2", "fma"})  # without them torch is as fast
_PROCESSOR = Path("/proc/cpuinfo")

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
        _log.warning("the kernels could not be built; compile=True falls back on torch.compile: %s", reason)
        return None
    library.register_fake("diamond_gym::resblock", _shape_of_resblock)
    library.register_fake("diamond_gym::upsample", _shape_of_upsample)
    library.register_fake("diamond_gym::attention", lambda x, *rest: _images(x, x.shape[1]))
    library.register_fake("diamond_gym::halve", lambda x, weights, bias: _images(x, bias.numel(), 0.5))
    library.register_fake(
        "diamond_gym::words", lambda seed, draw, blocks, stream: seed.new_empty((len(seed), 4 * blocks))
    )
    library.register_fake("diamond_gym::enter", _shape_of_enter)
    library.register_fake("diamond_gym::leave", _shape_of_leave)
    library.register_fake("diamond_gym::frame", lambda image, last, nearest, threshold: image.new_empty(image.shape))
    library.register_fake("diamond_gym::conv3x3", lambda x, weight, bias: _images(x, len(weight)))
    library.register_fake(
        "diamond_gym::conv3x3_input_gradient", lambda gradient, weight: _images(gradient, weight.shape[1])
    )
    library.register_fake("diamond_gym::conv3x3_weight_gradient", lambda x, gradient, weight: torch.empty_like(weight))
    library.register_autograd("diamond_gym::conv3x3", _gradients, setup_context=_keep_inputs)
    return torch.ops.diamond_gym


def kernels_fit(widths: Iterable[int], dtype: torch.dtype) -> bool:
    """Whether there are kernels for networks of these numbers of channels in an arithmetic."""
    if any(width % MULTIPLE for width in widths) or (built := built_kernels()) is None:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and built.has_bfloat16())


def random_words() -> Callable[[Tensor, Tensor, int, int], Tensor] | None:
    """The source of random words for `diamond_gym.randomness.RowRandom` on a CPU, if there are kernels."""
    return None if built_kernels() is None else _words


def _words(seed: Tensor, draw: Tensor, blocks: int, stream: int) -> Tensor:
    return torch.ops.diamond_gym.words.default(seed, draw, blocks, stream)  # type: ignore[no-any-return]


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


def _shape_of_enter(x: Tensor, side: int, weights: Tensor, bias: Tensor, more: Tensor | None) -> Tensor:
    return _images(x, bias.numel(), 1 / side).to(weights.dtype)


def _shape_of_leave(x: Tensor, norm: Tensor, groups: int, weights: Tensor, bias: Tensor, side: int, channels: int,
                    height: int, width: int) -> Tensor:  # fmt: skip
    return x.new_empty((len(x), channels, height, width), dtype=torch.float32)


def _images(x: Tensor, channels: int, zoom: float = 1) -> Tensor:
    b, _, h, w = x.shape
    shape = b, channels, math.ceil(zoom * h), math.ceil(zoom * w)
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)


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
