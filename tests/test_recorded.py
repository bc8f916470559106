"""Updates as CUDA graphs do what they do one by one; on a CPU, where a graph calls its function, all but the graph."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import two_stages
import worlds
from catch_loop import ID, TINY
from graph_trainings import AGENT, CLOSE, CONFIG, STEPS, apart, dream, tensors

from diamond_gym.cuda_graphs import WARM_UP, Draws, OutsideRandom
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.imagination import Imagination
from diamond_gym.trainers.loop import Loop
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.two_stage import TwoStageTrainer
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.trainers.worlds import find_world

GPU = pytest.mark.gpu
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
pytestmark = pytest.mark.usefixtures("settle_recording")


@pytest.fixture
def store(tmp_path):
    return worlds.store(tmp_path / "walks")


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


@contextmanager
def without_waiting():
    """Raises where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
