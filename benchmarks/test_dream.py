"""Dreamed frames per second of a bundled model, environment included, and what a step's random numbers cost.

`make bench`, or `pytest benchmarks/test_dream.py --benchmark-enable`; `frames_per_second` stands in each row's extra
info (`--benchmark-json FILE` writes it down).
"""

from typing import Any

import numpy as np
import pytest
import torch

from diamond_gym.envs import DreamVectorEnv
from diamond_gym.randomness import NOISE, RowRandom

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("quality", ["fast", "paper"])
@pytest.mark.parametrize("num_envs", [1, 8, 32])
def test_environment_step(benchmark: Any, num_envs: int, quality: str) -> None:
    envs = DreamVectorEnv(model="breakout-nano", num_envs=num_envs, quality=quality, autoreset_mode="SameStep")
    envs.reset(seed=0)
    act = np.zeros(num_envs, np.int64)
    benchmark.pedantic(envs.step, args=(act,), rounds=20, warmup_rounds=3)
    if benchmark.stats is not None:  # None where benchmarks run as plain tests
        benchmark.extra_info["frames_per_second"] = round(num_envs / benchmark.stats.stats.median, 1)
    envs.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 8, 64, 512])
def test_random_numbers(benchmark: Any, batch: int, device: str) -> None:
    """Noise for a (3, 64, 64) image and two uniforms in each row."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = RowRandom(batch, device, 0)

    def draw() -> None:
        rows.normal_and_uniform((3, 64, 64), NOISE, 2)
        rows.advance()
        if device == "cuda":
            torch.cuda.synchronize()

    try:
        benchmark.pedantic(draw, rounds=20, warmup_rounds=3)
    finally:
        torch.set_num_threads(threads)
