"""Frames or updates per second of two ways, in turn: `python -m benchmarks.compare WAY WAY [--folder FOLDER]`.

A way is one of

- `plain`: frames of the baseline of `benchmarks/plain.py`, without reward and end;
- `plain-autocast`: the same under autocast to bfloat16, in the memory layout channels-last;
- `frames`, `frames-compiled`, `frames-bfloat16`: the same frames by folded networks, eager, compiled, and compiled in
  bfloat16;
- `eager`, `compiled`: whole steps of a dream;
- `update`: updates of the denoiser, with two predictions each;
- `imagine`: dreamed steps of an agent's training, windows of 15 steps and their updates.

The first way is computed by the checkout in FOLDER, if one is given, else both by this one. Each has a process of its
own with one thread; they take turns, so that whatever else the machine does meets both. Printed are the medians of
their frames or updates per second of processor time, and of the ratio of neighbouring turns.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
HORIZON = 15  # steps of a window in imagination
WORKER = f"""
import runpy, sys
sys.path.insert(0, sys.argv[1])
runpy.run_path({str(Path(__file__))!r})["work"](*sys.argv[2:])
"""  # this file's worker, on another checkout's package


def frames(name: str, batch: int, way: str) -> Callable[[], Any]:
    """Computes frames of a batch, as `plain_sample` does."""
    import torch

    from benchmarks.plain import PlainDenoiser, plain_sample
    from benchmarks.test_networks import PAPER, inputs, no_noise, world_model
    from diamond_gym.networks.inference import FoldedDenoiser
    from diamond_gym.sampler import sample

    model = world_model(name, torch.device("cpu"), compiled=way in ("frames-compiled", "frames-bfloat16"))
    arguments = inputs(model, batch)
    if way.startswith("plain"):
        half = way == "plain-autocast"
        plain = PlainDenoiser(model.denoiser, channels_last=half)

        def plain_frames() -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return plain_sample(plain, *arguments, PAPER)

        return plain_frames
    folded = FoldedDenoiser(model.denoiser, torch.bfloat16 if way == "frames-bfloat16" else torch.float32)
    return lambda: sample(folded.condition, *arguments, PAPER, no_noise)


def steps(name: str, batch: int, compiled: bool) -> Callable[[], Any]:
    """Computes a step of a batch of dreams."""
    import torch

    from benchmarks.test_networks import world_model

    dream = world_model(name, torch.device("cpu"), compiled).dream(batch, horizon=None)
    dream.reset(seed=0)
    act = torch.zeros(batch, dtype=torch.int64)
    return lambda: dream.step(act)


def updates(name: str, batch: int) -> Callable[[], Any]:
    """Trains a denoiser of a model's sizes."""
    import torch

    from benchmarks.test_networks import experience, world_model
    from diamond_gym.trainers.optim import OptimizerConfig
    from diamond_gym.trainers.world_model import WorldModelTrainer
    from diamond_gym.trainers.world_model_config import WorldModelConfig

    model = world_model(name, torch.device("cpu"))
    store = experience(Path(tempfile.mkdtemp()), model, episodes=2)
    optimizers = OptimizerConfig(batch_size=batch), OptimizerConfig(lr=0, batch_size=1)
    config = WorldModelConfig(model.denoiser.config, model.reward_end.config, *optimizers)
    trainer = WorldModelTrainer(config, store, 10**6)
    return lambda: [float(value) for value in trainer.train_step().values()]


def imagination(name: str, batch: int) -> Callable[[], Any]:
    """Trains an agent in a batch of dreams, by a window."""
    from diamond_gym.networks.actor_critic import ActorCriticConfig
    from diamond_gym.registry import load_world_model
    from diamond_gym.sampler import SamplerConfig
    from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
    from diamond_gym.trainers.optim import OptimizerConfig

    model = load_world_model(name, "cpu", "float32").requires_grad_(False)
    model.use_kernels()
    network = ActorCriticConfig(num_actions=model.num_actions)
    trainer = ActorCriticTrainer(AgentFitConfig(network, optimizer=OptimizerConfig(batch_size=batch)), 10**6)
    trainer.dream_in(model.dream(batch, sampler=SamplerConfig(), horizon=HORIZON))
    return lambda: [float(value) for value in trainer.train_step().values()]


def work(name: str, batch: str, way: str, seconds: str) -> None:
    """A process of a comparison: measures once for each line that it is sent."""
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(way in ("update", "imagine"))
    size = int(batch)
    if way == "update":
        call, done = updates(name, size), 1
    elif way == "imagine":
        call, done = imagination(name, size), HORIZON * size
    else:
        call = steps(name, size, way == "compiled") if way in ("eager", "compiled") else frames(name, size, way)
        done = size
    for _ in range(2):
        call()
    print("ready", flush=True)
    for _ in sys.stdin:
        start, calls = time.process_time(), 0
        while not calls or time.process_time() - start < float(seconds):
            call()
            calls += 1
        print(calls * done / (time.process_time() - start), flush=True)


def compare(ways: list[tuple[Path, str]], name: str, batch: int, turns: int, seconds: float) -> list[float]:
    """What each way does in a second, and the ratio of the second to the first."""
    workers = []
    for folder, way in ways:
        words = [sys.executable, "-c", WORKER, str(folder), name, str(batch), way, str(seconds)]
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        workers.append(subprocess.Popen(words, cwd=folder, env=environment, **pipes))  # type: ignore[call-overload]
    for worker in workers:
        assert worker.stdout.readline().strip() == "ready"
    rates: list[list[float]] = []
    for _ in range(turns):
        rates.append([])
        for worker in workers:
            worker.stdin.write("go\n")
            rates[-1].append(float(worker.stdout.readline()))
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    return [*map(median, zip(*rates, strict=True)), median(b / a for a, b in rates)]


def main() -> None:
    """Prints a line for each model and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = [
        "plain",
        "plain-autocast",
        "frames",
        "frames-compiled",
        "frames-bfloat16",
        "eager",
        "compiled",
        "update",
        "imagine",
    ]
    parser.add_argument("ways", nargs=2, choices=ways)
    parser.add_argument("--folder", type=Path, default=ROOT, help="another checkout, for the first way")
    parser.add_argument("--models", nargs="+", default=["breakout-nano", "pong-nano"], help="names, or paper")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn, at least one call")
    args = parser.parse_args()
    print("model", "batch", *args.ways, "ratio", sep="\t")
    for name in args.models:
        for batch in args.batches:
            pair = [(args.folder.resolve(), args.ways[0]), (ROOT, args.ways[1])]
            first, second, ratio = compare(pair, name, batch, args.turns, args.seconds)
            print(f"{name}\t{batch}\t{first:.2f}\t{second:.2f}\t{ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
