"""A dream's rows are independent: each dreams what it would alone, whatever the others do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import StubWorldModel, actions, tiny_dream, trace

from diamond_gym.frames import to_pixels
from diamond_gym.sampler import SamplerConfig


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
        seen.append((to_pixels(step.final_obs), step.rew, step.end, step.trunc, together.start.clone(), together.obs))
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
    flowing._waits, flowing.bank.eager, flowing.bank._block = False, True, 4
    flowing.bank._unknown = {0, 1}
    assert torch.equal(waiting.reset(seed=0), flowing.reset(seed=0))
    assert not flowing.bank._unknown
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
