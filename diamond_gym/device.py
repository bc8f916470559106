"""What the machine at hand is good for: which precision pays on it, and how many threads find a free core."""

import hashlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import filelock
import platformdirs
import torch
import torch.nn.functional as F

from diamond_gym.errors import DiskFull
from diamond_gym.files import atomic_write

_LOADAVG = Path("/proc/loadavg")
_THREADS_GIVEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def processor_name() -> str:
    """The processor's model, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def running_elsewhere() -> int:
    """How many other threads of the whole machine want a core now; 0 where the system does not tell."""
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
    if threads == 1 or any(name in os.environ for name in _THREADS_GIVEN):
        yield
        return
    others = running_elsewhere()
    free = max(1, cores - others)
    if free >= threads:
        yield
        return
    print(
        f"the machine is overloaded ({others} other threads run on {cores} cores): computing with {free} "
        f"of {threads} threads; OMP_NUM_THREADS={threads} insists on them",
        file=sys.stderr,
        flush=True,
    )
    torch.set_num_threads(free)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def bfloat16_pays(device: torch.device) -> bool:
    """Whether a bfloat16 convolution is faster than a float32 one here: measured once for a machine and kept.

    What was found lies in the user's cache, by processor (or GPU) and version of torch, so that all processes agree.
    Where nothing can be kept, it is measured in each process.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    parts = (device.type, name, torch.__version__, os.environ.get("ONEDNN_MAX_CPU_ISA", ""))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    try:
        path = Path(platformdirs.user_cache_dir("diamond-gym")) / "precision" / f"{key}.txt"
        found = _read(path)
        if found is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(path.with_suffix(".lock"), timeout=60):  # of two processes the first one measures
                found = _read(path)
                if found is None:
                    found = measure_bfloat16(device)
                    with atomic_write(path, "w") as file:
                        file.write("bfloat16\n" if found else "float32\n")
    except (OSError, RuntimeError, KeyError, NotImplementedError, DiskFull):  # no home, no cache, no locks
        return measure_bfloat16(device)
    return found


def _read(path: Path) -> bool | None:
    """What was found before; None if nothing was, or if the file is damaged."""
    try:
        return {"bfloat16\n": True, "float32\n": False}.get(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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
