"""Torch in a forked process, as Gymnasium's `AsyncVectorEnv` makes them on Linux.

OpenMP's threads do not survive a fork: where the parent has computed with more than one, the child waits for them
forever at its first large operation. One thread needs no others, and is what a process of many should take.
"""

import os

import torch

_IMPORTED_IN = os.getpid()


def settle_threads() -> None:
    """Takes torch down to one thread in a process that was forked from the one that imported this."""
    if os.getpid() != _IMPORTED_IN and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
