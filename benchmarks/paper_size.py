"""The authors' networks at full size with random weights: imported, registered, loaded, and one second dreamed.

    python -m benchmarks.paper_size
    python -m benchmarks.paper_size --game CSGO --quality fast
    python -m benchmarks.paper_size --game CSGO --quality quality

prints one JSON object. A second is 15 frames of an Atari game and 16 of CS:GO. The random checkpoint is written by a
process of its own, so that the peak of memory (resident, everything included) is that of importing and dreaming.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from diamond_gym import csgo
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.registry import Card, load_world_model, now
from diamond_gym.registry.published import CSGO, Published, published
from diamond_gym.registry.released import Released, read_released
from diamond_gym.registry.spawn import read_spawn
from diamond_gym.sampler import QUALITIES
from diamond_gym.starts import Starts
from diamond_gym.trainers.register import register
from diamond_gym.two_stage import TWO_STAGE_QUALITIES
from diamond_gym.world_model import WorldModel, denoiser_config

ATARI_FRAMES, CSGO_FRAMES = 15, 16
NAME = "paper-size"
Table = dict[str, Any]
_PAPER_UNET: Table = {"depths": [2, 2, 2, 2], "attn_depths": [0, 0, 0, 0]}
_DERIVED = ("num_actions", "noise_cond", "num_extra_images")  # what the released YAML leaves to the tensors


def write_release(game: str, folder: Path) -> None:
    """Writes a random model of a published one's sizes as the authors would: checkpoint, two YAML files, spawns."""
    model = published()[game]
    card = _card(model)
    with torch.device("meta"):  # the orthogonal initialisation of networks this wide takes minutes
        networks = WorldModel(
            Denoiser(denoiser_config(card.denoiser)),
            RewardEnd(RewardEndConfig(**card.reward_end)) if card.reward_end else None,
            ActorCritic(ActorCriticConfig(**card.actor_critic)) if card.actor_critic else None,
            Denoiser(denoiser_config(card.upsampler)) if card.upsampler else None,
        )
    weights = networks.to_empty(device="cpu").weights()
    for tensor in weights.values():
        tensor.normal_(std=0.02)
    checkpoint, config, env_config = _files(folder)
    torch.save(weights, checkpoint)
    tables = (card.denoiser, card.upsampler, card.reward_end, card.actor_critic)
    parts = ("denoiser", "upsampler", "rew_end_model", "actor_critic")
    told = {part: _told(table) for part, table in zip(parts, tables, strict=True) if table}
    config.write_text(yaml.safe_dump(told))
    height, width, channels = card.obs_shape
    env_config.write_text(yaml.safe_dump({"train": {"size": [height, width]}}))
    if card.upsampler is not None:
        factor, rng = card.upsampler["upsampling_factor"], np.random.default_rng(0)
        spawn = folder / "spawn" / "0"
        spawn.mkdir(parents=True)
        for name, (h, w) in {"low_res": (height // factor, width // factor), "full_res": (height, width)}.items():
            np.save(spawn / f"{name}.npy", rng.integers(0, 256, (4, channels, h, w), dtype=np.uint8))
        actions = csgo.encode(rng.integers(0, csgo.SIZES, (204, len(csgo.SIZES)))).astype(np.uint8)
        np.save(spawn / "act.npy", actions[:4])
        np.save(spawn / "next_act.npy", actions[4:])


def _atari_networks(num_actions: int) -> dict[str, Table]:
    frames: Table = {"img_channels": 3, "num_actions": num_actions}
    inner = {**frames, **_PAPER_UNET, "num_steps_conditioning": 4, "cond_channels": 256, "channels": [64] * 4}
    square: Table = {**frames, "img_size": 64, "lstm_dim": 512}
    return {
        "denoiser": {"sigma_data": 0.5, "sigma_offset_noise": 0.3, "inner_model": inner},
        "reward_end": {**square, **_PAPER_UNET, "cond_channels": 128, "channels": [32] * 4},
        "actor_critic": {**square, "channels": [32, 32, 64, 64], "down": [1, 1, 1, 1]},
    }


def _csgo_networks(num_actions: int) -> dict[str, Table]:
    frames: Table = {**_PAPER_UNET, "img_channels": 3, "cond_channels": 2048, "noise_cond": True}
    dynamics = {
        **frames,
        "num_steps_conditioning": 4,
        "channels": [128, 256, 512, 1024],
        "attn_depths": [0, 0, 1, 1],
        "num_actions": num_actions,
    }
    upsampler = {
        **frames,
        "num_steps_conditioning": 1,
        "channels": [64, 64, 128, 256],
        "attn_depths": [0, 0, 0, 1],
        "num_extra_images": 1,
    }
    edm: Table = {"sigma_data": 0.5, "sigma_offset_noise": 0.1}
    return {
        "denoiser": {**edm, "noise_previous_obs": True, "inner_model": dynamics},
        "upsampler": {**edm, "upsampling_factor": 5, "inner_model": upsampler},
    }


def _card(model: Published) -> Card:
    atari = model.game != CSGO
    networks = (_atari_networks if atari else _csgo_networks)(model.num_actions)
    spaces = {"obs_shape": [64, 64, 3] if atari else [150, 280, 3], "num_actions": model.num_actions}
    return Card(model.name, model.game, now(), spaces, **networks)


def measure(
    folder: Path, game: str = "Breakout", quality: str | None = None, frames: int | None = None, device: str = "cpu",
    precision: str = "float32",
) -> dict[str, Any]:  # fmt: skip
    """Imports, loads and dreams; returns the seconds each took and the peak of memory.

    Args:
        folder: An empty one for the checkpoint, outside of which only the user's registry is written to.
        game: One of the 26, or CSGO.
        quality: Of the sampler; default: the paper's three steps, of CSGO "fast".
        frames: How many to dream; default: a second of them.
        device: Where to dream.
        precision: Of the networks.
    """
    frames = frames or (CSGO_FRAMES if game == CSGO else ATARI_FRAMES)
    writer = multiprocessing.get_context("spawn").Process(target=write_release, args=(game, folder))
    writer.start()
    writer.join()
    if writer.exitcode != 0:
        raise SystemExit("the random checkpoint could not be written")
    model = published()[game]

    files = _files(folder)
    import_seconds = _timed(lambda: _import(files, model, folder / "spawn"))
    import_peak = _peak_memory_mb()
    loaded: list[WorldModel] = []
    load_seconds = _timed(lambda: loaded.append(load_world_model(NAME, device, precision)))
    qualities: dict[str, Any] = TWO_STAGE_QUALITIES if game == CSGO else QUALITIES
    dream = loaded[0].dream(1, sampler=qualities[quality] if quality else None, horizon=None, seed=0)
    reset_seconds = _timed(dream.reset)
    act = torch.from_numpy(csgo.encode(csgo.action("w"))[None]) if game == CSGO else torch.zeros(1, dtype=torch.long)
    each = [_timed(lambda: _step(dream, act.to(dream.device))) for _ in range(frames)]
    return {
        "game": game,
        "quality": quality or ("fast" if game == CSGO else "paper"),
        "parameters": sum(value.numel() for value in loaded[0].weights().values()),
        "checkpoint_mb": round(files[0].stat().st_size / 1e6, 1),
        "import_seconds": round(import_seconds, 2),
        "import_peak_memory_mb": import_peak,
        "load_seconds": round(load_seconds, 2),
        "reset_seconds": round(reset_seconds, 2),
        "frames": frames,
        "obs_shape": list(loaded[0].obs_shape),
        "first_frame_seconds": round(each[0], 3),
        "median_frame_seconds": round(float(np.median(each)), 3),
        "dream_seconds": round(sum(each), 2),
        "frames_per_second": round(frames / sum(each), 3),
        "peak_memory_mb": _peak_memory_mb(),
        "device": str(dream.device),
        "precision": loaded[0].precision,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": _machine(),
        "torch": version("torch"),
        "commit": _commit(),
    }


def _told(table: dict[str, Any]) -> dict[str, Any]:
    """A network's table as the released YAML has it."""
    kept = {key: _told(value) if key == "inner_model" else value for key, value in table.items() if key not in _DERIVED}
    return {key: value for key, value in kept.items() if value is not None}


def _files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "agent.pt", folder / "agent.yaml", folder / "env.yaml"


def _import(files: tuple[Path, Path, Path], model: Published, spawn: Path) -> None:
    """As `diamond-gym import-diamond` does it, but for playing the real game."""
    released = read_released(*files, model.game, NAME)
    register(replace(released, card=replace(released.card, license=model.license)), _starts(released, spawn), {})


def _starts(released: Released, spawn: Path) -> Starts:
    card, t = released.card, released.num_steps_conditioning
    if card.upsampler is not None:
        return read_spawn(spawn, released.frame_shape, card.obs_shape, card.num_actions, t, 1)
    obs = np.random.default_rng(0).integers(0, 256, (1, t, *released.frame_shape), dtype=np.uint8)
    return Starts(obs, np.zeros((1, t - 1), np.int64), np.ones(1, bool))


def _step(dream: Any, act: torch.Tensor) -> None:
    step = dream.step(act)
    step.obs.sum().item()  # waits for the device


def _timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _peak_memory_mb() -> int:
    scale = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes there, kibibytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6)


def _machine() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """The commit of this checkout; "unknown" outside of one."""
    try:
        words = ["git", "describe", "--always", "--dirty"]
        return subprocess.check_output(words, cwd=Path(__file__).parent, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--game", default="Breakout", choices=list(published()), metavar="GAME|CSGO")
    parser.add_argument("--quality", choices=sorted({*QUALITIES, *TWO_STAGE_QUALITIES}))
    parser.add_argument("--frames", type=int, help="default: one second of the game")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["auto", "float32", "bfloat16"])
    wishes = parser.parse_args()
    if wishes.quality and wishes.quality not in (TWO_STAGE_QUALITIES if wishes.game == CSGO else QUALITIES):
        parser.error(f"{wishes.game} has no quality {wishes.quality}")
    with tempfile.TemporaryDirectory() as home:
        os.environ["DIAMOND_GYM_HOME"] = home
        print(json.dumps(measure(Path(home), **vars(wishes)), indent=2))
