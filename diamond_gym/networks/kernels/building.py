"""The kernels as a shared object, built by the machine's own compiler at its first use, in five seconds, and kept."""

import ctypes
import functools
import hashlib
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

from diamond_gym.device import cache_folder, cpp_compiler
from diamond_gym.errors import BadArgument

SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-std=gnu++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
_NEEDED = frozenset({"avx2", "fma"})  # without them torch is as fast
_PROCESSOR = Path("/proc/cpuinfo")

_log = logging.getLogger(__name__)
_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_long


class ResBlockWeights(ctypes.Structure):
    """`struct ResBlock` of the source."""

    _fields_ = (
        *((name, _P) for name in ("weights1", "weights2", "weights_proj", "bias1", "bias2", "bias_proj")),
        *((name, _I) for name in ("first_channels", "second_channels", "out_channels", "groups1", "groups2")),
        *((name, _I) for name in ("place1", "place2")),
    )


@functools.cache
def built_kernels() -> ctypes.CDLL | None:
    """The kernels of this machine; None if its processor has no use for them, or nothing builds them.

    What the compiler (`diamond_gym.device.cpp_compiler`) makes lies in the user's cache, by compiler, processor and
    source.
    """
    features = _processor_features()
    if features is None or not _NEEDED.issubset(features.split()):
        return None
    try:
        compiler = cpp_compiler()
        parts = (SOURCE.read_bytes(), compiler.version, features.encode(), " ".join(_FLAGS).encode())
        key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
        path = cache_folder("kernels") / f"{key}.so"
        if not path.exists():
            _build(compiler.command, path)
        return _declared(ctypes.CDLL(str(path)))
    except (BadArgument, OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else error
        _log.warning("the kernels could not be built, compile=True falls back on torch.compile: %s", reason)
        return None


def _processor_features() -> str | None:
    """What the processor can do, as Linux lists it; None on other systems."""
    if sys.platform != "linux" or not _PROCESSOR.exists():
        return None
    lines = (line.partition(":") for line in _PROCESSOR.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == "flags"), None)


def _build(command: tuple[str, ...], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # two processes may build at once: the last one stays
        made = Path(folder) / path.name
        subprocess.run([*command, *_FLAGS, "-o", str(made), str(SOURCE)], check=True, capture_output=True)
        made.replace(path)


def _declared(made: ctypes.CDLL) -> ctypes.CDLL:
    for name in ("float32", "bfloat16") if made.has_bfloat16() else ("float32",):
        resblock, convolution = getattr(made, f"resblock_{name}"), getattr(made, f"convolution_{name}")
        resblock.argtypes = (ctypes.POINTER(ResBlockWeights), _P, _P, _P, _L, _I, _I, _I, _P, _P, _I)
        convolution.argtypes = (_P, _I, _P, _P, _I, _I, _I, _I, _I, _P, _I)
        resblock.restype = convolution.restype = None
    return made
