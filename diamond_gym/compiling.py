"""Compiling networks with `torch.compile`, so that it has to be waited for once and not in every process."""

import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from torch import nn

from diamond_gym.errors import BadArgument
from diamond_gym.files import user_folder


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


def cache_folder(kind: str) -> Path:
    """A folder of the user's cache that can be written; else one that lasts as long as the process."""
    cache = user_folder("cache")
    if cache is not None:
        with suppress(OSError):
            (cache / kind).mkdir(parents=True, exist_ok=True)
            if os.access(cache / kind, os.W_OK | os.X_OK):
                return cache / kind
    folder = Path(_passing_cache().name) / kind
    folder.mkdir(exist_ok=True)
    return folder


@functools.cache
def _passing_cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="diamond-gym-", ignore_cleanup_errors=True)


def prepare_to_compile(device_type: str) -> None:
    """Makes sure that compiling can work, and lets what is compiled outlive the process and the reboot.

    It is kept in the user's cache, unless they chose another place or it cannot be written: torch's own default is a
    temporary folder. The variable that tells torch has to be set before the first compilation.

    Raises:
        BadArgument: It is for a CPU, and there is no C++ compiler.
    """
    if device_type == "cpu" and os.name == "posix":  # elsewhere torch knows where to look
        cpp_compiler()
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("compiled"))


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
