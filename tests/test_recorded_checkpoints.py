"""A training goes on from a checkpoint with graphs and without, on the same device or another."""

from copy import deepcopy

import pytest
import torch
import worlds
from graph_trainings import AGENT, CLOSE, CONFIG, apart, dream, tensors

from diamond_gym.cuda_graphs import WARM_UP
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.world_model import WorldModelTrainer

GPU = pytest.mark.gpu
pytestmark = pytest.mark.usefixtures("settle_recording")


@pytest.fixture
def store(tmp_path):
    return worlds.store(tmp_path / "walks")


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
