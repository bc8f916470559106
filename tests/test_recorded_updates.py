"""A recorded update takes in what changes from call to call; what cannot be recorded is left as it is."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import worlds
from graph_trainings import AGENT, CONFIG, STEPS, dream, tensors
from torch import nn

from diamond_gym.cuda_graphs import WARM_UP, Chance, Draws
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.loop import ALONE
from diamond_gym.trainers.optim import OptimizerConfig, average, can_record
from diamond_gym.trainers.recorded import RecordedUpdates
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.trainers.world_model import WorldModelTrainer

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
pytestmark = pytest.mark.usefixtures("settle_recording")


@pytest.fixture
def store(tmp_path):
    return worlds.store(tmp_path / "walks")


@DEVICES
def test_learning_rate_and_average_take_effect_at_every_call(device):
    torch.manual_seed(0)
    network = nn.Linear(3, 2).to(device)
    config = OptimizerConfig(lr=0.1)
    averaged, expected = average(network, 0.9), average(network, 0.9)
    draws = Draws(torch.device(device))
    updates = RecordedUpdates("line", network, config, draws, averaged=(averaged, 0.9))

    def loss(x):
        error = (network(x + 0.1 * draws.normal((4, 3))) - 1).square().mean()
        return error, {"line/loss": error.detach()}

    for step in range(STEPS):
        before, factor = tensors(network), (0.0, 1.0, 1e-3)[step % 3]
        figures = updates(loss, factor, torch.rand(4, 3))
        assert figures.keys() == {"line/loss", "line/grad_norm"}
        way = max(float((a - b).abs().max()) for a, b in zip(before, tensors(network), strict=True))
        assert way == 0 if factor == 0 else 0.01 < way / (0.1 * factor) < 10
        expected.update_parameters(network)
        torch.testing.assert_close(tensors(averaged), tensors(expected))


@DEVICES
def test_other_losses_and_shapes_are_recorded_anew(device):
    network = nn.Linear(3, 1).to(device)
    updates = RecordedUpdates("line", network, OptimizerConfig(lr=0.1), Draws(torch.device(device)))

    def loss(x):
        return network(x).square().mean(), {"rows": torch.full((), float(len(x)), device=x.device)}

    def other(x):
        return network(x).abs().mean(), {}

    for rows in (2, 5, 2):
        for _ in range(WARM_UP + 2):
            assert float(updates(loss, 1.0, torch.ones(rows, 3))["rows"]) == rows
    assert updates(other, 1.0, torch.ones(2, 3)).keys() == {"line/grad_norm"}


def test_numbers_are_drawn_anew_and_in_the_order_of_fresh_ones():
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    chance, fresh = Chance(torch.device("cpu"), generators[0]), Draws(torch.device("cpu"))
    fresh.generator = generators[1]
    places = set()
    for _ in range(3):
        chance.refill()
        for draw in ("normal", "uniform", "normal"):
            number = getattr(chance, draw)((2, 3))
            places.add(number.data_ptr())
            assert number.equal(getattr(fresh, draw)((2, 3)))
    assert len(places) == 3


def test_what_is_not_recorded(store, settle_recording):
    gpu, accumulated = torch.device("cuda"), OptimizerConfig(grad_acc_steps=2)
    assert can_record(gpu, ALONE, OptimizerConfig())
    assert not can_record(torch.device("cpu"), ALONE, OptimizerConfig())
    assert not can_record(gpu, SimpleNamespace(world_size=2), OptimizerConfig())
    assert not can_record(gpu, ALONE, accumulated)
    config = replace(CONFIG, denoiser_optimizer=replace(CONFIG.denoiser_optimizer, grad_acc_steps=2))
    fit = WorldModelTrainer(config, store, 10)
    assert fit._recorded.keys() == {"reward_end"}
    assert {"denoiser/loss", "reward_end/loss_end"} <= fit.train_step().keys()
    agent = ActorCriticTrainer(AGENT)
    dreams = dream(store, "cpu")
    dreams.denoiser.inner_model = nn.Identity()
    agent.dream_in(dreams)
    assert not agent.records and agent.keeps_dreams, "a network from elsewhere may wait for the device"


def test_starts_of_another_shape_are_refused(store):
    dreams = dream(store, "cpu")
    with pytest.raises(ValueError, match="these starts are"):
        dreams.bank.replace(draw_starts(store, worlds.INNER.num_steps_conditioning, 41))
