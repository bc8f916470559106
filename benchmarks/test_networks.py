"""Frames of the sampler (plain, folded, compiled) and updates of the denoiser, of a bundled and of a paper-sized model.

`make bench`, or `pytest benchmarks/test_networks.py --benchmark-enable`; `--benchmark-group-by=param:size,param:batch`
puts what is to be compared together. `plain` is the baseline of `benchmarks/plain.py`; `diamond-gym benchmark` measures
whole steps of a dream.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.plain import PlainDenoiser, plain_sample
from diamond_gym.cli.benchmark import load
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.sampler import QUALITIES, sample
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.trainers.world_model_config import WorldModelConfig
from diamond_gym.world_model import WorldModel

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAPER = QUALITIES["paper"]


def no_noise(shape: tuple[int, ...]) -> torch.Tensor:
    raise AssertionError(f"the paper's sampler draws no further noise, and was asked for {shape}")


def world_model(size: str, device: torch.device, compiled: bool = False) -> WorldModel:
    """The bundled small model, or one of the paper's sizes with random weights."""
    model = load("breakout-nano" if size == "nano" else size, device, "float32")
    if compiled:
        model.compile_networks()
    return model


def inputs(model: WorldModel, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Past frames (B, T, C, H, W), actions (B, T) and noise (B, C, H, W), random, on the model's device."""
    h, w, c = model.obs_shape
    t, chance = model.denoiser.num_steps_conditioning, torch.Generator().manual_seed(0)
    obs = torch.rand(batch, t, c, h, w, generator=chance) * 2 - 1
    act = torch.randint(model.num_actions, (batch, t), generator=chance)
    noise = torch.randn(batch, c, h, w, generator=chance)
    return obs.to(model.device), act.to(model.device), noise.to(model.device)


def experience(folder: Path, model: WorldModel, episodes: int = 10, steps: int = 200) -> EpisodeStore:
    """Episodes of noise, which cost as much as others."""
    rng, no = np.random.default_rng(0), np.zeros(steps, bool)
    end = np.arange(steps) == steps - 1
    with EpisodeStore(folder, "a", About("Breakout", model.obs_shape, model.num_actions)) as store:
        for _ in range(episodes):
            obs = rng.integers(0, 256, (steps + 1, *model.obs_shape), dtype=np.uint8)
            act, rew = rng.integers(0, model.num_actions, steps), rng.integers(-1, 2, steps).astype(np.float32)
            store.append(Episode(obs, act, rew, end, no, {}))
    return EpisodeStore(folder)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", ["plain", "float32", "bfloat16", "float32 compiled", "bfloat16 compiled"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("size", ["nano", "paper"])
def test_frames(benchmark: Any, size: str, batch: int, way: str, device: str) -> None:
    precision, _, compiled = way.partition(" ")
    model = world_model(size, torch.device(device), bool(compiled))
    arguments = inputs(model, batch)
    plain = PlainDenoiser(model.denoiser, device)
    folded = FoldedDenoiser(model.denoiser, DTYPES.get(precision, torch.float32))

    @torch.no_grad()
    def frame() -> None:
        if way == "plain":
            plain_sample(plain, *arguments, PAPER)
        else:
            sample(folded.condition, *arguments, PAPER, no_noise)
        wait(device)

    benchmark.pedantic(frame, rounds=10 if size == "nano" else 3, warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info["frames_per_second"] = round(batch / benchmark.stats.stats.median, 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", list(DTYPES))
def test_update(benchmark: Any, tmp_path: Path, precision: str, device: str) -> None:
    model = world_model("nano", torch.device(device))
    assert model.reward_end is not None
    store = experience(tmp_path, model)
    config = WorldModelConfig(model.denoiser.config, model.reward_end.config, OptimizerConfig(batch_size=16))
    fit = WorldModelTrainer(config, store, 10**6, 0, device, precision)

    def update() -> None:
        fit.train_step()
        wait(device)

    benchmark.pedantic(update, rounds=10, warmup_rounds=2)
    store.close()
