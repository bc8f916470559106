"""Memory that a training process keeps instead of handing it back to the system and asking for it anew."""

import ctypes
import sys

# the numbers by which glibc's malloc.h knows them
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1


def keep_memory() -> bool:
    """Has glibc keep what tensors have let go of, for the process as a whole and for good.

    Left alone, it returns every block of 32 MiB or more, and the end of its heap; each step of a fitting then waits for
    tens of thousands of pages to be given and zeroed. Keeping them makes a fitting of the nano preset 8 % (bfloat16) to
    22 % (float32) faster; the process stays as large as it was at its largest.

    Returns:
        Whether there is such a choice here: on Linux with glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, _MOST) for name in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
