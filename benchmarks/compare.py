"""Frames per second of this checkout and of another one, in turn: `python -m benchmarks.compare FOLDER`.

Each has a process of its own, with one thread; they take turns, so that whatever else the machine does meets both.
Printed are the medians of their frames per second of processor time, and of the ratio of neighbouring turns.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
TURNS, SECONDS = 15, 0.5
WORKER = """
import sys, time
import torch
from diamond_gym.registry import load_world_model

name, batch, compile, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True", float(sys.argv[4])
torch.set_num_threads(1)
model = load_world_model(name, "cpu", "float32")
if compile:
    model.compile_networks()
dream = model.dream(batch, horizon=None)
dream.reset(seed=0)
act = torch.zeros(batch, dtype=torch.int64)
for _ in range(3):
    dream.step(act)
print("ready", flush=True)
for _ in sys.stdin:
    start, steps = time.process_time(), 0
    while (passed := time.process_time() - start) < seconds:
        dream.step(act)
        steps += 1
    print(steps * batch / passed, flush=True)
"""


def compare(theirs: Path, name: str, batch: int, compile: bool) -> tuple[float, float, float]:
    """Their and our frames per second, and the ratio of ours to theirs."""
    words = [sys.executable, "-c", WORKER, name, str(batch), str(compile), str(SECONDS)]
    workers = []
    for folder in (theirs, ROOT):
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        workers.append(subprocess.Popen(words, cwd=folder, env=environment, **pipes))  # type: ignore[call-overload]
        assert workers[-1].stdout.readline().strip() == "ready"
    turns = []
    for _ in range(TURNS):
        turn = []
        for worker in workers:
            worker.stdin.write("go\n")
            turn.append(float(worker.stdout.readline()))
        turns.append(turn)
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    old, new = zip(*turns, strict=True)
    return median(old), median(new), median(b / a for a, b in turns)


def main() -> None:
    """Prints a line for each model, batch size and way to compute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the other checkout")
    parser.add_argument("--models", nargs="+", default=["breakout-nano", "pong-nano"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    args = parser.parse_args()
    print("model\tbatch\tcompiled\ttheirs\tours\tratio")
    for name in args.models:
        for batch in args.batches:
            for compile in (False, True):
                old, new, ratio = compare(args.folder.resolve(), name, batch, compile)
                print(f"{name}\t{batch}\t{compile}\t{old:.1f}\t{new:.1f}\t{ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
