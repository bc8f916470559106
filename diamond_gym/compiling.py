"""Compiling networks with `torch.compile`, so that it has to be waited for once and not in every process."""

import functools
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import platformdirs
from torch import nn

from diamond_gym.errors import BadArgument


class Compiler(NamedTuple):
    """A compiler's command, and what it says of its version."""

    command: tuple[str, ...]
    version: bytes


@functools.cache
def cpp_compiler() -> Compiler:
    """A C++ compiler that works: the one that the environment variable CXX names, or g++, or clang++.

    Raises:
        BadArgument: There is none.
    """
    named = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or ""
    try:
        command = shlex.split(named)
        version = subprocess.run([*command, "--version"], check=True, capture_output=True).stdout
    except (OSError, ValueError, subprocess.CalledProcessError):
        raise BadArgument(
            "compiling for a CPU needs a C++ compiler, and none works here: install g++ or clang++, name one in CXX, "
            "or do without"
        ) from None
    return Compiler(tuple(command), version)


def prepare_to_compile(device_type: str) -> None:
    """Makes sure that compiling can work, and lets what is compiled outlive the process and the reboot.

    It is kept in the user's cache, unless they chose another place: torch's own default is a temporary folder. The
    variable that tells torch has to be set before the first compilation.

    Raises:
        BadArgument: It is for a CPU, and there is no C++ compiler.
    """
    if device_type == "cpu" and os.name == "posix":  # elsewhere torch knows where to look
        cpp_compiler()
    folder = Path(platformdirs.user_cache_dir("diamond-gym")) / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def compile_network(network: nn.Module, device_type: str | None = None) -> None:
    """Compiles a network in place at its next calls, once per shape of its input; its weights keep their keys.

    On a GPU the whole of it becomes one CUDA graph, which the host starts at once and does not wait for.

    Args:
        network: Called with tensors of few different shapes.
        device_type: Where it is; by default, where its parameters are.

    Raises:
        BadArgument: It is on a CPU, and there is no C++ compiler.
    """
    kind = device_type or next(network.parameters()).device.type
    prepare_to_compile(kind)
    network.compile(dynamic=False, mode="reduce-overhead" if kind == "cuda" else None)
