"""A dream's state: a copy, from which the same dream branches exactly, and no other."""

import pickle

import pytest
import torch
from stubs import (
    StubWorldModel,
    actions,
    trace,
)


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
