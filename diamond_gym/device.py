"""The device: which one, its precision, compiling for it, threads after a fork, glibc's memory.

OpenMP's threads do not survive a fork: where the parent has computed with more than one, the child waits for them
forever at its first large operation. One thread needs no others, and is what a process of many should take.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import filelock
import torch
import torch.nn.functional as F
from torch import nn

from diamond_gym.errors import BadArgument, DiskFull, one_line
from diamond_gym.files import atomic_write, user_folder


@cache
def cpp_compiler() -> tuple[list[str], bytes]:
    """A C++ compiler that works, as a command, and its version: what the variable CXX names, or g++, or clang++.

    Raises:
        BadArgument: There is none.
    """
    named = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or ""
    try:
        command = shlex.split(named)
        return command, subprocess.run([*command, "--version"], check=True, capture_output=True).stdout
    except (OSError, ValueError, subprocess.CalledProcessError):
        raise BadArgument(
            "compiling for a CPU needs a C++ compiler, but none works here: install g++ or clang++, name one in CXX, "
            "or do without"
        ) from None


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


@cache
def _passing_cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="diamond-gym-", ignore_cleanup_errors=True)


def prepare_to_compile(device_type: str) -> None:
    """Makes sure that compiling can work, and that torch keeps in the user's cache what it compiles from now on.

    Raises:
        BadArgument: It is for a CPU, and there is no C++ compiler.
    """
    if device_type == "cpu" and os.name == "posix":  # elsewhere torch knows where to look
        cpp_compiler()
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("compiled"))


def compile_network(network: nn.Module) -> None:
    """Compiles a network in place at its next calls, once per shape of its input; its weights keep their keys.

    Not as a CUDA graph of its own: on a GPU a whole step of a dream becomes one (`diamond_gym.dream.Dream`).

    Args:
        network: Called with tensors of few different shapes.

    Raises:
        BadArgument: It is on a CPU, and there is no C++ compiler.
    """
    prepare_to_compile(next(network.parameters()).device.type)
    network.compile(dynamic=False)


def is_compiled(network: nn.Module) -> bool:
    """Whether `network.compile` was called."""
    return network._compiled_call_impl is not None


_LOADAVG = Path("/proc/loadavg")


def processor_name() -> str:
    """The processor's model, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def running_elsewhere() -> int:
    """How many other threads of the machine are ready to run now; 0 where the system does not tell."""
    try:
        samples = []
        for _ in range(5):
            samples.append(int(_LOADAVG.read_text().split()[3].partition("/")[0]) - 1)  # but for who is reading
            time.sleep(0.01)
        return max(0, int(statistics.median(samples)))
    except (OSError, ValueError, IndexError):
        return int(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0


@contextmanager
def free_cores_only() -> Iterator[None]:
    """Has torch compute with no more threads than there are free cores, within the block, and says so if these are few.

    The threads of an operator wait for each other: where one of them does not get a core, all are many times slower
    than a single one. The user's own OMP_NUM_THREADS stands. For commands, which have a process to themselves;
    a library leaves such settings alone.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    given = threads == 1 or any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    others = 0 if given else running_elsewhere()
    free = max(1, cores - others)
    if given or free >= threads:
        yield
        return
    print(
        f"the machine is overloaded ({others} other threads run on {cores} cores): computing with {free} "
        f"of {threads} threads; set OMP_NUM_THREADS={threads} to use them all",
        file=sys.stderr,
        flush=True,
    )
    torch.set_num_threads(free)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def remembered(
    kind: str, device: torch.device, words: Iterable[str], valid: Callable[[str], object], measure: Callable[[], str]
) -> str:
    """What a short measurement found on this machine, made once and kept in the user's cache.

    It is kept by processor (or GPU) and version of torch, so that all processes agree; of two that ask at once, the
    first one measures. Where nothing can be kept, each process measures.

    Args:
        kind: What is decided; also the folder's name.
        device: Where it is measured.
        words: What else the answer depends on.
        valid: Whether a line is an answer; anything else in the file is damage, and is measured anew.
        measure: Gives an answer, one line.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    parts = (device.type, name, torch.__version__, os.environ.get("ONEDNN_MAX_CPU_ISA", ""), *words)
    path = cache_folder(kind) / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.txt"
    try:
        with filelock.FileLock(path.with_suffix(".lock"), timeout=60):
            kept = path.read_bytes().decode(errors="replace") if path.exists() else ""
            if kept.endswith("\n") and valid(kept[:-1]):
                return kept[:-1]
            found = measure()
            with atomic_write(path, "wb") as file:
                file.write(f"{found}\n".encode())
        return found
    except (OSError, NotImplementedError, DiskFull):  # no locks, no room
        return measure()


def clock() -> float:
    """Seconds by which a computation is measured: of this thread where it computes alone, else of the wall.

    The former do not count what other processes take from an overloaded machine.
    """
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


@cache
def bfloat16_pays(device: torch.device) -> bool:
    """Whether a bfloat16 convolution is faster than a float32 one here: measured once for a machine (`remembered`).

    Not on a GPU of Nvidia's, where launching so small a one takes longer than computing it: from Ampere on it is.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    answers = "float32", "bfloat16"
    found = remembered("precision", device, (), answers.__contains__, lambda: answers[measure_bfloat16(device)])
    return found == "bfloat16"


def measure_bfloat16(device: torch.device) -> bool:
    """Whether a bfloat16 convolution is faster than a float32 one now (some 20 ms)."""
    x = torch.ones(8, 64, 32, 32, device=device, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, device=device, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(8):  # in turn, so that whatever else the machine does meets both
        for dtype, seconds in times.items():
            inputs = x.to(dtype), weight.to(dtype)
            start = time.perf_counter()
            F.conv2d(*inputs, padding=1).sum().item()  # item waits for the device
            seconds.append(time.perf_counter() - start)
    return min(times[torch.bfloat16]) < 0.9 * min(times[torch.float32])


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        BadArgument: There is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):  # which lists twenty kinds
        raise BadArgument(f"device {name!r} cannot be used here (torch knows no such device)") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadArgument(f"device {name!r} cannot be used here ({one_line(str(error).splitlines()[0])})") from None
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """The precision of a name; "auto" is bfloat16 where that pays (`diamond_gym.device`), else float32.

    Raises:
        BadArgument: There is no such precision.
    """
    if name == "auto":
        return "bfloat16" if bfloat16_pays(device) else "float32"
    if name not in PRECISIONS:
        raise BadArgument(f"precision must be auto, {' or '.join(PRECISIONS)}, got {name!r}")
    return name


_IMPORTED_IN = os.getpid()


def settle_threads() -> None:
    """Takes torch down to one thread in a process that was forked from the one that imported this."""
    if os.getpid() != _IMPORTED_IN and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_memory() -> bool:
    """Has glibc keep freed memory, for the process as a whole and for good; False where there is no glibc.

    Left alone, it returns every block of 32 MiB or more, and each step of a training waits for tens of thousands of
    pages. Kept, the nano preset trains 8 % (bfloat16) to 22 % (float32) faster, and the process stays large.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, 2**31 - 1) for name in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
