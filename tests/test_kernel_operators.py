"""The kernels are operators of torch, which can be traced and exported, and refuse what does not fit them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_parts import KERNELS, blocks, dtypes, filled, images, needs_kernels, replaced
from torch import library, nn

from diamond_gym.networks.blocks import Downsample, Upsample
from diamond_gym.networks.folding import Enter, Leave, hold
from diamond_gym.networks.kernels import random_words
from diamond_gym.networks.kernels.dreams import KernelDownsample, KernelEnter, KernelLeave, KernelUpsample, use_kernels
from diamond_gym.randomness import RowRandom


@needs_kernels
@dtypes
@pytest.mark.parametrize("skip", [0, 16])
def test_they_are_operators_of_torch(dtype, skip):
    """With a schema and the shapes of their results, so that what calls them can be traced and exported."""
    torch.manual_seed(0)
    _, modulation, ours = blocks(dtype, 32, skip, 16)
    block, x, condition = ours.resblocks[0], images(dtype, 2, 32, 5, 3), modulation(torch.randn(2, 8))
    more = images(dtype, 2, skip, 5, 3) if skip else None
    weights, checks = (*block.convolutions, *block.projection), ("test_schema", "test_faketensor")
    library.opcheck(KERNELS.resblock.default, (x, more, condition, *weights, *block.norms), test_utils=checks)
    library.opcheck(KERNELS.upsample.default, (x, *_square(dtype).convolution), test_utils=checks)
    more, odd = images(dtype, 2, 16, 3, 2), torch.randn(2, 3, 5, 3)
    down = replaced(Downsample(32), dtype, KernelDownsample)
    library.opcheck(KERNELS.halve.default, (x, *down.convolution), test_utils=checks)
    enter = replaced(Enter(torch.randn(16, 12, 3, 3), None, 2), dtype, KernelEnter)
    library.opcheck(KERNELS.enter.default, (odd, 2, *enter.convolution, more), test_utils=checks)
    leave = replaced(Leave(nn.GroupNorm(2, 16), nn.Conv2d(16, 12, 3, padding=1), 2), dtype, KernelLeave)
    library.opcheck(KERNELS.leave.default, (more, *leave.arguments, 2, 3, 5, 3), test_utils=checks)
    attention = blocks(dtype, 32, 0, 32, attn=True)[2].resblocks[0].attention
    library.opcheck(KERNELS.attention.default, (x, *attention), test_utils=checks)
    more = images(dtype, 2, skip, 5, 3) if skip else None
    traced = torch.export.export(block, (x, condition, more)).module()
    assert traced(x, condition, more).equal(block(x, condition, more))


def _square(dtype: torch.dtype) -> KernelUpsample:
    folded = nn.Sequential(filled(Upsample(32)))
    hold(folded, dtype)
    assert use_kernels(folded, dtype)
    return folded[0]


@needs_kernels
@given(st.integers(0, 2**64), st.integers(0, 2**40), st.integers(1, 70), st.sampled_from([0, 1, 16, 2**31 + 17]))
def test_random_words_are_those_of_torchs_operators(seed, draw, size, stream):
    theirs, ours = RowRandom(3, "cpu", seed), RowRandom(3, "cpu", seed, random_words())
    for rows in (theirs, ours):
        rows.draw += draw + torch.tensor([0, 1, 2**32])
    for found, wanted in zip(*(r.normal_and_uniform((size,), stream, 4) for r in (ours, theirs)), strict=True):
        assert found.equal(wanted)
    library.opcheck(KERNELS.words.default, (ours.seed, ours.draw, size, stream), test_utils="test_faketensor")
    with pytest.raises(RuntimeError, match="seeds and draws"):
        KERNELS.words(ours.seed, ours.draw[:2], size, stream)


@needs_kernels
def test_what_does_not_fit_is_refused():
    _, modulation, ours = blocks(torch.float32, 32, 0, 16)
    block, x, condition = ours.resblocks[0], images(torch.float32, 2, 32, 5, 3), modulation(torch.randn(2, 8))
    wrong = [
        (x.double(), condition), (x[:, :16], condition), (x[0], condition), (x[:, :20], condition),
        (x, condition[:1]), (x, condition[:, :20]), (x, condition.double()), (x, condition.T.contiguous().T),
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(RuntimeError):
            block(*arguments)
    with pytest.raises(RuntimeError):
        block(x, condition, x[:1])
    enter = replaced(Enter(torch.randn(16, 12, 3, 3), None, 2), torch.float32, KernelEnter)
    leave = replaced(Leave(nn.GroupNorm(2, 16), nn.Conv2d(16, 12, 3, padding=1), 2), torch.float32, KernelLeave)
    frames, inside = torch.randn(2, 3, 6, 4), images(torch.float32, 2, 16, 3, 2)
    leave(enter(frames, inside), frames.shape)
    for call in (
        lambda: enter(frames.double()), lambda: enter(frames[0]), lambda: enter(frames.repeat(1, 2, 1, 1)),
        lambda: enter(frames, inside[:1]), lambda: leave(inside, frames[..., :2].shape), lambda: leave(x, frames.shape),
        lambda: replaced(Downsample(16), torch.float32, KernelDownsample)(x),
        lambda: KERNELS.attention(x, *blocks(torch.float32, 16, 0, 16, attn=True)[2].resblocks[0].attention),
    ):  # fmt: skip
        with pytest.raises(RuntimeError):
            call()
