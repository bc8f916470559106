"""Where dreams begin: stored starts, given frames, seeds, and the reward model's memory of them."""

import numpy as np
import pytest
import torch
from stubs import StubDenoiser, StubRewardEnd, StubWorldModel, T, actions, make_starts

from diamond_gym.dream import Dream
from diamond_gym.frames import to_frames


def test_given_frames_are_dreamt_on_from():
    model = StubWorldModel(end_bias=-50)
    stored = model.dream(3, starts=2)
    stored.reset(seed=9)
    given = model.dream(3)
    obs, act = torch.from_numpy(model.starts.obs[2]), torch.from_numpy(model.starts.act[2])
    frames = given.reset(seed=9, obs=obs, act=act)
    assert torch.equal(frames, to_frames(obs[-1:]).expand(3, -1, -1, -1))
    assert given.start.tolist() == [-1] * 3
    for t in range(5):
        a = actions(t, 1, 3)[0]
        one, two = stored.step(a), given.step(a)
        assert torch.equal(one.obs, two.obs)
        assert torch.equal(one.rew, two.rew)


def test_given_frames_for_some_rows_only():
    model = StubWorldModel()
    dream = model.dream(3)
    dream.reset(seed=9)
    before = dream.clone_state()
    obs = torch.from_numpy(np.stack([model.starts.obs[i] for i in (1, 2, 3)]))
    act = torch.from_numpy(np.stack([model.starts.act[i] for i in (1, 2, 3)]))
    dream.reset(mask=torch.tensor([False, True, False]), obs=obs, act=act)
    assert torch.equal(dream.obs_window[1], to_frames(obs[1]))
    for i in (0, 2):
        assert torch.equal(dream.obs_window[i], before.obs[i])
    assert dream.start.tolist() == [int(before.start[0]), -1, int(before.start[2])]


def test_given_frames_that_do_not_fit_are_refused():
    model = StubWorldModel()
    dream = model.dream(3)
    dream.reset()
    obs, act = torch.from_numpy(model.starts.obs[2]), torch.from_numpy(model.starts.act[2])
    for wrong_obs, wrong_act, words in (
        (obs.float(), act, "uint8"),
        (obs[1:], act, "obs must be uint8 frames of shape"),
        (obs.expand(2, -1, -1, -1, -1), act, "obs must be"),
        (obs, act[1:], r"act must be the int64 actions between the frames, of shape \(3,\)"),
        (obs, act.float(), "act must be"),
        (obs, act.expand(3, -1), "act must be"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            dream.reset(obs=wrong_obs, act=wrong_act)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="need the actions"):
        dream.reset(obs=obs)


def test_choices_of_starts():
    model = StubWorldModel()
    for choice, allowed in (("any", set(range(6))), ("first", {0, 3}), (4, {4})):
        dream = model.dream(64, starts=choice)
        dream.reset(seed=0)
        assert set(dream.start.tolist()) == allowed
    dream.reset(start=1)
    assert set(dream.start.tolist()) == {1}
    dream.reset(start=torch.arange(64) % 6)
    assert dream.start.tolist() == [i % 6 for i in range(64)]
    with pytest.raises(ValueError, match="there are 6"):
        dream.reset(start=6)


def test_seeds():
    model = StubWorldModel()
    dream = model.dream(2, seed=5)
    assert torch.equal(dream.reset(), model.dream(2).reset(seed=5))
    assert dream.clone_state(True).rng["seed"].tolist() == [5, 6]
    dream.reset(seed=[8, 3])
    assert dream.clone_state(True).rng["seed"].tolist() == [8, 3]
    fresh = [model.dream(1) for _ in range(3)]
    for unseeded in fresh:
        unseeded.reset()
    assert len({int(unseeded.clone_state(True).rng["seed"]) for unseeded in fresh}) == 3


def test_one_frame_windows_have_nothing_to_burn_in():
    dream = Dream(StubDenoiser(), StubRewardEnd(), make_starts(3, t=1), 2)
    dream.denoiser.denoise = lambda noisy, *_: noisy.clamp(-1, 1)
    dream.reset(seed=0)
    assert not any(memory.any() for memory in dream.clone_state().memory)
    dream.step(torch.tensor([0, 1]))


def test_starts_are_burnt_in_once():
    model, calls = StubWorldModel(), []
    forward = model.reward_end.forward
    model.reward_end.forward = lambda obs, *rest: calls.append(tuple(obs.shape[:2])) or forward(obs, *rest)
    dream = model.dream(16, horizon=1)
    dream.reset(seed=0)
    assert calls == [(1, T - 1)] * 6  # every start was drawn by some row
    calls.clear()
    for t in range(5):
        dream.step(actions(t, 1, 16)[0])
    assert calls == [(16, 1)] * 5
