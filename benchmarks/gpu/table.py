"""Frames per second of dreams on a GPU: `python -m benchmarks.gpu.table --out DIR`.

Rows: this package's dream with its reward and end model (eager, `compile=True`, and a whole step as one CUDA graph),
and the authors' formulation of the same denoiser and sampler alone (`benchmarks.plain`: eager float32, and
compiled in bfloat16). Random weights and actions; the median of a few blocks of steps.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.run import about
from benchmarks.gpu.worlds import Recipe
from benchmarks.plain import PlainDenoiser, plain_sample
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.sampler import QUALITIES
from diamond_gym.starts import Starts
from diamond_gym.world_model import WorldModel

ACTIONS = 6


def model_of(size: str, device: torch.device, precision: str, tiny: bool = False) -> WorldModel:
    """A world model with random weights, of the paper's size or nano's."""
    recipe = Recipe()
    inner = InnerModelConfig(num_actions=ACTIONS) if size == "paper" else replace(recipe.inner, num_actions=ACTIONS)
    outcome = RewardEndConfig() if size == "paper" else recipe.reward_end
    outcome = replace(outcome, num_actions=ACTIONS)
    if tiny:
        inner = replace(inner, channels=[8] * len(inner.channels))
        outcome = replace(outcome, channels=[8] * len(outcome.channels))
    torch.manual_seed(0)
    denoiser, reward_end = Denoiser(DenoiserConfig(inner, residual=size != "paper")), RewardEnd(outcome)
    for parameter in denoiser.parameters():
        if not parameter.any():  # convolutions that begin at zero would be no work to check
            torch.nn.init.normal_(parameter, std=0.02)
    rng = np.random.default_rng(0)
    obs = rng.integers(256, size=(32, 4, 64, 64, 3), dtype=np.uint8)
    starts = Starts(obs, rng.integers(ACTIONS, size=(32, 3)), np.zeros(32, np.bool_))
    model = WorldModel(denoiser.eval(), reward_end.eval(), starts=starts).to_device(device, precision)
    return model.requires_grad_(False)


def rate(step: Callable[[], Any], batch: int, device: torch.device, seconds: float = 0.6) -> float:
    """Frames per second: the median over blocks that take a tenth of the time each."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    step()
    wait()
    begin = time.perf_counter()
    step()
    wait()
    steps = max(1, int(seconds / 8 / (time.perf_counter() - begin)))
    rates = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        rates.append(batch * steps / (time.perf_counter() - begin))
    return float(np.median(rates))


def wanted(way: str, size: str, precision: str, quality: str, batch: int) -> bool:
    """Which cells of the table are worth their seconds."""
    usual = quality == "paper" and precision == "bfloat16"
    if way == "graph":
        return usual or batch in (32, 512)
    if way == "eager":
        return usual and batch in (1, 32, 512)
    if way == "plain":  # as it is written
        return quality == "paper" and precision == "float32" and batch in (1, 32, 512)
    return usual and size == "paper" and batch in (32, 512)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes after every line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 512, 2048])
    parser.add_argument("--sizes", nargs="+", default=["paper", "nano"])
    parser.add_argument("--ways", nargs="+", default=["graph", "plain", "eager", "plain compiled", "compiled"])
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--qualities", nargs="+", default=["paper", "fast"])
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    lines: list[dict[str, Any]] = []
    begin = time.perf_counter()
    cases = [(w, s, p, q, b) for w in args.ways for s in args.sizes for p in args.precisions for q in args.qualities
             for b in args.batches]  # fmt: skip
    for way, size, precision, quality, batch in cases:
        if time.perf_counter() - begin > args.seconds:
            print("out of time before", way, size, precision, quality, batch, flush=True)
            break
        if not wanted(way, size, precision, quality, batch):
            continue
        line = {"way": way, "size": size, "precision": precision, "quality": quality, "batch": batch}
        try:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            step = stepper(way, size, precision, quality, batch, device, args.tiny)
            line["frames_per_s"] = round(rate(step, batch, device), 1)
            line["wall_s"] = round(time.perf_counter() - started, 1)
            if device.type == "cuda":
                line["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        except Exception as error:
            line["error"] = " ".join(str(error).split())[:300]
        lines.append(line)
        print(json.dumps(line), flush=True)
        (args.out / "table.json").write_text(json.dumps({"about": about(), "lines": lines}, indent=1))
        if device.type == "cuda":
            torch.cuda.empty_cache()


def stepper(
    way: str, size: str, precision: str, quality: str, batch: int, device: torch.device, tiny: bool
) -> Callable[[], Any]:
    """One step of what is measured."""
    model = model_of(size, device, precision, tiny)
    act = torch.randint(ACTIONS, (batch,), device=device)
    if way.startswith("plain"):
        plain = PlainDenoiser(model.denoiser, device)
        obs = torch.rand(batch, 4, 3, 64, 64, device=device) * 2 - 1
        past, noise = torch.randint(ACTIONS, (batch, 4), device=device), torch.randn(batch, 3, 64, 64, device=device)
        sample = plain_sample
        if way == "plain compiled":
            plain._network = torch.compile(plain._network, mode="reduce-overhead", dynamic=False)  # type: ignore[method-assign]

        def frame() -> Any:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                return sample(plain, obs, past, noise, QUALITIES[quality])

        return frame
    if way == "compiled":
        model.compile_networks()
    dream = model.dream(batch, sampler=QUALITIES[quality], horizon=None, graph=way == "graph")
    dream.reset(seed=0)
    return lambda: dream.step(act)


if __name__ == "__main__":
    main()
