"""What a step's random numbers cost: noise for a (3, 64, 64) image and two uniforms in each row."""

import pytest
import torch

from diamond_gym.randomness import NOISE, RowRandom

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 8, 64, 512])
def test_noise_and_outcome(benchmark, batch, device):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = RowRandom(batch, device, 0)

    def draw():
        rows.normal_and_uniform((3, 64, 64), NOISE, 2)
        rows.advance()
        if device == "cuda":
            torch.cuda.synchronize()

    try:
        benchmark.pedantic(draw, rounds=20, warmup_rounds=3)
    finally:
        torch.set_num_threads(threads)
