"""How much of a step of a single dream is spent in Python itself: `python -m benchmarks.python_share breakout-nano`.

cProfile gives the time within functions that are not Python's: torch's operators with all that they do before and
after computing. What remains of the time of a step without the profiler is Python's own. Times are those of one thread.
"""

import argparse
import cProfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from types import CodeType
from typing import Any

import torch
from torch import _ops

from benchmarks.test_networks import world_model

REPEATS = 5


def share(call: Callable[[], Any], steps: int) -> tuple[float, float, int]:
    """Seconds of a step, the part of them that is Python's own, and how many calls of functions it makes."""
    seconds, outside = [], []
    for _ in range(REPEATS):  # in turn, so that whatever else the machine does meets both
        start = time.thread_time()
        for _ in range(steps):
            call()
        seconds.append((time.thread_time() - start) / steps)
        profile = cProfile.Profile(time.thread_time)
        profile.enable()
        for _ in range(steps):
            call()
        profile.disable()
        # pstats counts one of several operators with one name, such as all of a library's, and loses the others; and an
        # operator of `torch.ops` may be counted to the line of torch that calls it
        stats = profile.getstats()
        outside.append(sum(row.inlinetime for row in stats if _outside(row.code)) / steps)
        calls = sum(row.callcount for row in stats) // steps
    return median(seconds), 1 - median(outside) / median(seconds), calls


def _outside(code: CodeType | str) -> bool:
    """Whether a function that the profiler has seen is torch's, not Python's."""
    return isinstance(code, str) or code.co_filename == _ops.__file__


def main() -> None:
    """Prints a line for eager and for compiled networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="breakout-nano")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for compiled in (False, True):
        dream = world_model(args.model, torch.device("cpu"), compiled).dream(1, horizon=None)
        dream.reset(seed=0)
        act = torch.zeros(1, dtype=torch.int64)
        for _ in range(3):
            dream.step(act)
        seconds, part, calls = share(partial(dream.step, act), args.steps)
        way = "compiled" if compiled else "eager"
        print(f"{args.model}, {way}: {1000 * seconds:.1f} ms a step, {part:.1%} in Python, {calls} calls", flush=True)


if __name__ == "__main__":
    main()
