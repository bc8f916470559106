"""The machine at hand: what it is, and what it can do at best."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from diamond_gym.benchmark.clock import Clock
from diamond_gym.device import processor_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_BATCH, _CHANNELS, _SIDE, _COPIED = 4, 64, 64, 2**26


def convolution_ceiling(clock: Clock, dtype: torch.dtype, budget: float = 2.0) -> float:
    """GFLOP/s of the convolution that fills most of the paper's network: 3x3, 64 to 64 channels, 64x64 pixels."""
    options: dict[str, Any] = {"device": clock.device, "dtype": dtype}
    x = torch.randn(_BATCH, _CHANNELS, _SIDE, _SIDE, **options).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(_CHANNELS, _CHANNELS, 3, 3, **options).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = clock.medians({"": lambda: F.conv2d(x, weight, padding=1)}, budget, most=200)[""]
    return 2e-9 * 9 * _CHANNELS**2 * _SIDE**2 * _BATCH / seconds


def copy_ceiling(clock: Clock, budget: float = 1.0) -> float:
    """GB/s of copying memory, what is read and what is written counted."""
    source = torch.ones(_COPIED, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    return 2e-9 * _COPIED / clock.medians({"": lambda: target.copy_(source)}, budget, most=50)[""]


def reset_peak(device: torch.device) -> None:
    """Forgets the peak of memory so far, where that can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


def peak_megabytes(device: torch.device) -> float | None:
    """The most memory held since `reset_peak`: of the device, on a CPU that of the process; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1.024e-3 for line in status.splitlines() if line.startswith("VmHWM")), None)


def describe(device: torch.device) -> dict[str, Any]:
    """Machine, versions and commit, as plain data."""
    return {
        "machine": processor_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diamond-gym": version("diamond-gym"),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout this runs from; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
