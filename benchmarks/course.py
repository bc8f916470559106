"""A training's losses by torch's convolutions and by the kernels: `python -m benchmarks.course --updates 50`.

Both begin with the same weights and draw the same batches and noise. Printed are the losses of some updates and how far
all of them are from each other.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.test_networks import experience, world_model
from diamond_gym.networks.kernels import training
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.trainers.world_model_config import WorldModelConfig


def losses(name: str, batch: int, updates: int, kernels: bool, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The denoiser's losses (updates,) from the weights of a bundled model on, on episodes of noise."""
    training.kernels_train_faster = lambda: kernels  # type: ignore[assignment]
    model = world_model(name, torch.device("cpu"))
    assert model.reward_end is not None
    store = experience(Path(tempfile.mkdtemp()), model, episodes=2)
    optimizers = OptimizerConfig(batch_size=batch, lr=5e-4), OptimizerConfig(lr=0, batch_size=1)
    config = WorldModelConfig(model.denoiser.config, model.reward_end.config, *optimizers)
    trainer = WorldModelTrainer(config, store, updates)
    trainer.world_model.load_weights(weights)
    return torch.tensor([float(trainer.train_step()["denoiser/loss"]) for _ in range(updates)])


def main() -> None:
    """Trains both ways and prints the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pong-nano")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--updates", type=int, default=50)
    args = parser.parse_args()
    weights = world_model(args.model, torch.device("cpu")).weights()
    plain, ours = (losses(args.model, args.batch, args.updates, kernels, weights) for kernels in (False, True))
    print("update", "torch", "kernels", "relative difference", sep="\t")
    off = (ours - plain).abs() / plain
    for i in sorted({0, 1, 4, 9, *range(19, args.updates, 10)} & set(range(args.updates))):
        print(f"{i + 1}\t{plain[i]:.6f}\t{ours[i]:.6f}\t{off[i]:.1e}")
    print(f"largest difference {off.max():.1e}, mean {off.mean():.1e}")


if __name__ == "__main__":
    main()
