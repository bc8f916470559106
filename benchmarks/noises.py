"""One denoising step or three: what registered models dream with each, and how much of a frame the noise decides.

    python -m benchmarks.noises boxing-nano pong-nano --json noises.json --png noises.png

For each model: errors over those of copying and reward F1, in closed loop on held-out play (<home>/data/<game>-test,
collected if it is not there), and the variance of one next frame over 32 noises (of the window in which most moves).
The picture has a line for each model: what followed, then for one step and for three an example, the mean, and ten
times the standard deviation.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from diamond_gym.cli.collect import TEST_SEED, experience
from diamond_gym.registry import home_folder, load_world_model, resolve
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.fidelity import figures
from diamond_gym.trainers.plots import picture_of, write_png
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts
from diamond_gym.trainers.study import COMPARED, over_noises
from diamond_gym.trainers.worlds import find_world

HORIZON, TEST_STEPS = 16, 6000
KEPT = ("mse_over_copy_1", "mse_over_copy_4", "mse_over_copy_16", "reward_f1")


def main() -> None:
    """Measures the models that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    table, lines = {}, []
    for name in options.models:
        entry = resolve(name)
        model = load_world_model(entry, "cpu", "float32")
        model.use_kernels()
        folder = home_folder() / "data" / f"{entry.card.game.lower()}-test"
        store = experience(folder, find_world(entry.card.game), TEST_STEPS, TEST_SEED)
        real = Rollouts.held_out(store, options.windows, model.denoiser.num_steps_conditioning, HORIZON)
        table[name], line = over_noises(model, real)
        lines.append(line)
        for n in COMPARED:
            measured = figures(real, dream_rollouts(model, real, SamplerConfig(num_denoising_steps=n)))
            table[name] |= {f"{key}_n{n}": measured[key] for key in KEPT if not np.isnan(measured[key])}
        print(name, json.dumps(table[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    if options.png:
        write_png(options.png, picture_of(np.stack(lines), 2))


if __name__ == "__main__":
    main()
