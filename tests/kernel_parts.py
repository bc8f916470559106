"""Parts of networks in torch and on the kernels, filled with numbers, and how far what they compute is apart."""

import copy

import pytest
import torch
from hypothesis import strategies as st
from stubs import ACTIONS
from torch import nn

from diamond_gym.networks.blocks import Downsample, ResBlocks
from diamond_gym.networks.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.networks.folding import fold_norms, hold
from diamond_gym.networks.kernels import built_kernels
from diamond_gym.networks.kernels.dreams import KernelResBlocks, use_kernels

KERNELS = built_kernels()
HAS_BFLOAT16 = KERNELS is not None and bool(KERNELS.has_bfloat16())
needs_kernels = pytest.mark.skipif(KERNELS is None, reason="no AVX2, or no C++ compiler")
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="no AVX512-BF16, or no C++ compiler")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.012}  # of the norm of what comes out
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
SHAPE = {"cond_channels": 16, "depths": [1, 2], "channels": [32, 64], "attn_depths": [0, 1]}
CONFIGS = {
    "paper's kind": DenoiserConfig(InnerModelConfig(**SHAPE, num_actions=ACTIONS)),
    "nano's kind": DenoiserConfig(InnerModelConfig(**SHAPE, num_actions=ACTIONS, patch_size=2), residual=True),
}
widths = st.integers(1, 9).map(lambda n: 16 * n)


def filled(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return module.eval().requires_grad_(False)


def images(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def blocks(
    dtype: torch.dtype, wide: int, skip: int, out: int, attn: bool = False
) -> tuple[ResBlocks, nn.Module, nn.Module]:
    """Blocks, what computes their folded modulation, and their form on the kernels."""
    whole = filled(nn.Sequential(ResBlocks([wide + skip], [out], 8, attn=attn)))
    folded = copy.deepcopy(whole)
    modulation = fold_norms(folded)
    hold(folded, dtype)
    assert use_kernels(folded, dtype)
    assert isinstance(folded[0], KernelResBlocks)
    return whole[0], modulation, folded[0]


def replaced(module: nn.Module, dtype: torch.dtype, kind: type[nn.Module]) -> nn.Module:
    """A part of a network in the form that calls the kernels."""
    folded = copy.deepcopy(nn.Sequential(module.conv if isinstance(module, Downsample) else module))  # as it is folded
    hold(folded, dtype)
    assert use_kernels(folded, dtype)
    assert type(folded[0]) is kind
    return folded[0]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs).norm() / theirs.norm())
