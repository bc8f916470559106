"""The container of networks: weights in and out, devices, precisions."""

from dataclasses import asdict

import pytest
import torch
import worlds
from stubs import make_starts, save_tiny_model

from diamond_gym import world_model
from diamond_gym.device import pick_device, pick_precision
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.registry import Card, FileRecord, load_world_model
from diamond_gym.world_model import WorldModel


def tiny(seed: int = 0) -> WorldModel:
    torch.manual_seed(seed)
    return WorldModel(Denoiser(worlds.CONFIG.denoiser), RewardEnd(worlds.CONFIG.reward_end))


def card() -> Card:
    return Card(
        name="tiny",
        game="Walk",
        created="2026-01-01T00:00:00Z",
        spaces={"obs_shape": [8, 8, 3], "num_actions": 3},
        denoiser=asdict(worlds.CONFIG.denoiser),
        reward_end=asdict(worlds.CONFIG.reward_end),
        files={"weights": FileRecord("tiny.safetensors", "0" * 64, 1)},
    )


def test_weights_go_round_through_a_card() -> None:
    model = tiny()
    again = WorldModel.from_card(Card.from_toml(card().to_toml()), model.weights())
    assert again.weights().keys() == model.weights().keys()
    assert all(torch.equal(v, again.weights()[k]) for k, v in model.weights().items())
    assert not again.training
    assert {k.split(".")[0] for k in model.weights()} == {"denoiser", "rew_end_model"}


def test_compiled_networks_keep_their_keys() -> None:
    model, plain = tiny(), tiny(1)
    wrapped = torch.compile(model.denoiser.inner_model, backend="eager")
    model.denoiser.inner_model = wrapped
    assert model.weights().keys() == plain.weights().keys()
    model.load_weights(plain.weights())
    assert all(torch.equal(v, plain.weights()[k]) for k, v in model.weights().items())


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_weights_that_do_not_fit(change: str) -> None:
    weights = tiny().weights()
    if change == "missing":
        del weights["denoiser.inner_model.conv_in.bias"]
    elif change == "extra":
        weights["stranger"] = torch.zeros(1)
    else:
        weights["denoiser.inner_model.conv_in.bias"] = torch.zeros(99)
    with pytest.raises(RuntimeError):
        WorldModel.from_card(card(), weights)


def test_half_weights_become_float32_networks() -> None:
    model = WorldModel.from_card(card(), {k: v.half() for k, v in tiny().weights().items()})
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_devices_and_precisions() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    assert pick_precision("auto", torch.device("cpu")) in ("float32", "bfloat16")
    with pytest.raises(BadArgument, match="device 'nonsense'"):
        pick_device("nonsense")
    with pytest.raises(BadArgument, match="precision must be"):
        pick_precision("float64", torch.device("cpu"))
    assert tiny().to_device("cpu", "bfloat16").precision == "bfloat16"


def test_dream_without_starts_is_one_line() -> None:
    with pytest.raises(DiamondGymError, match="has no start states"):
        tiny().dream(2)


def test_num_actions_and_shape() -> None:
    model = WorldModel.from_card(card(), tiny().weights())
    assert (model.num_actions, model.obs_shape) == (3, (8, 8, 3))
    assert tiny().action_meanings == (), "there is no card to name them"
    with pytest.raises(DiamondGymError, match="image size is unknown"):
        _ = tiny().obs_shape


def test_fingerprints_tell_weights_apart_in_any_process() -> None:
    assert tiny().fingerprint == tiny().fingerprint != tiny(1).fingerprint
    assert WorldModel.from_card(card(), tiny().weights()).fingerprint == "tiny:" + "0" * 64


@pytest.mark.parametrize("limit", [0, 10**9])
def test_filled_whether_or_not_it_was_initialised_first(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save_tiny_model()
    monkeypatch.setattr("diamond_gym.world_model.LARGE", limit)
    model = load_world_model("tiny", "cpu", "float32")
    assert model.device.type == "cpu"
    assert all(value.equal(saved.weights()[key]) for key, value in model.weights().items())


def test_printed_on_one_screen() -> None:
    model = WorldModel.from_card(card(), tiny().weights())
    said = repr(model).splitlines()
    assert said[0] == "WorldModel('tiny', game='Walk', device='cpu', precision='float32')"
    parameters = sum(parameter.numel() for parameter in model.denoiser.parameters())
    assert f"  denoiser: Denoiser, {parameters:,} parameters" in said
    assert len(said) == 1 + len(model.parts)


def test_a_step_of_compiled_networks_is_one_graph_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    model.starts = make_starts(size=8)
    asked: list[bool] = []
    monkeypatch.setattr(world_model, "Dream", lambda *args, graph, **settled: asked.append(graph))
    model.dream(1)
    model.denoiser.inner_model.compile()
    model.dream(1)
    model.dream(1, graph=False)
    assert asked == [False, True, False]
