"""Where a GPU's group norms are computed by one kernel, `triton_norm.group_norm`, in place of torch's several."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


@cache
def _group_norm() -> Callable[..., Tensor] | None:
    try:
        from diamond_gym.networks.triton_norm import group_norm
    except ImportError:  # Triton comes with torch's builds for GPUs alone
        return None
    return group_norm


def fused_norm(x: Tensor) -> Callable[..., Tensor] | None:
    """The kernel where it can be used: on a GPU, with Triton, in what torch.compile does not compile; else None."""
    return None if not x.is_cuda or torch.compiler.is_compiling() else _group_norm()
