"""A dream's state: a copy, from which the same dream branches exactly, and no other."""

import copy
import pickle

import pytest
import torch
from engines import StubEngine
from stubs import StubWorldModel, actions, make_starts, tiny_dream, tiny_networks, trace

from diamond_gym.csgo import NUM_INPUTS
from diamond_gym.dream import Dream


@pytest.mark.parametrize("include_rng", [True, False])
def test_a_branch_is_exact(include_rng):
    dream = StubWorldModel().dream(3, horizon=5)
    dream.reset(seed=0)
    acts = actions(8, 20, 3)
    for t in range(7):
        dream.step(acts[t])
    state = pickle.loads(pickle.dumps(dream.clone_state(include_rng)))
    first = [trace(dream.step(acts[t])) for t in range(7, 20)]
    dream.restore_state(state)
    if not include_rng:
        assert torch.equal(dream.obs_window, state.obs)
        second = [trace(dream.step(acts[t])) for t in range(7, 20)]
        assert not all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
        return
    other = StubWorldModel().dream(3, horizon=5)
    other.restore_state(state)
    for branch in (dream, other):
        for t, expected in zip(range(7, 20), first, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(trace(branch.step(acts[t])), expected, strict=True))


def test_a_state_is_a_copy():
    dream = StubWorldModel().dream(2)
    dream.reset(seed=0)
    state = dream.clone_state(True)
    obs = dream.obs_window.clone()
    for tensor in (state.obs, state.act, state.steps, state.start, *state.memory, *state.rng.values()):
        tensor.fill_(7)
    assert torch.equal(dream.obs_window, obs)
    dream.obs.fill_(0)
    assert torch.equal(dream.obs_window, obs)


def test_a_state_of_another_dream_is_refused():
    state_of = {}
    for name, dream in {
        "mine": StubWorldModel().dream(2),
        "model": StubWorldModel("other").dream(2),
        "num_envs": StubWorldModel().dream(3),
        "frames": StubWorldModel(size=16).dream(2),
    }.items():
        dream.reset(seed=0)
        state_of[name] = dream.clone_state()
    dream = StubWorldModel().dream(2)
    for name in ("model", "num_envs", "frames"):
        with pytest.raises(ValueError, match=f"another dream: its {name} is") as caught:
            dream.restore_state(state_of[name])
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="what clone_state returned"):
        dream.restore_state("a state")
    dream.restore_state(state_of["mine"])
    assert dream.step(torch.tensor([0, 1])).obs.shape == (2, 3, 8, 8)


def places(dream) -> dict[str, int]:
    tensors = {name: value for name, value in vars(dream).items() if isinstance(value, torch.Tensor)}
    tensors |= {f"memory {i}": part for i, part in enumerate(dream._memory or ())}
    tensors |= {"seed": dream._rng.seed, "draw": dream._rng.draw}
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


@pytest.mark.parametrize("kind", ["one stage", "two stages"])
def test_the_state_stays_in_place(kind):
    """So that a CUDA graph can replay what reads and writes it."""
    two = kind == "two stages"
    dream = StubEngine().dream(3, horizon=3) if two else tiny_dream(3, horizon=3)
    dream.reset(seed=0)
    before, state = places(dream), dream.clone_state(include_rng=True)
    assert {"obs_window", "act_window", "steps", "start"} < before.keys()
    assert "full_window" in before if two else "memory 1" in before
    act = torch.zeros(3, NUM_INPUTS, dtype=torch.int64) if two else torch.tensor([0, 1, 2])
    for _ in range(4):
        dream.step(act)
    dream.step(act, restart=False, mask=torch.tensor([True, False, True]))
    dream.reset(seed=[1, None, 5], mask=torch.tensor([True, False, True]))
    dream.reset(9, start=2)
    dream.refresh()
    dream.restore_state(state)
    assert places(dream) == before


def test_a_step_given_out_stays_as_it_was():
    dream = tiny_dream(2, horizon=2)
    dream.reset(seed=0)
    steps, kept = [], []
    for act in actions(4, 5, 2):
        step = dream.step(act)
        steps.append(step)
        kept.append({name: copy.deepcopy(value) for name, value in vars(step).items()})
    dream.reset(seed=5)
    for step, before in zip(steps, kept, strict=True):
        for name, value in vars(step).items():
            same = (
                torch.stack(value).equal(torch.stack(before[name]))
                if name == "trajectory"
                else value.equal(before[name])
            )
            assert same, name


def test_trained_networks_are_dreamed_with_after_refresh():
    denoiser, reward_end = tiny_networks()
    starts, act = make_starts(5, size=16), torch.tensor([1, 2])
    dream = Dream(denoiser, reward_end, starts, 2, seed=0)

    def steps(dream):
        dream.reset(seed=3)
        return [dream.step(act) for _ in range(2)]

    before = steps(dream)
    with torch.no_grad():
        for parameter in (*denoiser.parameters(), *reward_end.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    dream.refresh()
    after, fresh = steps(dream), steps(Dream(denoiser, reward_end, starts, 2))
    for ours, theirs, old in zip(after, fresh, before, strict=True):
        assert ours.obs.equal(theirs.obs) and ours.rew_prob.equal(theirs.rew_prob)
        assert not ours.obs.equal(old.obs) and not ours.rew_prob.equal(old.rew_prob)


@pytest.mark.gpu
def test_a_graph_replays_the_same_dream_without_waiting():
    denoiser, reward_end = (network.cuda() for network in tiny_networks())
    starts, acts = make_starts(5, size=16), actions(3, 9, 4).cuda()
    mask = torch.tensor([True, False, True, True]).cuda()
    dreams = [Dream(denoiser, reward_end, starts, 4, horizon=3, device="cuda", graph=graph) for graph in (False, True)]
    taken = []
    for dream in dreams:
        dream.reset(seed=1)
        dream.step(acts[0])
        dream.step(acts[1], restart=False, mask=mask)
        dream.reset(seed=1)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")  # raises where the host would wait
        try:
            steps = [dream.step(act) for act in acts[:6]]
            steps += [dream.step(act, restart=False, mask=mask) for act in acts[6:]]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        taken.append(steps)
    for eager, graphed in zip(*taken, strict=True):
        for name, value in vars(eager).items():
            if name != "trajectory":
                assert vars(graphed)[name].equal(value), name
        assert torch.stack(graphed.trajectory).equal(torch.stack(eager.trajectory))
