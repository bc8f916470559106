"""Dreams in forked processes."""

import multiprocessing
import os
import subprocess
import sys

import pytest
from stubs import save_tiny_model


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no forks here")
def test_forked_workers_do_not_wait_for_the_parents_threads():
    """In a process of its own, which has computed with two threads before, as a user's may have."""
    save_tiny_model()
    program = """
import torch, gymnasium as gym, diamond_gym
torch.set_num_threads(2)
torch.nn.functional.conv2d(torch.randn(8, 16, 64, 64), torch.randn(16, 16, 3, 3))
torch.randn(2000, 500) @ torch.randn(500, 500)
own = gym.make_vec("DiamondDream-v0", num_envs=2, model="tiny", device="cpu", precision="float32")
own.reset(seed=0)
envs = gym.make_vec(
    "DiamondDream-v0", num_envs=2, vectorization_mode="async", model="tiny", device="cpu", precision="float32",
    vector_kwargs={"context": "fork"},
)
envs.reset(seed=0)
envs.step(envs.action_space.sample())
envs.close()
print("done", torch.get_num_threads())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.stdout.split() == ["done", "2"], done.stderr[-2000:]
