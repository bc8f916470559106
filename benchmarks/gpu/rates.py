"""How fast worlds are fitted and agents trained on a GPU: `python -m benchmarks.gpu.rates --out DIR`.

Updates of `benchmarks.gpu.worlds`, as CUDA graphs, of one world and of several side by side; and
which kernels the time goes to.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.about import about
from benchmarks.gpu.cells import Cell, measured
from benchmarks.gpu.play import noise_play
from benchmarks.gpu.recipe import Recipe
from benchmarks.gpu.worlds import World
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.networks.denoiser import InnerModelConfig
from diamond_gym.networks.reward_end import RewardEndConfig

CELLS: list[Cell] = [
    {"what": "fit", "worlds": 1, "batch": 64},
    {"what": "fit", "worlds": 4, "batch": 64},
    {"what": "reward", "worlds": 1, "batch": 32},
    {"what": "imagine", "worlds": 1, "batch": 128},
    {"what": "imagine", "worlds": 1, "batch": 512},
    {"what": "imagine", "worlds": 4, "batch": 128},
    {"what": "fit", "worlds": 1, "batch": 256},
    {"what": "early", "worlds": 1, "batch": 256},
    {"what": "imagine", "worlds": 1, "batch": 256},
    {"what": "fit", "worlds": 1, "batch": 256, "compiled": True},
    {"what": "early", "worlds": 1, "batch": 256, "compiled": True},
    {"what": "reward", "worlds": 1, "batch": 32, "compiled": True},
    {"what": "imagine", "worlds": 1, "batch": 256, "compiled": True},
    {"what": "fit", "worlds": 1, "batch": 32, "compiled": True, "size": "paper"},
    {"what": "reward", "worlds": 1, "batch": 32, "compiled": True, "size": "paper"},
    {"what": "imagine", "worlds": 1, "batch": 32, "compiled": True, "size": "paper"},
]
PAPER: dict[str, Any] = {
    "inner": InnerModelConfig(), "reward_end": RewardEndConfig(), "agent": ActorCriticConfig(), "residual": False,
    "change_threshold": 0.0, "motion_weight": 0.0, "appearance_focus": 0.0, "denoiser_focus": 0.0, "reward_dream": 0,
}  # fmt: skip


def prepare(
    what: str,
    worlds: int,
    batch: int,
    device: str,
    seconds: float,
    recipe: Recipe,
    compiled: bool = False,
    size: str = "nano",
) -> Callable[[], Cell]:
    """Worlds with recorded graphs; what measures them."""
    place, name = torch.device(device), {"reward": "reward_batch", "imagine": "num_dreams"}.get(what, "batch")
    settings = replace(recipe, **{name: batch}, dreams_every=10**9, **(PAPER if size == "paper" else {}))
    all_worlds = []
    for seed in range(worlds):
        world = World("Pong", 6, settings, place, seed, compiled=compiled)
        world.early = what == "early"
        world.experience.add(noise_play(6, seed))
        all_worlds.append(world)
    does: dict[str, Callable[[World], None]] = {
        "fit": World.fit_denoiser,
        "early": World.fit_denoiser,
        "reward": lambda world: world._run("reward_end", world._fit_reward_end),
        "imagine": lambda world: world.imagine(1),
    }
    for world in all_worlds:
        does[what](world)
    wait = torch.cuda.synchronize if place.type == "cuda" else lambda: None
    wait()
    return partial(_measure, does[what], all_worlds, seconds, wait)


def _measure(
    do: Callable[[World], None], worlds: list[World], seconds: float, wait: Callable[[], None]
) -> dict[str, Any]:
    for world in worlds:
        world._graphs.clear()  # recorded again, now that the device is free to choose kernels
        do(world)
    wait()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for _ in range(5):
            for world in worlds:
                do(world)
        wait()
        count += 5 * len(worlds)
    rate = count / (time.perf_counter() - begin)
    result: dict[str, Any] = {"a_second": round(rate, 1)}
    if torch.cuda.is_available():
        result["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            for world in worlds:
                do(world)
            wait()
        times = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
        result["kernels"] = sum(event.count for event in times)
        result["busy_ms"] = round(sum(event.self_device_time_total for event in times) / 1000, 2)
        result["top"] = [(event.key[:70], event.count, round(event.self_device_time_total)) for event in times[:14]]
    return result


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=3, help="of a cell")
    parser.add_argument("--wait-s", type=float, default=120)
    parser.add_argument("--only", type=int, nargs="+", choices=range(len(CELLS)), metavar="N", help="which cells")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    cells = [CELLS[i] for i in args.only or range(len(CELLS))]
    settings = {"device": args.device, "seconds": args.seconds, "recipe": Recipe()}
    lines = measured(partial(prepare, **settings), cells, args.wait_s, 3 * args.seconds * len(cells) + 30, args.out)
    (args.out / "rates.json").write_text(json.dumps({"about": about(), "lines": lines}, indent=1))


if __name__ == "__main__":
    main()
