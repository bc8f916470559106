"""Cells of a table, each a process: prepared side by side, as compiling takes minutes, then measured one by one."""

import fcntl
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

Cell = dict[str, Any]
Prepare = Callable[..., Callable[[], Cell]]


def _work(prepare: Prepare, cell: Cell, end: Connection, tuned: bool) -> None:
    torch.set_num_threads(1)
    if tuned:
        torch._dynamo.config.recompile_limit = 64  # as many shapes as there are
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        measure = prepare(**cell)
        end.send("ready")
        end.recv()
        torch.backends.cudnn.benchmark = tuned  # only now, as the GPU was busy with other cells before
        end.send(measure())
    except Exception as error:
        end.send({"error": " ".join(f"{type(error).__name__}: {error}".split())[:400]})


def measured(
    prepare: Prepare, cells: Sequence[Cell], wait_s: float, seconds: float, out: Path, tuned: bool = False
) -> list[Cell]:
    """What each cell's `prepare(**cell)()` gives, added to the cell; an "error" where there was none in time.

    Args:
        prepare: A function of a module, called in the cell's process.
        cells: Its arguments.
        wait_s: Seconds until all have to be prepared; what is not by then is left out.
        seconds: Of all the measuring.
        out: A folder; who measures into the same one waits until nobody else measures.
        tuned: Whether torch computes with TF32 and by the kernels that cuDNN finds fastest, not as it does by itself.
    """
    context, begin = multiprocessing.get_context("spawn"), time.perf_counter()
    ends, processes = [], []
    for cell in cells:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(prepare, cell, there, tuned), daemon=True)
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
    with _locked(out):
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


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits for others to leave a folder; not by a file of it, which would be handed back among the results."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def about() -> dict[str, Any]:
    """The machine and the versions, to be kept beside a result."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": gpu, "cpus": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version(),
            "commit": os.environ.get("COMMIT", "")}  # fmt: skip


def _answer(end: Connection, seconds: float) -> Any:
    try:
        return end.recv() if end.poll(max(0.0, seconds)) else {"error": "not in time"}
    except EOFError:
        return {"error": "the process has ended"}
