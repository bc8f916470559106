"""Compiling networks with `torch.compile`, so that it has to be waited for once and not in every process."""

import os
from pathlib import Path

import platformdirs
from torch import nn


def keep_compiled() -> None:
    """Lets what is compiled outlive the process and the reboot: in the user's cache, unless they chose another place.

    torch's own default is a temporary folder. The variable has to be set before the first compilation.
    """
    folder = Path(platformdirs.user_cache_dir("diamond-gym")) / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def compile_network(network: nn.Module, device_type: str | None = None) -> None:
    """Compiles a network in place at its next calls, once per shape of its input; its weights keep their keys.

    On a GPU the whole of it becomes one CUDA graph, which the host starts at once and does not wait for.

    Args:
        network: Called with tensors of few different shapes.
        device_type: Where it is; by default, where its parameters are.
    """
    keep_compiled()
    kind = device_type or next(network.parameters()).device.type
    network.compile(dynamic=False, mode="reduce-overhead" if kind == "cuda" else None)
