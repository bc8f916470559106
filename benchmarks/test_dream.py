"""Dream frames per second of a bundled model, environment included, beside the bare sampler.

`make bench`, or `pytest benchmarks/test_dream.py --benchmark-enable`; `frames_per_second` stands in each row's extra
info (`--benchmark-json FILE` writes it down).
"""

from typing import Any

import numpy as np
import pytest
import torch

from diamond_gym.envs import DreamVectorEnv
from diamond_gym.registry import load_world_model
from diamond_gym.sampler import QUALITIES, sample

MODEL = "breakout-nano"


def note(benchmark: Any, frames: int) -> None:
    """Adds the rate to the row, from the median."""
    if benchmark.stats is not None:  # None where benchmarks run as plain tests
        benchmark.extra_info["frames_per_second"] = round(frames / benchmark.stats.stats.median, 1)


@pytest.mark.parametrize("quality", ["fast", "paper"])
@pytest.mark.parametrize("num_envs", [1, 8, 32])
def test_environment_step(benchmark: Any, num_envs: int, quality: str) -> None:
    envs = DreamVectorEnv(model=MODEL, num_envs=num_envs, quality=quality, autoreset_mode="SameStep")
    envs.reset(seed=0)
    act = np.zeros(num_envs, np.int64)
    benchmark.pedantic(envs.step, args=(act,), rounds=20, warmup_rounds=3)
    note(benchmark, num_envs)
    envs.close()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_envs", [1, 8, 32])
def test_bare_sampler(benchmark: Any, num_envs: int, precision: str) -> None:
    model = load_world_model(MODEL, precision=precision)
    h, w, c = model.obs_shape
    t, device = model.denoiser.num_steps_conditioning, model.device
    obs = torch.rand(num_envs, t, c, h, w, device=device) * 2 - 1
    act = torch.zeros(num_envs, t, dtype=torch.int64, device=device)
    noise = torch.randn(num_envs, c, h, w, device=device)

    @torch.inference_mode()
    def frame() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            x, _ = sample(model.denoiser.condition, obs, act, noise, QUALITIES["paper"])
        return float(x.sum())  # waits for the device

    benchmark.pedantic(frame, rounds=20, warmup_rounds=3)
    note(benchmark, num_envs)
