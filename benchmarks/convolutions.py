"""3x3 convolutions and their gradients by torch and by the kernels: `python -m benchmarks.convolutions`.

Printed are milliseconds of one thread's processor time, and the relative error against float64.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_gym.networks.kernels import built_kernels

SIZES = [(16, 32, 32, 32), (16, 64, 64, 16), (16, 64, 64, 8), (1, 32, 32, 32), (1, 64, 64, 8), (4, 64, 64, 64)]
"""Images, channels in and out, pixels per side: of the presets' networks."""


def milliseconds(call: Callable[[], object], seconds: float = 0.05) -> float:
    """The shortest mean of three times so many seconds."""
    call()
    best = float("inf")
    for _ in range(3):
        start, calls = time.thread_time(), 0
        while not calls or time.thread_time() - start < seconds:
            call()
            calls += 1
        best = min(best, (time.thread_time() - start) / calls)
    return 1000 * best


def error(found: Tensor, exact: Tensor) -> float:
    """The norm of the difference over that of the exact value."""
    return float((found.double() - exact).norm() / exact.norm())


def main() -> None:
    """Prints a line for each size and each of the three products."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kernels = built_kernels()
    print("images, channels, pixels", "product", "torch ms", "kernels ms", "ratio", "errors", sep="\t")
    for batch, inputs, outputs, side in SIZES:
        x, gradient = (
            torch.randn(batch, n, side, side).contiguous(memory_format=torch.channels_last) for n in (inputs, outputs)
        )
        weight = (torch.randn(outputs, inputs, 3, 3) * 0.05).contiguous(memory_format=torch.channels_last)
        bias = torch.randn(outputs)

        def backward(data: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
            settings = ([outputs], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [data, not data, False])  # noqa: B023
            return torch.ops.aten.convolution_backward(*tensors, *settings)  # type: ignore[no-any-return]

        wide = gradient.double(), x.double(), weight.double()
        rows: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor], Tensor]] = {
            "forward": (
                lambda: F.conv2d(x, weight, bias, padding=1),  # noqa: B023
                lambda: kernels.conv3x3(x, weight, bias),  # noqa: B023
                F.conv2d(wide[1], wide[2], bias.double(), padding=1),
            ),
            "of images": (
                lambda: backward(True, gradient, x, weight)[0],  # noqa: B023
                lambda: kernels.conv3x3_input_gradient(gradient, weight),  # noqa: B023
                backward(True, *wide)[0],
            ),
            "of weights": (
                lambda: backward(False, gradient, x, weight)[1],  # noqa: B023
                lambda: kernels.conv3x3_weight_gradient(x, gradient, weight),  # noqa: B023
                backward(False, *wide)[1],
            ),
        }
        for name, (plain, ours, exact) in rows.items():
            first, second = milliseconds(plain), milliseconds(ours)
            errors = f"{error(plain(), exact):.1e} {error(ours(), exact):.1e}"
            size = f"{batch} {inputs}-{outputs} {side}"
            print(f"{size}\t{name}\t{first:.2f}\t{second:.2f}\t{first / second:.2f}\t{errors}", flush=True)


if __name__ == "__main__":
    main()
