"""The README's example that trains on tensors alone runs as it is printed."""

import re
from pathlib import Path

import pytest
import torch
from stubs import StubWorldModel, make_starts, tiny_networks

import diamond_gym
from diamond_gym.world_model import WorldModel


@pytest.fixture
def example(root: Path) -> str:
    section = (root / "README.md").read_text(encoding="utf-8").split("## Without NumPy")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_the_example_runs(example, monkeypatch):
    assert len(example.splitlines()) <= 32
    monkeypatch.setattr(diamond_gym, "load_world_model", lambda name: StubWorldModel(), raising=False)
    torch.manual_seed(0)
    short = example.replace("range(1_000)", "range(3)")
    assert short != example
    scope = {}
    exec(compile(short, "README.md", "exec"), scope)
    assert scope["obs"].shape == (64, 3, 8, 8)
    assert torch.isfinite(scope["loss"])
    assert scope["returns"].shape == (15, 64)
    # R_t = r_t + γ R_{t+1} unless the step ended a dream
    last, before = scope["steps"][-1], scope["steps"][-2]
    assert torch.equal(scope["returns"][-1], last.rew)
    going_on = ~(before.end | before.trunc)
    torch.testing.assert_close(scope["returns"][-2], before.rew + 0.985 * going_on * last.rew)
    assert all(parameter.grad.abs().sum() > 0 for parameter in scope["agent"].parameters())


@pytest.mark.gpu
def test_the_example_stays_on_the_device(example, monkeypatch):
    denoiser, reward_end = tiny_networks(16)
    model = WorldModel(denoiser, reward_end, starts=make_starts(size=16)).to("cuda")
    monkeypatch.setattr(diamond_gym, "load_world_model", lambda name: model, raising=False)
    scope = {}
    exec(compile(example.replace("range(1_000)", "range(3)"), "README.md", "exec"), scope)
    assert scope["obs"].device.type == "cuda"
