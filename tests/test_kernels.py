"""The kernels compute what the parts of networks do, for any size, batch and number of threads."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_parts import CONFIGS, TOLERANCE, blocks, dtypes, filled, images, needs_kernels, relative, replaced, widths
from torch import nn

from diamond_gym.frames import quantise
from diamond_gym.networks.blocks import Downsample, SelfAttention2d, Upsample
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig
from diamond_gym.networks.folding import Enter, Leave, fold_norms, hold
from diamond_gym.networks.kernels.dreams import (
    KernelDownsample,
    KernelEnter,
    KernelLeave,
    KernelUpsample,
    kernel_frame,
    use_kernels,
)


@needs_kernels
@dtypes
@settings(max_examples=40)
@example(batch=2, height=3, width=3, wide=16, skip=16, out=32, seed=0)  # as wide as both together: nothing projects
@given(
    batch=st.integers(1, 3), height=st.integers(1, 19), width=st.integers(1, 19), wide=widths,
    skip=st.sampled_from([0, 16, 64]), out=widths, seed=st.integers(0, 99),
)  # fmt: skip
def test_a_residual_block(dtype, batch, height, width, wide, skip, out, seed):
    torch.manual_seed(seed)
    whole, modulation, ours = blocks(dtype, wide, skip, out)
    x, cond = images(dtype, batch, wide, height, width), torch.randn(batch, 8)
    skips = [images(dtype, batch, skip, height, width)] if skip else None
    theirs = whole(x.float(), cond, None if skips is None else [s.float() for s in skips])[0]
    result, outputs = ours(x, modulation(cond), skips)
    assert outputs[0] is result
    assert result.shape == theirs.shape
    assert relative(result, theirs) < TOLERANCE[dtype]


@needs_kernels
@settings(max_examples=60)
@given(
    batch=st.integers(1, 3), channels=st.sampled_from([1, 3]), side=st.integers(1, 9), residual=st.booleans(),
    threshold=st.sampled_from([0.0, 1.0, 4.0, 4.3, 200.0]), near=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_a_frame_is_the_same_to_the_last_bit(batch, channels, side, residual, threshold, near, seed):
    torch.manual_seed(seed)
    inner = replace(CONFIGS["nano's kind"].inner_model, img_channels=channels)
    denoiser = Denoiser(DenoiserConfig(inner, residual=residual, change_threshold=threshold if residual else 0.0))
    window = quantise(torch.randn(batch, 2, channels, side, 3), nearest=True)
    last = window[:, -1]  # not in one piece
    steps = torch.randint(-6, 7, last.shape) / 255 if near else torch.randn(last.shape)
    halves = torch.randint(0, 2, last.shape) / 255  # between two levels
    image = (last + steps + halves) * 1.1
    ours = kernel_frame(denoiser.config)(image, last)
    assert ours.dtype == torch.float32 and ours.equal(denoiser.frame(image, last))
    assert ours.is_contiguous()


@needs_kernels
@dtypes
@settings(max_examples=20)
@given(batch=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 70), wide=widths)
def test_an_enlargement(dtype, batch, height, width, wide):
    torch.manual_seed(0)
    theirs, x = filled(Upsample(wide)), images(dtype, batch, wide, height, width)
    assert relative(replaced(theirs, dtype, KernelUpsample)(x), theirs(x.float())) < TOLERANCE[dtype]


@needs_kernels
@dtypes
@settings(max_examples=20)
@given(batch=st.integers(1, 3), height=st.integers(1, 19), width=st.integers(1, 19), wide=widths)
def test_halving(dtype, batch, height, width, wide):
    torch.manual_seed(0)
    theirs, x = filled(Downsample(wide)), images(dtype, batch, wide, height, width)
    wanted = theirs(x.float())
    found = replaced(theirs, dtype, KernelDownsample)(x)
    assert found.shape == wanted.shape and relative(found, wanted) < TOLERANCE[dtype]


@needs_kernels
@dtypes
@settings(max_examples=20)
@given(batch=st.integers(1, 3), height=st.integers(1, 19), width=st.integers(1, 19), wide=widths)
def test_attention(dtype, batch, height, width, wide):
    torch.manual_seed(0)
    whole = blocks(dtype, wide, 0, wide, attn=True)[0]
    nn.init.normal_(whole.resblocks[0].attn.qkv_proj.weight, std=0.2)  # some pixels see few others
    folded = copy.deepcopy(nn.Sequential(whole))
    modulation = fold_norms(folded)
    hold(folded, dtype)
    assert use_kernels(folded, dtype) and not any(isinstance(m, SelfAttention2d) for m in folded.modules())
    x, cond = images(dtype, batch, wide, height, width), torch.randn(batch, 8)
    wanted = whole(x.float(), cond)[0]
    assert relative(folded[0](x, modulation(cond))[0], wanted) < 2 * TOLERANCE[dtype]


@needs_kernels
@dtypes
@settings(max_examples=30)
@given(
    batch=st.integers(1, 3), channels=st.integers(1, 7), patch=st.integers(1, 3), height=st.integers(1, 13),
    width=st.integers(1, 13), wide=widths, added=st.booleans(), bias=st.booleans(),
)  # fmt: skip
def test_images_enter_and_leave(dtype, batch, channels, patch, height, width, wide, added, bias):
    torch.manual_seed(0)
    depth, frames = channels * patch**2, torch.randn(batch, channels, height, width)
    enter = Enter(torch.randn(wide, depth, 3, 3) * 0.1, torch.randn(wide) if bias else None, patch)
    inside = enter(frames)
    more = images(dtype, *inside.shape) if added else None
    wanted = inside if more is None else inside + more.float()
    found = replaced(enter, dtype, KernelEnter)(frames, more)
    assert found.dtype == dtype and found.shape == wanted.shape
    assert relative(found, wanted) < TOLERANCE[dtype]
    leave = filled(Leave(nn.GroupNorm(wide // 16, wide), nn.Conv2d(wide, depth, 3, padding=1), patch))
    nn.init.normal_(leave.norm.weight)
    wanted = leave(found.float(), frames.shape)
    found = replaced(leave, dtype, KernelLeave)(found, frames.shape)
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    assert relative(found, wanted) < 2 * TOLERANCE[dtype]


@needs_kernels
@dtypes
@pytest.mark.parametrize("attn", [False, True])
def test_an_image_does_not_depend_on_its_batch_or_on_the_threads(dtype, attn):
    torch.manual_seed(0)
    _, modulation, ours = blocks(dtype, 64, 32, 32, attn)
    side = 20 if attn else 64
    x, skip = images(dtype, 5, 64, side, side), images(dtype, 5, 32, side, side)
    condition = modulation(torch.randn(5, 8))
    together = ours(x, condition, [skip])[0]
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for i in range(5):
                assert ours(x[i : i + 1], condition[i : i + 1], [skip[i : i + 1]])[0].equal(together[i : i + 1])
            assert ours(x, condition, [skip])[0].equal(together)
            shared = ours(x, condition[:1].expand(5, -1), [skip])[0]  # one condition for all rows, stride 0
            assert shared[0].equal(together[0])
    finally:
        torch.set_num_threads(threads)


@needs_kernels
@dtypes
def test_large_and_small_numbers(dtype):
    torch.manual_seed(0)
    whole, modulation, ours = blocks(dtype, 32, 0, 32)
    cond = torch.randn(2, 8)
    for factor in (1e-6, 1e4):
        x = images(dtype, 2, 32, 8, 8) * factor
        assert relative(ours(x, modulation(cond))[0], whole(x.float(), cond)[0]) < TOLERANCE[dtype]
    x = images(dtype, 2, 32, 8, 8) + 30  # a mean far above the spread
    assert relative(ours(x, modulation(cond))[0], whole(x.float(), cond)[0]) < TOLERANCE[dtype]
