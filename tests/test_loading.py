"""From a name to a world model, and the ids that the package registers."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cards import WEIGHTS, a_card, some_starts

from diamond_gym.errors import DamagedModel
from diamond_gym.registry import (
    Card,
    games,
    save_model,
)


def a_world_model() -> tuple[Card, Any]:
    from dataclasses import asdict

    from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
    from diamond_gym.world_model import WorldModel

    inner = InnerModelConfig(
        num_steps_conditioning=4, cond_channels=8, depths=[1], channels=[8], attn_depths=[0], num_actions=2
    )
    model = WorldModel(Denoiser(DenoiserConfig(inner_model=inner)), starts=some_starts())
    return a_card(denoiser=asdict(model.denoiser.config)), model


def test_load_world_model() -> None:
    import diamond_gym

    card, model = a_world_model()
    entry = save_model(card, model.weights(), model.starts)
    loaded = diamond_gym.load_world_model("tiny", device="cpu", precision="float32")
    assert loaded.card == entry.card
    assert not loaded.training
    assert all(torch.equal(value, model.weights()[key]) for key, value in loaded.weights().items())
    assert np.array_equal(loaded.starts.obs, model.starts.obs)


@pytest.mark.parametrize("change", [{"cond_channels": 16}, {"cond_channels": 8192}])
def test_card_and_weights_that_do_not_fit(change: dict[str, int]) -> None:
    import diamond_gym

    card, model = a_world_model()
    inner = {**card.denoiser["inner_model"], **change}
    save_model(replace(card, denoiser={**card.denoiser, "inner_model": inner}), model.weights(), model.starts)
    with pytest.raises(DamagedModel, match="card and weights do not fit together") as caught:
        diamond_gym.load_world_model("tiny", device="cpu", precision="float32")
    assert "\n" not in str(caught.value)


def test_ids() -> None:
    import gymnasium

    import diamond_gym

    for name in games():
        dream, real = (gymnasium.spec(f"Diamond{kind}-{name}-v0") for kind in ("Dream", "Real"))
        assert (dream.kwargs, dream.max_episode_steps) == ({"game": name}, 50)
        assert (real.kwargs, real.max_episode_steps) == ({"game": name}, None)
        assert dream.entry_point == "diamond_gym.envs:DreamEnv"
        assert dream.vector_entry_point == "diamond_gym.envs:DreamVectorEnv"
    assert gymnasium.spec("DiamondDream-v0").kwargs == {}

    save_model(a_card("my-catch", game="Catch"), WEIGHTS)
    before = dict(gymnasium.registry)
    try:
        diamond_gym.register_ids()
        assert gymnasium.spec("DiamondDream-my-catch-v0").kwargs == {"model": "my-catch"}
        assert gymnasium.spec("DiamondDream-Catch-v0").kwargs == {"game": "Catch"}
        assert {name: gymnasium.registry[name] for name in before} == before
    finally:
        for name in set(gymnasium.registry) - set(before):
            del gymnasium.registry[name]


def test_damaged_card_is_a_warning_of_one_line_at_import(home: Path) -> None:
    save_model(a_card("good", game="Catch"), WEIGHTS)
    (home / "models" / "bad").mkdir()
    code = "import gymnasium, diamond_gym; gymnasium.spec('DiamondDream-good-v0')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.count("the card is missing") == 1
