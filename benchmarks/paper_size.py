"""The paper's networks with random weights: imported, registered, loaded, and one second of Breakout dreamed.

    python -m benchmarks.paper_size

prints one JSON object. A second is 15 frames, at three denoising steps each. The peak of memory is the process's own
(resident, everything included), so run it in a fresh one.
"""

import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from diamond_gym.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.denoiser import Denoiser
from diamond_gym.registry import load_world_model
from diamond_gym.registry.published import Published, published
from diamond_gym.registry.released import read_released
from diamond_gym.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.starts import Starts
from diamond_gym.trainers.importing import register
from diamond_gym.world_model import WorldModel, denoiser_config

FRAMES_PER_SECOND = 15


def write_release(model: Published, folder: Path) -> tuple[Path, Path, Path]:
    """Writes a random model of a published one's sizes in the authors' format: checkpoint and two YAML files."""
    card = model.card()
    assert card.reward_end is not None
    assert card.actor_critic is not None
    world_model = WorldModel(
        Denoiser(denoiser_config(card.denoiser)),
        RewardEnd(RewardEndConfig(**card.reward_end)),
        ActorCritic(ActorCriticConfig(**card.actor_critic)),
    )
    files = folder / "agent.pt", folder / "agent.yaml", folder / "env.yaml"
    torch.save(world_model.weights(), files[0])
    parts = {"denoiser": card.denoiser, "rew_end_model": card.reward_end, "actor_critic": card.actor_critic}
    del card.denoiser["inner_model"]["num_actions"], card.reward_end["num_actions"], card.actor_critic["num_actions"]
    files[1].write_text(yaml.safe_dump(parts))
    files[2].write_text(yaml.safe_dump({"train": {"size": card.obs_shape[0]}}))
    return files


def measure(folder: Path, frames: int = FRAMES_PER_SECOND, game: str = "Breakout") -> dict[str, object]:
    """Imports, loads and dreams; returns the seconds each took and the peak of memory.

    Args:
        folder: An empty one for the checkpoint, outside of which only the user's registry is written to.
        frames: How many to dream.
        game: One of the 26.
    """
    files = write_release(published()[game], folder)
    began = time.perf_counter()
    released = read_released(*files, game, "paper-size")
    t = released.num_steps_conditioning
    starts = Starts(np.zeros((1, t, *released.frame_shape), np.uint8), np.zeros((1, t - 1), np.int64), np.ones(1, bool))
    register(released, starts, {})
    imported = time.perf_counter()
    model = load_world_model("paper-size", "cpu", "float32")
    loaded = time.perf_counter()
    dream = model.dream(1, horizon=None, seed=0)
    dream.reset()
    started = time.perf_counter()
    for _ in range(frames):
        dream.step(torch.zeros(1, dtype=torch.long))
    ended = time.perf_counter()
    scale = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes there, kibibytes elsewhere
    return {
        "parameters": sum(value.numel() for value in model.weights().values()),
        "checkpoint_mb": round(files[0].stat().st_size / 1e6, 1),
        "import_seconds": round(imported - began, 2),
        "load_seconds": round(loaded - imported, 2),
        "frames": frames,
        "dream_seconds": round(ended - started, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["DIAMOND_GYM_HOME"] = home
        print(json.dumps(measure(Path(home)), indent=2))
