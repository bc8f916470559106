"""What experience costs to open and to read: 253 episodes of 12,000 steps, as a training has them."""

import numpy as np
import pytest
import torch

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.data.on_device import FramesOnDevice
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.device import keep_memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    keep_memory()  # as every training does
    folder, rng = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    with EpisodeStore(folder, "a", About("X", (64, 64, 3), 4)) as store:
        for n in rng.integers(10, 86, 253).tolist():
            end = np.arange(n) == n - 1
            obs = rng.integers(0, 256, (n + 1, 64, 64, 3), dtype=np.uint8)
            store.append(Episode(obs, rng.integers(0, 4, n), np.zeros(n, np.float32), end, ~end & end))
    return folder


def test_open(benchmark, folder):
    benchmark.pedantic(lambda: EpisodeStore(folder).lengths, rounds=50, warmup_rounds=2)


def test_append(benchmark, folder, tmp_path):
    store, whole = EpisodeStore(tmp_path, "a", EpisodeStore(folder).about), EpisodeStore(folder)[0]
    benchmark.pedantic(lambda: store.append(whole), rounds=50, warmup_rounds=2)


@pytest.mark.parametrize("numbers", [False, True], ids=["frames", "numbers"])
@pytest.mark.parametrize("length", [6, 21])
def test_sample(benchmark, folder, length, numbers):
    store = EpisodeStore(folder)
    frames_of = FramesOnDevice(store, torch.device("cpu")) if numbers else None
    sampler = SegmentSampler(store, length, 32, False, np.random.default_rng(0), frames_of=frames_of)
    benchmark.pedantic(sampler.sample, rounds=300, warmup_rounds=100)
