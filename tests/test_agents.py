"""Agents in their world models' files: registered, loaded, replaced, whole or not at all."""

import errno
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from cards import listed
from stubs import ACTIONS, save_tiny_model

from diamond_gym.errors import BadArgument, DamagedModel, DiskFull
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.registry import entries, load_world_model, remove, resolve, update_card, verify, with_agent
from diamond_gym.registry.models import read_entry
from diamond_gym.registry.saving import export

CONFIG = ActorCriticConfig(lstm_dim=8, img_size=16, channels=[8, 8], down=[1, 1], num_actions=ACTIONS)


def an_agent(seed: int = 0) -> ActorCritic:
    torch.manual_seed(seed)
    agent = ActorCritic(CONFIG)
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter)
    return agent


def same(agent: ActorCritic | None, other: ActorCritic) -> bool:
    assert agent is not None
    tensors = agent.state_dict()
    return all(torch.equal(tensors[key], value) for key, value in other.state_dict().items())


def test_the_agent_comes_with_the_model(home: Path) -> None:
    model, agent = save_tiny_model(), an_agent()
    before = resolve("tiny")
    facts = {"dreamed_in": "tiny", "steps": 300, "score": {"mean": 1.5}}
    entry = with_agent(before, asdict(CONFIG), agent.state_dict(), facts)
    assert entry == verify(resolve("Breakout"))
    assert [e.name for e in entries() if not e.bundled] == ["tiny"]
    assert entry.card.training["agent"] == facts
    assert entry.card.networks == ("denoiser", "reward_end", "actor_critic")
    assert (entry.card.created, entry.card.denoiser) == (before.card.created, before.card.denoiser)
    loaded = load_world_model("tiny", "cpu", "float32")
    assert same(loaded.actor_critic, agent)
    assert all(torch.equal(loaded.weights()[key], value) for key, value in model.weights().items())
    assert loaded.starts is not None
    readable = entry.path.with_suffix(".md").read_text()
    assert "## Agent\n" in readable
    assert "| score.mean | 1.5 |" in readable
    assert os.listdir(home / "models") == ["tiny"]


def test_the_next_agent_takes_its_place() -> None:
    save_tiny_model()
    entry = resolve("tiny")
    entry = update_card(entry, replace(entry.card, figures={"published": {"mean_score": 3.0}, "mse_1": 0.5}))
    config = {key: value for key, value in asdict(CONFIG).items() if not key.startswith(("img_", "num_"))}
    first, second = an_agent(1), an_agent(2)
    entry = with_agent(entry, config, {f"actor_critic.{k}": v for k, v in first.state_dict().items()}, {"n": 1})
    assert same(load_world_model("tiny", "cpu").actor_critic, first)
    assert entry.card.actor_critic == {key: value for key, value in asdict(CONFIG).items() if value is not None}
    with_agent(entry, config, {f"_orig_mod.{k}": v for k, v in second.state_dict().items()}, {"m": 2})
    assert same(load_world_model("tiny", "cpu").actor_critic, second)
    assert resolve("tiny").card.training["agent"] == {"m": 2}
    assert resolve("tiny").card.figures == {"mse_1": 0.5}
    update_card(resolve("tiny"), resolve("tiny").card, {"preview": b"a picture"})
    kept = with_agent(resolve("tiny"), config, first.state_dict(), {}).file("preview")
    assert kept is not None and kept.read_bytes() == b"a picture"


def test_a_bundled_model_stays_and_the_copy_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_model()
    bundled = tmp_path / "package"
    export(with_agent(resolve("tiny"), asdict(CONFIG), an_agent(1).state_dict(), {}), bundled)
    remove("tiny")
    assert listed(bundled) == ["tiny.md", "tiny.safetensors", "tiny.starts.npz", "tiny.toml"]
    assert same(load_world_model(bundled, "cpu").actor_critic, an_agent(1))
    monkeypatch.setattr("diamond_gym.registry.models.bundled_folder", lambda: bundled)
    source = read_entry(bundled / "tiny.toml")
    assert source.bundled
    kept = source.card
    with_agent(source, asdict(CONFIG), an_agent(2).state_dict(), {})
    assert not resolve("tiny").bundled
    assert same(load_world_model("tiny", "cpu").actor_critic, an_agent(2))
    assert read_entry(bundled / "tiny.toml").card == kept


def test_another_models_agent() -> None:
    save_tiny_model()
    entry = resolve("tiny")
    weights = an_agent().state_dict()
    for change, message in (
        ({"img_size": 32}, "sees frames of 32x32x3 and has 4 actions, but tiny dreams 16x16x3 with 4"),
        ({"num_actions": 5}, "has 5 actions"),
        ({"img_channels": 1}, "16x16x1"),
    ):
        with pytest.raises(BadArgument, match=message):
            with_agent(entry, {**asdict(CONFIG), **change}, weights, {})
    with pytest.raises(DamagedModel, match="1 key is missing .*actor_critic.actor_linear.bias"):
        with_agent(entry, asdict(CONFIG), {k: v for k, v in weights.items() if k != "actor_linear.bias"}, {})
    with pytest.raises(DamagedModel, match="not finite"):
        with_agent(entry, asdict(CONFIG), weights | {"actor_linear.bias": torch.full((ACTIONS,), torch.nan)}, {})
    assert resolve("tiny") == entry


def test_a_full_disk_leaves_the_model_as_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_model()
    entry = resolve("tiny")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(DiskFull):
        with_agent(entry, asdict(CONFIG), an_agent().state_dict(), {})
    assert verify(resolve("tiny")) == entry
    assert os.listdir(home / "models") == ["tiny"]
