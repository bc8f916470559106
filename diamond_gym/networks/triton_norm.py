"""Group norm with scale, shift and SiLU as one kernel of a GPU, with its gradient, written in Triton.

torch's own group norm on a GPU goes from channels-last memory to contiguous memory and back, and a kernel each for the
affine part and for SiLU follows; under autocast it computes all of that in float32. This one reads an image twice and
writes it once, in the order in which it lies. Triton comes with torch's builds for GPUs.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # elements that a program has in hand


@triton.jit
def _read(x, where, mask):
    return tl.load(x + where, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _place(begin, pixels, channels, base, channel, in_group, block: tl.constexpr):
    """Where a block of pixels of a group's channels lies, and which of it there is, (block, columns)."""
    pixel = begin + tl.arange(0, block)
    return base + pixel[:, None] * channels + channel[None, :], (pixel < pixels)[:, None] & in_group[None, :]


@triton.jit
def _before(x, dy, where, here, average, inverse, by, plus, silu: tl.constexpr):
    """Normalised values, and the gradient of what becomes of them by scale and shift."""
    normed = tl.where(here, (_read(x, where, here) - average) * inverse, 0.0)
    grad = _read(dy, where, here)
    if silu:
        value = normed * by[None, :] + plus[None, :]
        gate = tl.sigmoid(value)
        grad = grad * gate * (1.0 + value * (1.0 - gate))
    return normed, grad


@triton.jit
def _forward(x, scale, shift, y, mean, rstd, pixels, channels, groups, scale_row, shift_row, eps,
             width: tl.constexpr, block: tl.constexpr, columns: tl.constexpr, silu: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    column = tl.arange(0, columns)
    in_group = column < width
    channel = group * width + column
    base = row * pixels * channels
    total = tl.zeros((columns,), tl.float32)
    squares = tl.zeros((columns,), tl.float32)
    for begin in range(0, pixels, block):
        where, here = _place(begin, pixels, channels, base, channel, in_group, block)
        value = _read(x, where, here)
        total += tl.sum(value, axis=0)
        squares += tl.sum(value * value, axis=0)
    count = pixels * width
    average = tl.sum(total, axis=0) / count
    variance = tl.maximum(tl.sum(squares, axis=0) / count - average * average, 0.0)
    inverse = 1.0 / tl.sqrt(variance + eps)
    tl.store(mean + row * groups + group, average)
    tl.store(rstd + row * groups + group, inverse)
    by = _read(scale, row * scale_row + channel, in_group)
    plus = _read(shift, row * shift_row + channel, in_group)
    by = by * inverse
    plus = plus - average * by
    for begin in range(0, pixels, block):
        where, here = _place(begin, pixels, channels, base, channel, in_group, block)
        value = _read(x, where, here) * by[None, :] + plus[None, :]
        if silu:
            value = value * tl.sigmoid(value)
        tl.store(y + where, value.to(y.dtype.element_ty), mask=here)


@triton.jit
def _backward(x, dy, scale, shift, mean, rstd, dx, dscale, dshift, pixels, channels, groups, scale_row, shift_row,
              width: tl.constexpr, block: tl.constexpr, columns: tl.constexpr, silu: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    column = tl.arange(0, columns)
    in_group = column < width
    channel = group * width + column
    base = row * pixels * channels
    average = tl.load(mean + row * groups + group)
    inverse = tl.load(rstd + row * groups + group)
    by = _read(scale, row * scale_row + channel, in_group)
    plus = _read(shift, row * shift_row + channel, in_group)
    of_scale = tl.zeros((columns,), tl.float32)
    of_shift = tl.zeros((columns,), tl.float32)
    for begin in range(0, pixels, block):
        where, here = _place(begin, pixels, channels, base, channel, in_group, block)
        normed, grad = _before(x, dy, where, here, average, inverse, by, plus, silu)
        of_scale += tl.sum(grad * normed, axis=0)
        of_shift += tl.sum(grad, axis=0)
    tl.store(dscale + row * channels + channel, of_scale, mask=in_group)
    tl.store(dshift + row * channels + channel, of_shift, mask=in_group)
    count = pixels * width
    along = tl.sum(of_scale * by, axis=0) / count
    level = tl.sum(of_shift * by, axis=0) / count
    for begin in range(0, pixels, block):
        where, here = _place(begin, pixels, channels, base, channel, in_group, block)
        normed, grad = _before(x, dy, where, here, average, inverse, by, plus, silu)
        grad = (grad * by[None, :] - level - normed * along) * inverse
        tl.store(dx + where, grad.to(dx.dtype.element_ty), mask=here)


@cache
def _sizes(channels: int, groups: int) -> dict[str, int]:
    width = channels // groups
    columns = triton.next_power_of_2(width)
    return {"width": width, "columns": columns, "block": max(16, _TILE // columns)}


def _row_stride(part: Tensor) -> int:
    """Elements from a row's scales to the next row's; 0 where all rows have the same, (C,)."""
    return part.stride(0) if part.ndim == 2 and part.shape[0] > 1 else 0


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, scale: Tensor, shift: Tensor, eps: float, silu: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        scale, shift = (part if part.stride(-1) == 1 else part.contiguous() for part in (scale, shift))
        b, c, h, w = x.shape
        y = torch.empty_like(x)
        mean, rstd = torch.empty(2, b, groups, dtype=torch.float32, device=x.device).unbind()
        sizes = x, scale, shift, y, mean, rstd, h * w, c, groups, _row_stride(scale), _row_stride(shift), eps
        _forward[b, groups](*sizes, silu=silu, **_sizes(c, groups), num_warps=4)
        ctx.save_for_backward(x, scale, shift, mean, rstd)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, scale, shift, mean, rstd = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        b, c, h, w = x.shape
        dx = torch.empty_like(x)
        dscale, dshift = torch.empty(2, b, c, dtype=torch.float32, device=x.device).unbind()
        rows = _row_stride(scale), _row_stride(shift)
        sizes = x, dy, scale, shift, mean, rstd, dx, dscale, dshift, h * w, c, ctx.groups, *rows
        _backward[b, ctx.groups](*sizes, silu=ctx.silu, **_sizes(c, ctx.groups), num_warps=4)
        grads = (g.sum(0).view(p.shape) if p.numel() == c else g
                 for g, p in ((dscale, scale), (dshift, shift)))  # fmt: skip
        dscale, dshift = (g.to(p.dtype) for g, p in zip(grads, (scale, shift), strict=True))
        return dx, None, dscale, dshift, None, None


def group_norm(x: Tensor, groups: int, scale: Tensor, shift: Tensor, eps: float, silu: bool) -> Tensor:
    """silu(group_norm(x) * scale + shift), or that without SiLU, computed in float32, in the dtype of x.

    Args:
        x: (B, C, H, W) on a GPU.
        groups: Of channels.
        scale, shift: (B, C), or (C,) for all rows alike.
        eps: Added to the variance.
        silu: Whether SiLU follows.
    """
    return _NormSilu.apply(x, groups, scale, shift, eps, silu)  # type: ignore[no-any-return]
