"""Frames per second of dreams on a GPU: `python -m benchmarks.gpu.table --out DIR`.

Rows: this package's dream with its reward and end model (eager, a whole step as one CUDA graph, and that of compiled
networks, which is `compile=True`), and the authors' formulation of the same denoiser and sampler alone
(`benchmarks.plain`: eager float32, and compiled in bfloat16). Random weights and actions; the median of a few blocks of
steps.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.cells import Cell, about, measured
from benchmarks.plain import PlainDenoiser, plain_sample
from benchmarks.two_stages import SIZE
from diamond_gym.cli.train_wm import by_preset
from diamond_gym.csgo import NUM_INPUTS
from diamond_gym.dream import Dream
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.sampler import QUALITIES
from diamond_gym.starts import Starts
from diamond_gym.two_stage import TWO_STAGE_QUALITIES, in_two_sizes
from diamond_gym.world_model import WorldModel

ACTIONS = 6


def model_of(size: str, device: torch.device, precision: str, tiny: bool = False) -> WorldModel:
    """A world model with random weights, of the paper's size, nano's or that of CS:GO (150x280, two stages)."""
    if size == "csgo":
        return two_stages(device, precision, tiny)
    fit = by_preset(size).fit.for_frames((64, 64, 3), ACTIONS)
    config, outcome = fit.denoiser, fit.reward_end
    if tiny:
        inner = config.inner_model
        config = replace(config, inner_model=replace(inner, channels=[8] * len(inner.channels)))
        outcome = replace(outcome, channels=[8] * len(outcome.channels))
    torch.manual_seed(0)
    denoiser, reward_end = Denoiser(config), RewardEnd(outcome)
    fill_zeros(denoiser)
    rng = np.random.default_rng(0)
    obs = rng.integers(256, size=(32, 4, 64, 64, 3), dtype=np.uint8)
    starts = Starts(obs, rng.integers(ACTIONS, size=(32, 3)), np.zeros(32, np.bool_))
    model = WorldModel(denoiser.eval(), reward_end.eval(), starts=starts).to_device(device, precision)
    return model.requires_grad_(False)


def fill_zeros(denoiser: Denoiser) -> None:
    """Gives convolutions that begin at zero random weights: as they are they would be no work to check."""
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)


def two_stages(device: torch.device, precision: str, tiny: bool) -> WorldModel:
    """The preset csgo with random weights."""
    fit = by_preset("csgo").fit
    if tiny:
        parts = fit.denoiser, fit.upsampler.denoiser
        small = [replace(part, inner_model=replace(part.inner_model, channels=[32] * 4)) for part in parts]
        fit = replace(fit, denoiser=small[0], upsampler=replace(fit.upsampler, denoiser=small[1]))
    config = fit.for_frames((*SIZE, 3), NUM_INPUTS)
    torch.manual_seed(0)
    denoiser, upsampler = Denoiser(config.denoiser), Denoiser(config.upsampler.denoiser)
    for part in (denoiser, upsampler):
        fill_zeros(part)
    rng, t = np.random.default_rng(0), denoiser.num_steps_conditioning
    obs = rng.integers(256, size=(2, t, *SIZE, 3), dtype=np.uint8)
    act = rng.integers(2, size=(2, t - 1, NUM_INPUTS))
    starts = in_two_sizes(Starts(obs, act, np.zeros(2, np.bool_)), upsampler)
    model = WorldModel(denoiser.eval(), None, None, upsampler.eval(), starts=starts).to_device(device, precision)
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


def cells_of(batches: Sequence[int], sizes: Sequence[str], ways: Sequence[str] | None = None) -> list[Cell]:
    """Which cells of the table are worth their seconds."""
    wanted = [
        ("compiled_graph", "paper", "bfloat16", "paper", (1, 8, 32, 512)),
        ("compiled_graph", "paper", "bfloat16", "fast", (32, 512)),
        ("compiled_graph", "paper", "float32", "paper", (32,)),
        ("compiled_graph", "nano", "bfloat16", "paper", (1, 32, 512)),
        ("compiled_graph", "nano", "bfloat16", "fast", (512, 2048)),
        ("graph", "paper", "bfloat16", "paper", (1, 32, 512)),
        ("graph", "nano", "bfloat16", "paper", (32, 512)),
        ("plain", "paper", "float32", "paper", (1, 32, 512)),
        ("plain compiled", "paper", "bfloat16", "paper", (32, 512)),
        ("eager", "paper", "bfloat16", "paper", (1, 32)),
        ("graph", "csgo", "bfloat16", "fast", (1,)),
        ("graph", "csgo", "bfloat16", "quality", (1,)),
        ("compiled_graph", "csgo", "bfloat16", "fast", (1,)),
        ("compiled_graph", "csgo", "bfloat16", "quality", (1,)),
    ]
    names = "way", "size", "precision", "quality"
    return [{**dict(zip(names, row, strict=False)), "batch": batch}
            for row in wanted for batch in row[-1]
            if batch in batches and row[1] in sizes and row[0] in (ways or row)]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 512, 2048])
    parser.add_argument("--sizes", nargs="+", default=["paper", "nano", "csgo"])
    parser.add_argument("--ways", nargs="+")
    parser.add_argument("--wait-s", type=float, default=150, help="for what compiles")
    parser.add_argument("--seconds", type=float, default=60, help="of the measuring")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    cells = cells_of(args.batches, args.sizes, args.ways)
    prepared = partial(prepare, device=args.device, tiny=args.tiny)
    lines = measured(prepared, cells, args.wait_s, args.seconds, args.out, tuned=True)
    (args.out / "table.json").write_text(json.dumps({"about": about(), "lines": lines}, indent=1))


def prepare(
    way: str, size: str, precision: str, quality: str, batch: int, device: str, tiny: bool
) -> Callable[[], Cell]:
    """Compiles what is to be compiled; what measures the rate."""
    place = torch.device(device)
    step, dream = stepper(way, size, precision, quality, batch, place, tiny)
    step()
    if place.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def measure() -> Cell:
        if dream is not None:
            dream._graphs.clear()  # recorded again, now that the device is free to choose kernels
        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found: Cell = {"frames_per_s": round(rate(step, batch, place), 1)}
        if place.type == "cuda":
            found["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        return found

    return measure


def stepper(
    way: str, size: str, precision: str, quality: str, batch: int, device: torch.device, tiny: bool
) -> tuple[Callable[[], Any], Dream | None]:
    """One step of what is measured, and the dream that it is a step of."""
    model = model_of(size, device, precision, tiny)
    act = torch.randint(ACTIONS, (batch,), device=device)
    sampler: Any = QUALITIES[quality] if size != "csgo" else TWO_STAGE_QUALITIES[quality]
    if size == "csgo":
        act = torch.randint(2, (batch, NUM_INPUTS), device=device).float()
    if way.startswith("plain"):
        plain = PlainDenoiser(model.denoiser, device)
        obs = torch.rand(batch, 4, 3, 64, 64, device=device) * 2 - 1
        past, noise = torch.randint(ACTIONS, (batch, 4), device=device), torch.randn(batch, 3, 64, 64, device=device)
        if way == "plain compiled":
            plain._network = torch.compile(plain._network, mode="reduce-overhead", dynamic=False)  # type: ignore[method-assign]

        def frame() -> Any:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                return plain_sample(plain, obs, past, noise, sampler)

        return frame, None
    if way == "compiled_graph":
        model.compile_networks()
    dream = model.dream(batch, sampler=sampler, horizon=None, graph="graph" in way)
    dream.reset(seed=0)
    return partial(dream.step, act), dream


if __name__ == "__main__":
    main()
