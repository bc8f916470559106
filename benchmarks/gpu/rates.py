"""How fast world models are fitted and agents trained on a GPU: `python -m benchmarks.gpu.rates --out DIR`.

Updates a second of the package's own trainers, and dreamed steps a second of an agent's training, on episodes of noise,
by the presets `nano-gpu` and `paper`. Nothing of torch is settled that `diamond-gym train` leaves as it is. Whatever
else is typed are options of `diamond-gym train`, which come on top of the preset's.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cells import Cell, about, measured
from benchmarks.gpu.table import rate
from benchmarks.test_networks import experience
from diamond_gym import cli
from diamond_gym.cli.benchmark import paper_model
from diamond_gym.cli.dry_run import dreaming_agent
from diamond_gym.cli.train import Train
from diamond_gym.cuda_graphs import WARM_UP
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.device import keep_memory, pick_device, pick_precision
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.world_model import WorldModelTrainer

CELLS: list[Cell] = [
    {"what": "fit", "preset": "nano-gpu", "batch": 64},
    {"what": "fit early", "preset": "nano-gpu", "batch": 64},
    {"what": "fit", "preset": "nano-gpu", "batch": 256},
    {"what": "reward", "preset": "nano-gpu", "batch": 32},
    {"what": "imagine", "preset": "nano-gpu", "batch": 128},
    {"what": "imagine", "preset": "nano-gpu", "batch": 512},
    {"what": "fit", "preset": "paper", "batch": 32},
    {"what": "reward", "preset": "paper", "batch": 32},
    {"what": "imagine", "preset": "paper", "batch": 32},
    {"what": "fit", "preset": "nano-gpu", "batch": 64, "compiled": True},
    {"what": "fit", "preset": "paper", "batch": 32, "compiled": True},
]


def prepare(
    what: str, preset: str, batch: int, seconds: float, options: Sequence[str] = (), compiled: bool = False
) -> Callable[[], Cell]:
    """A training that has recorded its step; what measures it.

    Args:
        what: "fit" updates the denoiser with two predictions in a row, "fit early" with one, as in the first part of a
            fitting; "reward" updates the reward and end model on dreamed frames, if the preset ever does; "imagine"
            trains the agent, of which dreamed steps are counted.
        preset: Of the whole loop.
        batch: Segments of an update, or dreams side by side.
        seconds: How long to measure.
        options: Of `diamond-gym train`, on top.
        compiled: Whether the world model is compiled in training.
    """
    train = training(preset, *options, *["--compile"] * compiled)
    device = pick_device(train.device)
    keep_memory()
    store = experience(Path(tempfile.mkdtemp()), paper_model())
    step = step_of(what, batch, train, store, device)
    for _ in range(WARM_UP + 1):  # until it is recorded
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    done = batch * train.loop.agent.horizon if what == "imagine" else 1

    def measure() -> Cell:
        found: Cell = {"a_second": round(rate(step, done, device, seconds), 1)}
        if device.type == "cuda":
            found["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        return found

    return measure


def training(preset: str, *options: str) -> Train:
    """What `diamond-gym train` makes of a preset and options."""
    command: Train = cli._parse(Train, "train", ["--game", "Breakout", "--preset", preset, *options])
    return command


def step_of(what: str, batch: int, train: Train, store: EpisodeStore, device: torch.device) -> Callable[[], Any]:
    """One step of a training."""
    config = configured(what, batch, train.loop.for_game(store.about))
    precision = pick_precision(train.precision, device)
    fit = WorldModelTrainer(config.fit, store, 10**6, 0, device, precision, train.compile)
    if what != "imagine":
        return fit.train_step
    return dreaming_agent(config, fit.averaged(), store, device).train_step


def configured(what: str, batch: int, config: DiamondConfig) -> DiamondConfig:
    """A training of which each step is what is measured."""
    fit, agent = config.fit, config.agent
    if what == "imagine":
        return replace(config, agent=replace(agent, optimizer=replace(agent.optimizer, batch_size=batch)))
    names = "denoiser_optimizer", "reward_end_optimizer"
    trained, still = reversed(names) if what == "reward" else names
    optimizers = {
        trained: replace(getattr(fit, trained), batch_size=batch),
        still: replace(getattr(fit, still), lr=0.0),
    }
    dreams_from = 0.0 if fit.reward_end_dreams_from < 1 else 1.0
    moments = {"autoregressive_from": float(what == "fit early"), "reward_end_dreams_from": dreams_from}
    return replace(config, fit=replace(fit, reward_end_every=1, **moments, **optimizers))


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3, help="of a cell")
    parser.add_argument("--wait-s", type=float, default=150, help="for what compiles")
    parser.add_argument("--only", type=int, nargs="+", choices=range(len(CELLS)), metavar="N", help="which cells")
    args, options = parser.parse_known_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    cells = [CELLS[i] for i in args.only or range(len(CELLS))]
    prepared = partial(prepare, seconds=args.seconds, options=options)
    lines = measured(prepared, cells, args.wait_s, args.seconds * len(cells) + 30, args.out)
    (args.out / "rates.json").write_text(json.dumps({"about": about(), "lines": lines}, indent=1))


if __name__ == "__main__":
    main()
