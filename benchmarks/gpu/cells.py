"""Cells of a table, each a process: prepared side by side, as compiling takes minutes, then measured one by one."""

import fcntl
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.about import settle

Cell = dict[str, Any]
Prepare = Callable[..., Callable[[], Cell]]


def _work(prepare: Prepare, cell: Cell, end: Connection) -> None:
    torch.set_num_threads(1)
    settle()
    try:
        measure = prepare(**cell)
        end.send("ready")
        end.recv()
        torch.backends.cudnn.benchmark = True  # only now, as the GPU was busy with other cells before
        end.send(measure())
    except Exception as error:
        end.send({"error": " ".join(f"{type(error).__name__}: {error}".split())[:400]})


def measured(prepare: Prepare, cells: Sequence[Cell], wait_s: float, seconds: float, out: Path) -> list[Cell]:
    """What each cell's `prepare(**cell)()` gives, added to the cell; an "error" where there was none in time.

    Args:
        prepare: A function of a module, called in the cell's process.
        cells: Its arguments.
        wait_s: Seconds until all have to be prepared; what is not by then is left out.
        seconds: Of all the measuring.
        out: A folder; who measures into the same one waits until nobody else measures.
    """
    context, begin = multiprocessing.get_context("spawn"), time.perf_counter()
    ends, processes = [], []
    for cell in cells:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(prepare, cell, there), daemon=True)
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    states = [_answer(end, wait_s - (time.perf_counter() - begin)) for end in ends]
    print(
        f"prepared in {time.perf_counter() - begin:.0f} s: {sum(s == 'ready' for s in states)} of {len(cells)}",
        flush=True,
    )
    results = []
    with (out / "measuring.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        begin = time.perf_counter()
        for cell, end, state, process in zip(cells, ends, states, processes, strict=True):
            result = state
            if state == "ready":
                end.send("go")
                result = _answer(end, seconds - (time.perf_counter() - begin))
            process.kill()
            results.append({**cell, **result})
            print(results[-1], flush=True)
    return results


def _answer(end: Connection, seconds: float) -> Any:
    try:
        return end.recv() if end.poll(max(0.0, seconds)) else {"error": "not in time"}
    except EOFError:
        return {"error": "the process has ended"}
