"""Convolutions by tiles of AMX have the right values, and without them the kernels compute as on other processors."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import test_kernels
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from kernel_parts import HAS_BFLOAT16, KERNELS, TOLERANCE, blocks, images, relative, replaced, widths
from torch import nn

from diamond_gym.networks.blocks import Upsample
from diamond_gym.networks.folding import fold_norms
from diamond_gym.networks.kernels.dreams import KernelUpsample, use_kernels

HAS_AMX = HAS_BFLOAT16 and bool(KERNELS.has_amx())
pytestmark = pytest.mark.skipif(not HAS_AMX, reason="no AMX, or no C++ compiler that knows it")
ROUNDED = 2**-8  # of the norm: half of the last of eight bits of what comes out, at most
WITHOUT = [
    "a_residual_block",
    "an_enlargement",
    "halving",
    "attention",
    "images_enter_and_leave",
    "large_and_small_numbers",
]


@pytest.fixture
def without_amx() -> Iterator[None]:
    """The kernels of a processor that has AVX512-BF16 alone."""
    assert not KERNELS.use_amx(False)
    yield
    assert KERNELS.use_amx(True)


def rounded(module: nn.Module) -> nn.Module:
    """A module whose weights are numbers of bfloat16, so that packing them changes nothing."""
    for parameter in module.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return module.requires_grad_(False)


@settings(max_examples=60)
@example(batch=1, height=1, width=1, channels=16, seed=0)
@example(batch=1, height=16, width=8, channels=32, seed=0)  # 16 rows of tiles in full
@example(batch=2, height=33, width=31, channels=64, seed=0)  # more than a strip
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 19),
    width=st.integers(1, 40),
    channels=widths,
    seed=st.integers(0, 99),
)
def test_a_convolution_has_the_right_values(batch, height, width, channels, seed):
    """Nothing but the result is rounded: the weights and the images are numbers of bfloat16, sums are float32."""
    torch.manual_seed(seed)
    whole, x = rounded(Upsample(channels)), images(torch.bfloat16, batch, channels, height, width)
    large = F.interpolate(x.double(), scale_factor=2, mode="nearest")
    wanted = F.conv2d(large, whole.conv.weight.double(), whole.conv.bias.double(), padding=1)
    assert relative(replaced(whole, torch.bfloat16, KernelUpsample)(x), wanted) < ROUNDED


@settings(max_examples=60)
@example(pixels=33, first=32, second=64, out=144)  # tiles in full, and one pixel
@given(pixels=st.integers(1, 70), first=widths, second=st.sampled_from([0, 16, 64]), out=widths)
def test_a_projection_has_the_right_values(pixels, first, second, out):
    """Of any number of pixels: what is left of a block whose second convolution is 0."""
    assume(first + second != out)  # else nothing projects
    torch.manual_seed(0)
    whole, modulation, _ = blocks(torch.bfloat16, first, second, out)
    block = rounded(whole).resblocks[0]
    block.conv2.weight.zero_(), block.conv2.bias.zero_()
    folded = copy.deepcopy(nn.Sequential(whole))
    fold_norms(folded)
    assert use_kernels(folded, torch.bfloat16)
    x = images(torch.bfloat16, 1, first + second, 1, pixels)
    wanted = F.conv2d(x.double(), block.proj.weight.double(), block.proj.bias.double())
    skips = [x[:, first:].contiguous(memory_format=torch.channels_last)] if second else None
    found = folded[0](x[:, :first], modulation(torch.randn(1, 8)), skips)[0]
    assert relative(found, wanted) < ROUNDED


def test_what_is_packed_for_them_is_read_by_them_alone(without_amx):
    torch.manual_seed(0)
    x, packed = images(torch.bfloat16, 2, 32, 5, 7), Upsample(32)
    old = replaced(packed, torch.bfloat16, KernelUpsample)
    stored, found = pickle.dumps(old), old(x)
    exact = replaced(packed, torch.float32, KernelUpsample)
    kept = pickle.dumps(exact)
    try:
        assert KERNELS.use_amx(True)
        with pytest.raises(RuntimeError, match="not packed for these"):
            old(x)
        with pytest.raises(RuntimeError, match="other kernels"):
            pickle.loads(stored)
        new = replaced(packed, torch.bfloat16, KernelUpsample)
        assert relative(new(x), found.float()) < TOLERANCE[torch.bfloat16]
        assert copy.deepcopy(new)(x).equal(new(x)) and pickle.loads(pickle.dumps(new))(x).equal(new(x))
        pickle.loads(kept)  # float32 does not care
    finally:
        KERNELS.use_amx(False)


@pytest.mark.parametrize("name", WITHOUT)
def test_without_amx(name, without_amx):
    """What the kernels are held to with AMX, they are held to without."""
    getattr(test_kernels, f"test_{name}")(dtype=torch.bfloat16)
