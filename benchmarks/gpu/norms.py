"""Whether the norms of a GPU can be relied upon, asked before a run that has no second chance."""

import torch
import torch.nn.functional as F

from diamond_gym.networks import gpu_norm
from diamond_gym.networks.blocks import GROUP_NORM_EPS
from diamond_gym.networks.gpu_norm import fused_norm


def check_norms(device: torch.device) -> None:
    """Does without the norms in Triton where these fail, so that a run is only slower for it."""
    try:
        for dtype, most in ((torch.bfloat16, 2e-2), (torch.float32, 1e-3)):
            x = torch.randn(8, 64, 16, 16, device=device).to(dtype, memory_format=torch.channels_last).requires_grad_()
            scale, shift = torch.randn(2, 8, 64, device=device, requires_grad=True).unbind()
            norm = fused_norm(x)
            if norm is None:
                raise RuntimeError("there is no Triton")
            plain = F.group_norm(x.float(), 2, eps=GROUP_NORM_EPS) * scale[:, :, None, None] + shift[:, :, None, None]
            grad, results = torch.randn_like(plain), []
            for y in (norm(x, 2, scale, shift, GROUP_NORM_EPS, silu=True), F.silu(plain)):
                grads = torch.autograd.grad(y, (x, scale, shift), grad.to(y.dtype), retain_graph=True)
                results.append([part.detach().float() for part in (y, *grads)])
            for ours, theirs in zip(*results, strict=True):
                error = float((ours - theirs).norm() / theirs.norm())
                if not error < most:
                    raise RuntimeError(f"an error of {error:.3g} in {dtype}")
        print("norms in Triton agree with torch's", flush=True)
    except Exception as error:
        print(f"without the norms in Triton: {type(error).__name__}: {error}"[:500], flush=True)
        without_fused_norms()


def without_fused_norms() -> None:
    """Has torch compute all norms."""
    gpu_norm._group_norm = lambda: None  # type: ignore[assignment]
