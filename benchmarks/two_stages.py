"""Time and memory of one training step of the preset csgo at full size: 330 M and 51 M parameters, 150x280 frames.

python -m benchmarks.two_stages --batch 1      # rows of each stage; the preset's are 2 x 64 and 4 x 8
"""

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from diamond_gym.cli.train_wm import by_preset
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.trainers.two_stage import TwoStageTrainer

SIZE, STEPS = (150, 280), 40


def peak() -> float:
    """The most memory that this process has taken, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Takes a step on noise and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="rows of each stage's batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    given = parser.parse_args()
    fit = by_preset("csgo").fit
    fit = replace(
        fit,
        denoiser_optimizer=replace(fit.denoiser_optimizer, batch_size=given.batch, grad_acc_steps=None),
        without_rewards=True,
        upsampler=replace(
            fit.upsampler, optimizer=replace(fit.upsampler.optimizer, batch_size=given.batch, grad_acc_steps=None)
        ),
    )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        with EpisodeStore(Path(folder) / "noise", "a", About("Noise", (*SIZE, 3), 51)) as writer:
            obs = rng.integers(0, 256, (STEPS + 1, *SIZE, 3), dtype=np.uint8)
            writer.append(Episode(obs, rng.integers(51, size=STEPS)))
        began = time.perf_counter()
        config = fit.for_frames((*SIZE, 3), 51)
        trainer = TwoStageTrainer(config, EpisodeStore(Path(folder) / "noise"), 10, 0, given.device, given.precision)
        parts = {name: sum(p.numel() for p in part.parameters()) for name, part in trainer.world_model.parts.items()}
        print({name: f"{count / 1e6:.1f} M" for name, count in parts.items()})
        print(f"set up in {time.perf_counter() - began:.0f} s, at most {peak():.1f} GB")
        for _ in range(2):
            began = time.perf_counter()
            losses = {name: float(value) for name, value in trainer.train_step().items()}
            took = time.perf_counter() - began
            print(f"a step of batches of {given.batch} in {took:.1f} s, at most {peak():.1f} GB of main memory", losses)
        if given.device == "cuda":
            print(f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU's memory")


if __name__ == "__main__":
    main()
