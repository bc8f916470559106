import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import ACTIONS, StubDenoiser, StubRewardEnd, StubWorldModel, T, levels, make_starts, tiny_networks

from diamond_gym.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.dream import Dream, draw_category
from diamond_gym.randomness import NOISE, RowRandom
from diamond_gym.sampler import QUALITIES, SamplerConfig, sample
from diamond_gym.start_bank import to_frames, to_pixels


def actions(seed, steps, batch):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, ACTIONS, (steps, batch)))


def trace(step):
    return (*to_pixels(step.obs), step.rew, step.end, step.trunc, step.start, *to_pixels(step.final_obs))


def tiny_dream(num_envs, **kwargs):
    return Dream(*tiny_networks(), make_starts(5, size=16), num_envs, **kwargs)


def test_pixels_and_frames_are_inverse():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    frames = to_frames(pixels)
    assert frames.shape == (1, 1, 16, 16)
    assert (float(frames.min()), float(frames.max())) == (-1, 1)
    assert torch.equal(to_pixels(frames), pixels)
    assert torch.equal(to_pixels(frames + 1e-5), pixels)
    assert to_pixels(torch.tensor([-9.0, 9.0]).view(1, 1, 2)).flatten().tolist() == [0, 255]


def test_draw_category_inverts_the_distribution():
    logits = torch.tensor([0.5, 0.2, 0.3]).log().expand(6, 3)
    drawn = draw_category(logits, torch.tensor([0.0, 0.49, 0.51, 0.69, 0.71, 1 - 2**-24]))
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2]
    assert draw_category(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1 - 2**-24])).tolist() == [0]


def test_a_step_is_the_method_step_by_step():
    """DIAMOND.md 1.5, written out by hand for one row."""
    denoiser, reward_end = tiny_networks()
    starts = make_starts(5, size=16)
    dream = Dream(denoiser, reward_end, starts, 1, horizon=None, choice=3)
    dream.reset(seed=11)
    rng = RowRandom(1, "cpu", 11)
    rng.advance()  # the reset was the first event
    obs, act = to_frames(torch.from_numpy(starts.obs[3:4])), torch.from_numpy(starts.act[3:4])
    with torch.no_grad():
        _, _, state = reward_end(obs[:, :-1], act, obs[:, 1:])
        for action in (1, 0, 3, 2, 2, 1):
            act = torch.cat((act, torch.tensor([[action]])), dim=1)
            noise, uniform = rng.normal_and_uniform((3, 16, 16), NOISE, 2)
            next_obs, _ = sample(denoiser, obs, act, noise, SamplerConfig())
            logits_rew, logits_end, state = reward_end(obs[:, -1:], act[:, -1:], next_obs[:, None], state)
            uniform = uniform[0]
            rng.advance()
            step = dream.step(torch.tensor([action]), restart=False)
            assert torch.equal(step.obs, next_obs)
            cdf_rew, cdf_end = (logits[0, 0].softmax(0).cumsum(0) for logits in (logits_rew, logits_end))
            rew = -1.0 if uniform[0] < cdf_rew[0] else 0.0 if uniform[0] < cdf_rew[1] else 1.0
            assert step.rew.tolist() == [rew]
            assert bool(step.end) == bool(uniform[1] >= cdf_end[0])
            obs, act = torch.cat((obs[:, 1:], next_obs[:, None]), dim=1), act[:, 1:]
            assert torch.equal(dream.obs_window, obs)
            assert torch.equal(dream.act_window[:, :-1], act)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("restart", [True, False])
def test_rows_dream_what_singles_dream_whatever_the_batch(batch, restart):
    """Whole episodes with restarts at different times: exact, the stub's arithmetic being exact."""
    steps, model = 40, StubWorldModel()
    acts = actions(0, steps, batch)
    together = model.dream(batch, horizon=9)
    first = together.reset(seed=100)
    seen = []
    for t in range(steps):
        step = together.step(acts[t], restart=restart)
        if not restart and (step.end | step.trunc).any():
            together.reset(mask=step.end | step.trunc)
        seen.append((to_pixels(step.final_obs), step.rew, step.end, step.trunc, together.start, together.obs))
    assert len({int(s[4][0]) for s in seen}) > 1
    assert any(bool(s[2].any()) for s in seen)
    assert any(bool(s[3].any()) for s in seen)
    for i in range(batch):
        alone = model.dream(1, horizon=9)
        assert torch.equal(alone.reset(seed=100 + i)[0], first[i])
        for t in range(steps):
            step = alone.step(acts[t, i : i + 1], restart=True)
            mine = (to_pixels(step.final_obs), step.rew, step.end, step.trunc, alone.start, alone.obs)
            for a, b in zip(mine, seen[t], strict=True):
                assert torch.equal(a[0], b[i]), (i, t)


@pytest.mark.parametrize("sampler", [SamplerConfig(), SamplerConfig(2, order=2, s_churn=5.0, s_tmin=0.1, s_cond=0.01)])
def test_the_other_rows_actions_and_restarts_change_nothing(sampler):
    """At equal batch size a row is bit for bit the same, with real networks too, whatever the others do."""
    steps, kept = 12, actions(1, 12, 1)[:, 0]
    traces = []
    for other_seed, restart_others in ((2, False), (3, True)):
        acts = actions(other_seed, steps, 3)
        acts[:, 1] = kept
        dream = tiny_dream(3, horizon=5, sampler=sampler)
        dream.reset(seed=[other_seed, 77, 5 + other_seed])
        rows = []
        for t in range(steps):
            step = dream.step(acts[t])
            if restart_others and t % 3 == 1:
                dream.reset(mask=torch.tensor([True, False, True]))
            rows.append((step.obs[1], step.rew[1], step.end[1], step.trunc[1], step.start[1], step.final_obs[1]))
        traces.append(rows)
    for one, other in zip(*traces, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b)


def test_real_networks_agree_between_batch_sizes_up_to_rounding():
    acts = actions(4, 8, 8)
    dreams = [tiny_dream(8, horizon=None), tiny_dream(1, horizon=None)]
    for dream in dreams:
        dream.reset(seed=5)
    for t in range(5):
        many, one = (dream.step(acts[t, :n], restart=False) for dream, n in zip(dreams, (8, 1), strict=True))
        difference = (to_pixels(many.obs)[0].int() - to_pixels(one.obs)[0].int()).abs()
        assert int(difference.max()) <= 1
        assert float((difference > 0).float().mean()) < 0.05
        assert many.rew[0] == one.rew[0]


@pytest.mark.parametrize("end_bias", [-50.0, 0.0])
def test_the_way_without_waiting_is_the_same(end_bias):
    """On a GPU restarts are a where over all rows, and starts are burnt in before, in blocks."""
    model = StubWorldModel(end_bias=end_bias)
    waiting, flowing = model.dream(3, horizon=6), model.dream(3, horizon=6)
    flowing._waits, flowing._bank.eager, flowing._bank._block = False, True, 4
    flowing._bank._unknown = {0, 1}
    assert torch.equal(waiting.reset(seed=0), flowing.reset(seed=0))
    assert not flowing._bank.incomplete
    for act in actions(0, 20, 3):
        assert all(torch.equal(a, b) for a, b in zip(trace(waiting.step(act)), trace(flowing.step(act)), strict=True))


def test_rows_outside_the_mask_stand_still():
    dream = StubWorldModel(end_bias=-50).dream(3, horizon=4)
    dream.reset(seed=0)
    acts = actions(5, 6, 3)
    dream.step(acts[0])
    before = dream.clone_state(include_rng=True)
    mask = torch.tensor([True, False, True])
    step = dream.step(acts[1], mask=mask)
    assert dream.steps.tolist() == [2, 1, 2]
    assert not step.rew[1].any()
    assert torch.equal(dream.obs_window[1], before.obs[1])
    assert torch.equal(dream.act_window[1], before.act[1])
    after = dream.clone_state(include_rng=True)
    assert (after.rng["draw"] - before.rng["draw"]).tolist() == [1, 0, 1]
    late = dream.step(acts[2], mask=~mask)
    alone = StubWorldModel(end_bias=-50).dream(1, horizon=4)
    alone.reset(seed=1)
    alone.step(acts[0, 1:2])
    single = alone.step(acts[2, 1:2])
    assert torch.equal(late.obs[1], single.obs[0])
    assert late.rew[1] == single.rew[0]


def test_the_horizon_truncates_and_none_never_does():
    dream = StubWorldModel(end_bias=-50).dream(2, horizon=3)
    dream.reset(seed=0)
    flags = [dream.step(torch.zeros(2, dtype=torch.int64)).trunc.tolist() for _ in range(7)]
    assert flags == [[False] * 2, [False] * 2, [True] * 2] * 2 + [[False] * 2]
    dream.horizon = None
    assert not any(dream.step(torch.zeros(2, dtype=torch.int64)).trunc.any() for _ in range(9))


def test_without_a_reward_model_nothing_is_rewarded_and_nothing_ends():
    dream = Dream(StubDenoiser(), None, make_starts(), 2, horizon=4)
    dream.reset(seed=0)
    for t in range(6):
        step = dream.step(actions(t, 1, 2)[0])
        assert step.rew.tolist() == [0, 0]
        assert not step.end.any()
        assert bool(step.trunc.all()) == (t == 3)
    dream.restore_state(dream.clone_state())


def test_final_obs_is_the_true_next_frame_and_obs_the_new_start():
    model = StubWorldModel(end_bias=-50)
    dream, frames = model.dream(2, horizon=2), to_frames(torch.from_numpy(model.starts.obs))
    dream.reset(seed=3)
    dream.step(torch.tensor([1, 2]))
    last = dream.clone_state(include_rng=True)
    step = dream.step(torch.tensor([0, 3]))
    assert torch.equal(step.obs, frames[step.start, -1])
    assert torch.equal(dream.obs_window, frames[step.start])
    assert dream.steps.tolist() == [0, 0]
    dream.restore_state(last)
    step_on = dream.step(torch.tensor([0, 3]), restart=False)
    assert torch.equal(step_on.final_obs, step.final_obs)
    assert torch.equal(step_on.obs, step.final_obs)
    assert torch.equal(step.final_start, last.start)


def test_the_trajectory_leads_from_noise_to_the_frame():
    for quality, n in (("fast", 1), ("paper", 3), ("fine", 5)):
        dream = tiny_dream(2, sampler=QUALITIES[quality], horizon=None)
        dream.reset(seed=0)
        expected = dream.clone_state(include_rng=True)
        step = dream.step(torch.tensor([0, 1]))
        assert len(step.trajectory) == n + 1
        rng = RowRandom(2, "cpu")
        rng.load_state_dict(expected.rng)
        assert torch.equal(step.trajectory[0], rng.normal((3, 16, 16), NOISE))
        assert torch.equal(step.trajectory[-1], step.final_obs)


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


def test_steps_out_of_order_and_bad_arguments():
    model = StubWorldModel()
    dream = model.dream(2)
    for call in (lambda: dream.step(torch.zeros(2)), dream.clone_state, lambda: dream.obs):
        with pytest.raises(RuntimeError, match="call reset first"):
            call()
    with pytest.raises(RuntimeError, match="all rows"):
        dream.reset(mask=torch.tensor([True, False]))
    with pytest.raises(ValueError, match="at least 1"):
        model.dream(0)
    with pytest.raises(ValueError, match="precision"):
        Dream(model.denoiser, None, model.starts, 1, precision="int8")


def test_bfloat16_runs_and_its_state_stays_float32():
    dream = tiny_dream(2, precision="bfloat16")
    dream.reset(seed=0)
    step = dream.step(torch.tensor([0, 1]))
    assert step.obs.dtype == torch.float32
    exact = levels(step.obs).float() / 255 * 2 - 1
    torch.testing.assert_close(step.obs, exact, atol=1e-6, rtol=0)
    assert all(memory.dtype == torch.float32 for memory in dream.clone_state().memory)


def test_multi_hot_actions_and_a_window_of_one_frame():
    torch.manual_seed(0)
    inner = InnerModelConfig(
        num_steps_conditioning=1, num_actions=5, channels=[8], depths=[1], attn_depths=[0], cond_channels=8
    )
    starts = make_starts(3, t=1)
    starts = type(starts)(starts.obs, np.zeros((3, 0, 5), dtype=np.int64), starts.first)
    dream = Dream(Denoiser(DenoiserConfig(inner)), None, starts, 2)
    assert dream.multi_hot
    dream.reset(seed=0)
    act = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    assert dream.step(act).obs.shape == (2, 3, 8, 8)


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


@settings(max_examples=20)
@given(st.data())
def test_any_history_of_masks_keeps_rows_independent(data):
    """Rows stepped and reset in any pattern are where singles with the same own events are."""
    batch = data.draw(st.integers(1, 4))
    model = StubWorldModel()
    together, singles = model.dream(batch, horizon=4), [model.dream(1, horizon=4) for _ in range(batch)]
    together.reset(seed=20)
    for i, single in enumerate(singles):
        single.reset(seed=20 + i)
    for _ in range(data.draw(st.integers(1, 12))):
        rows = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch, max_size=batch)))
        if data.draw(st.booleans()):
            acts = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=batch, max_size=batch)))
            step = together.step(acts, mask=rows)
            for i in rows.nonzero().flatten().tolist():
                alone = singles[i].step(acts[i : i + 1])
                for name in ("obs", "rew", "end", "trunc", "final_obs", "start"):
                    assert torch.equal(getattr(step, name)[i], getattr(alone, name)[0])
        else:
            together.reset(mask=rows)
            for i in rows.nonzero().flatten().tolist():
                singles[i].reset()
        for i, single in enumerate(singles):
            assert torch.equal(together.obs_window[i], single.obs_window[0])
            assert together.steps[i] == single.steps[0]


@pytest.mark.gpu
def test_a_gpu_dreams_the_same_up_to_rounding_without_waiting():
    denoiser, reward_end = tiny_networks()
    starts, acts = make_starts(5, size=16), actions(3, 10, 4)
    here = Dream(denoiser, reward_end, starts, 4, horizon=4)
    here.reset(seed=1)
    expected = [here.step(act) for act in acts]
    there = Dream(denoiser.cuda(), reward_end.cuda(), starts, 4, horizon=4, device="cuda")
    there.reset(seed=1)
    acts = acts.cuda()
    there.step(acts[0])
    torch.cuda.synchronize()
    there.reset(seed=1)
    torch.cuda.set_sync_debug_mode("error")  # raises where the host would wait
    try:
        steps = [there.step(act) for act in acts]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (to_pixels(steps[0].obs).cpu().int() - to_pixels(expected[0].obs).int()).abs()
    assert int(difference.max()) <= 1
    assert [s.trunc.tolist() for s in steps[:4]] == [s.trunc.tolist() for s in expected[:4]]
