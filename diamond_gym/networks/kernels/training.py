"""3x3 convolutions with gradients by the kernels, for training in float32 on the CPU.

They compute by Winograd's F(4x4, 3x3) (Lavin and Gray 2015, arXiv 1509.09308), forward and backward, with a quarter of
the multiplications. Their relative error is some 6e-7 where that of torch's convolutions is 3e-7.
"""

import math
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.device import clock, remembered
from diamond_gym.networks.kernels import MULTIPLE, built_kernels, kernels_version

_MOST_FILLED = 1.5  # times as many products as there are, lest zeros take more time than a quarter of them saves


class Conv3x3(nn.Conv2d):
    """A convolution with the parameters of another one, computed by the kernels unless under autocast."""

    def __init__(self, conv: nn.Conv2d) -> None:
        shape = conv.in_channels, conv.out_channels, 3
        super().__init__(*shape, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        plain = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
        if not plain or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        assert self.bias is not None
        weight, bias = self.weight, self.bias
        more_in, more_out = -self.in_channels % MULTIPLE, -self.out_channels % MULTIPLE
        if more_in or more_out:  # as at a network's input: zeros fill up
            x = F.pad(x, (0, 0, 0, 0, 0, more_in))
            weight, bias = F.pad(weight, (0, 0, 0, 0, 0, more_in, 0, more_out)), F.pad(bias, (0, more_out))
        y = cast(Tensor, built_kernels().conv3x3(x, weight, bias))
        return y[:, : self.out_channels] if more_out else y


def train_with_kernels(module: nn.Module) -> bool:
    """Replaces the 3x3 convolutions in a network by such as call the kernels, where a measurement finds these faster.

    The parameters are the same, and so are their keys.

    Returns:
        Whether any was replaced: on the CPU in float32, if there are kernels (`built_kernels`) and widths that fit.
    """
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Conv2d and _fits(child)
    ]
    if not found or built_kernels() is None or not kernels_train_faster():
        return False
    for parent, name, child in found:
        setattr(parent, name, Conv3x3(child))
    return True


@cache
def kernels_train_faster() -> bool:
    """Whether a convolution and its gradients are faster by the kernels: measured once for a machine (`remembered`)."""
    words = kernels_version(), str(torch.get_num_threads())
    answers = "torch", "kernels"
    return remembered("training", torch.device("cpu"), words, answers.__contains__, _measure) == "kernels"


def _measure() -> str:
    """The faster one of both now (some 0.3 s)."""
    x = torch.ones(8, 64, 16, 16, dtype=torch.float32).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = nn.Conv2d(64, 64, 3, padding=1, dtype=torch.float32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ways, times = {"torch": plain, "kernels": Conv3x3(plain)}, {"torch": math.inf, "kernels": math.inf}
    for _ in range(8):  # in turn, so that whatever else the machine does meets both
        for name, conv in ways.items():
            start = clock()
            y = conv(x)
            y.backward(y.detach())
            times[name] = min(times[name], clock() - start)
    return min(times, key=lambda name: times[name])


def _fits(conv: nn.Conv2d) -> bool:
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    kept = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and conv.bias is not None
    here = conv.weight.device.type == "cpu" and conv.weight.dtype == torch.float32
    numbers = conv.in_channels, conv.out_channels
    filled = math.prod(-(-n // MULTIPLE) * MULTIPLE for n in numbers)  # the numbers of channels that are computed
    return kept and here and filled <= _MOST_FILLED * math.prod(numbers)
