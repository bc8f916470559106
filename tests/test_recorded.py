"""Updates as CUDA graphs do what they do one by one; on a CPU, where a graph calls its function, all but the graph."""

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import two_stages
import worlds
from catch_loop import ID, TINY
from torch import nn

from diamond_gym.cuda_graphs import WARM_UP, Chance, Draws, OutsideRandom
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers import actor_critic, world_model
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.imagination import Imagination
from diamond_gym.trainers.loop import ALONE, Loop
from diamond_gym.trainers.optim import OptimizerConfig, average, can_record
from diamond_gym.trainers.recorded import RecordedUpdates
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.trainers.two_stage import TwoStageTrainer
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.trainers.worlds import find_world

GPU = pytest.mark.gpu
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
STEPS = 4 * WARM_UP  # of which the last are replays, after a change of the batch's shape in the middle
CONFIG = replace(
    worlds.CONFIG, reward_end_every=1, num_autoregressive_steps=1, autoregressive_from=0.5, past_noise=0.2, focus=0.3
)
AGENT = AgentFitConfig(
    ActorCriticConfig(lstm_dim=8, img_size=worlds.SIZE, channels=[8, 8], down=[1, 1], num_actions=worlds.ACTIONS),
    optimizer=OptimizerConfig(lr=1e-3, weight_decay=0, warmup_steps=4, max_grad_norm=100, batch_size=4),
    horizon=3,
)


@pytest.fixture(autouse=True)
def settle_recording(monkeypatch):
    """Records on any device, unless a test takes it back; convolutions are exact, as what is compared is rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    def record(yes=True):
        def answer(device, fabric, config):
            return yes and can_record(torch.device("cuda"), fabric, config)

        for module in (world_model, actor_critic):
            monkeypatch.setattr(module, "can_record", answer)

    record()
    return record


@pytest.fixture
def store(tmp_path):
    return worlds.store(tmp_path / "walks")


def tensors(module):
    return [tensor.detach().cpu().clone() for tensor in module.state_dict().values()]


def apart(first, second, begun):
    """How far two trainings came apart, as a part of the way that they went."""
    distance, way = (
        sum(float((a - b).square().sum()) for a, b in zip(first, other, strict=True)) ** 0.5
        for other in (second, begun)
    )
    assert way > 0
    return distance / way


# Rounding alone. Of two frames that were rounded apart, one differs by a level of 255, and Adam makes much of little.
CLOSE = 0.02


@contextmanager
def without_waiting():
    """Raises where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@DEVICES
@pytest.mark.parametrize("objective", ["edm", "ddpm", "flow"])
@pytest.mark.parametrize("dreams_from", [1.0, 0.5])
def test_a_world_model_learns_as_without_graphs(device, objective, dreams_from, store, settle_recording):
    denoiser = replace(CONFIG.denoiser, objective=objective, residual=objective == "edm")
    config = replace(
        CONFIG,
        denoiser=denoiser,
        reward_end_dreams_from=dreams_from,
        num_autoregressive_steps=int(objective != "ddpm"),
    )
    trained, metrics = {}, {}
    for records in (True, False):
        settle_recording(records)
        fit = WorldModelTrainer(config, store, STEPS, seed=3, device=device)
        assert bool(fit._recorded) == records
        begun = {name: tensors(part) for name, part in fit.world_model.parts.items()}
        metrics[records] = [fit.train_step() for _ in range(STEPS)]
        trained[records] = fit
    for name in ("denoiser", "reward_end"):
        one, other = (tensors(trained[records].world_model.parts[name]) for records in (True, False))
        assert apart(one, other, begun[name]) < CLOSE, name
        averages = [tensors(trained[records].ema[name].module) for records in (True, False)]
        assert apart(*averages, begun[name]) < CLOSE, name
        assert int(trained[True].ema[name].n_averaged) == STEPS
    for one, other in zip(metrics[True], metrics[False], strict=True):
        assert one.keys() == other.keys()
        assert {k: float(v) for k, v in one.items()} == pytest.approx({k: float(v) for k, v in other.items()}, rel=0.05)
    assert len({float(of_step["denoiser/loss"]) for of_step in metrics[True]}) == STEPS, "each has a tensor of its own"


@DEVICES
def test_in_bfloat16_with_prioritized_steps(device, store):
    config = replace(CONFIG, prioritized=0.5, prioritized_every=5, reward_end_dreams_from=0.0)
    fit = WorldModelTrainer(config, store, STEPS, device=device, precision="bfloat16")
    before = tensors(fit.world_model)
    losses = [fit.train_step() for _ in range(STEPS)]
    assert all(value.isfinite() for of_step in losses for value in of_step.values())
    assert all(not a.equal(b) for a, b in zip(before[-2:], tensors(fit.world_model)[-2:], strict=True))


@DEVICES
def test_the_dynamics_of_two_stages(device, tmp_path):
    fit = TwoStageTrainer(two_stages.CONFIG, two_stages.store(tmp_path / "large"), STEPS, device=device)
    assert fit._recorded.keys() == {"denoiser", "reward_end"}, "the upsampler is updated without"
    metrics = [fit.train_step() for _ in range(STEPS)]
    assert {"denoiser/loss", "upsampler/loss", "reward_end/loss_rew"} <= metrics[-2].keys()
    assert all(value.isfinite() for of_step in metrics for value in of_step.values())


def dream(store, device):
    """Of a model that has learnt a little, in training with all in one process."""
    model = WorldModelTrainer(worlds.CONFIG, store, 4, seed=1, device=device).averaged()
    model.starts = draw_starts(store, worlds.INNER.num_steps_conditioning, 40)
    return model.dream(AGENT.optimizer.batch_size, sampler=SamplerConfig(num_denoising_steps=1), horizon=3)


@DEVICES
def test_an_agent_learns_as_without_graphs(device, store, settle_recording):
    recorded = ActorCriticTrainer(AGENT, seed=2, device=device)
    recorded.dream_in(dream(store, device), seed=5)
    assert recorded.records
    begun = tensors(recorded.agent)
    settle_recording(False)
    eager = ActorCriticTrainer(AGENT, seed=2, device=device)
    draws, dreams = Draws(torch.device(device), 5), dream(store, device)
    dreams.draw_from(OutsideRandom(dreams.num_envs, torch.device(device), draws))
    eager.imagination = Imagination(eager.agent, dreams, 5, draws.uniform)
    assert not eager.records
    for _ in range(STEPS):
        one, other = recorded.train_step(), eager.train_step()
        assert one.keys() == other.keys()
    assert {k: float(v) for k, v in one.items()} == pytest.approx({k: float(v) for k, v in other.items()}, rel=0.05)
    assert apart(tensors(recorded.agent), tensors(eager.agent), begun) < CLOSE
    assert len(set(recorded.imagination.dream.start.tolist())) > 1, "rows begin from starts that they draw"


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


@GPU
def test_a_replayed_step_waits_for_nothing(store):
    fit = WorldModelTrainer(replace(CONFIG, reward_end_dreams_from=0.0, autoregressive_from=0.0), store, 100, 0, "cuda")
    agent = ActorCriticTrainer(AGENT, device="cuda")
    agent.dream_in(dream(store, "cuda"))
    for trainer in (fit, agent):
        for _ in range(2 * WARM_UP):
            trainer.train_step()
        torch.cuda.synchronize()
        with without_waiting():
            metrics = [trainer.train_step() for _ in range(3)]
        assert all(value.isfinite() for value in metrics[-1].values())


def how(optimizer):
    """The options by which an optimizer computes; those of a graph have a learning rate in a tensor."""
    names = "fused", "capturable", "foreach"
    return [(isinstance(g["lr"], torch.Tensor), *(g[name] for name in names)) for g in optimizer.param_groups]


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        ("cpu", "cpu"),
        *(pytest.param(*pair, marks=GPU) for pair in (("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu"))),
    ],
)
@pytest.mark.parametrize("records", [(True, True), (True, False), (False, True)])
def test_a_checkpoint_goes_on_anywhere(saved, resumed, records, store, tmp_path, settle_recording):
    settle_recording(records[0])
    fit = WorldModelTrainer(CONFIG, store, 100, 0, saved)
    agent = ActorCriticTrainer(AGENT, device=saved)
    agent.dream_in(dream(store, saved))
    for _ in range(2 * WARM_UP):
        fit.train_step()
        agent.train_step()
    state = {"fit": deepcopy(fit.state_dict()), "agent": deepcopy(agent.state_dict())}
    begun, reached = tensors(fit.world_model), tensors(agent.agent)
    for _ in range(2 * WARM_UP):
        fit.train_step()
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        run.save(state)
        state = run.load()
    settle_recording(records[1])
    other = WorldModelTrainer(CONFIG, store, 100, 9, resumed)
    other_agent = ActorCriticTrainer(AGENT, seed=9, device=resumed)
    other_agent.dream_in(dream(store, resumed))
    for _ in range(2 * WARM_UP):  # on its own way, graphs included
        other.train_step()
        other_agent.train_step()
    optimizers = *other.optimizers.values(), other_agent.optimizer
    made = [how(optimizer) for optimizer in optimizers]
    other.load_state_dict(state["fit"])
    other_agent.load_state_dict(state["agent"])
    assert [how(optimizer) for optimizer in optimizers] == made, "as this device needs it"
    assert all(a.equal(b) for a, b in zip(begun, tensors(other.world_model), strict=True))
    assert all(a.equal(b) for a, b in zip(reached, tensors(other_agent.agent), strict=True))
    for _ in range(2 * WARM_UP):
        assert all(value.isfinite() for value in other.train_step().values())
    assert apart(tensors(fit.world_model), tensors(other.world_model), begun) < (CLOSE if saved == resumed else 3)
    for _ in range(2 * WARM_UP):
        assert all(value.isfinite() for value in other_agent.train_step().values())
    assert other_agent.step == 4 * WARM_UP
    steps = [of_parameter["step"] for of_parameter in other_agent.optimizer.state.values()]
    assert all(float(step) == 4 * WARM_UP for step in steps)


@DEVICES
def test_a_training_of_all(device, tmp_path):
    """Epoch after epoch the same graph of the agent's, in the newest world model, from the newest play."""
    world = find_world(env=ID)
    network = replace(TINY.agent.network, channels=[8, 8])
    config = replace(TINY, agent=replace(TINY.agent, network=network))

    def begin(run):
        return DiamondTrainer(config, run, world.about, world.envs(config.num_envs), device=device)

    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond, recorded, starts = begin(run), set(), []
        for _ in range(3):
            figures = diamond.train_epoch()
            assert all(np.isfinite(value) for value in figures.values()) and "agent/lambda_return" in figures
            recorded.add(diamond.agent._updates._recorded[1])
            dreams = diamond.agent.imagination.dream
            starts.append(dreams.bank.obs.clone())
            newest = diamond.world_model.averaged().weights()
            assert all(value.equal(newest[key]) for key, value in diamond._dreams._dreamed_in.weights().items())
            assert dreams.denoiser is diamond._dreams._dreamed_in.denoiser and not dreams.bank._unknown
        assert len(recorded) == 1 and not starts[0].equal(starts[1])
        assert device == "cpu" or recorded.pop()._graph is not None
        with Loop(diamond.save, minutes=1e-9) as loop:
            assert diamond.train_epoch(loop) is None
        diamond.close()
        diamond = begin(run)
        assert (diamond.epoch, diamond.agent.step) == (3, TINY.updates(3)[1])
        assert all(np.isfinite(value) for value in diamond.train_epoch().values())
        diamond.close()


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
