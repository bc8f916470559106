"""Dreams of two stages, against the authors' numbers and against themselves at other batch sizes."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from engines import LARGE, SMALL, StubEngine, engine_starts, golden_engine
from safetensors.torch import load_file
from stubs import StubWorldModel
from test_golden import CHURN, GOLDEN, assert_same_frames, assert_same_trajectory

from diamond_gym.csgo import SIZES, encode
from diamond_gym.dream import Dream
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.frames import to_frames, to_pixels
from diamond_gym.randomness import EXTRA_NOISE, UPSAMPLER, RowRandom
from diamond_gym.sampler import SamplerConfig, gamma, karras_sigmas
from diamond_gym.two_stage import FAST, TWO_STAGE_QUALITIES, TwoStageSampler, enlarge, shrink

CHURNED = SamplerConfig(2, order=2, s_churn=5.0, s_tmin=0.1, s_cond=0.01)


def actions(seed, *shape):
    return torch.from_numpy(encode(np.random.default_rng(seed).integers(0, SIZES, (*shape, len(SIZES)))))


class Scripted:
    """In the place of a dream's random numbers: known ones, by their streams."""

    def __init__(self, initial, conditioning=(), upsampler=None, churn=()):
        self.initial, self.conditioning, self.upsampler, self.churn = initial, conditioning, upsampler, churn

    def normal_and_uniform(self, shape, stream, count):
        return self.initial, torch.zeros(len(self.initial), count)

    def normal(self, shape, stream):
        if stream == UPSAMPLER:
            noise = torch.randn(len(self.initial), *shape) if self.upsampler is None else self.upsampler
        elif stream > UPSAMPLER:
            noise = self.churn[stream - UPSAMPLER - EXTRA_NOISE] if len(self.churn) else torch.zeros(1)
        else:
            noise = self.conditioning[stream - EXTRA_NOISE]
        return noise.expand(len(self.initial), *shape)

    def advance(self, mask=None):
        pass

    further = RowRandom.further


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "csgo" / "expected.safetensors")


@pytest.mark.parametrize("n", [1, 3])
def test_small_frames_are_the_authors(golden, n):
    obs, act, initial, noise = (
        golden[f"dynamics.{k}"] for k in ("prev_obs", "prev_act", "initial_noise", "conditioning_noise")
    )
    expected = golden[f"dynamics.euler{n}_cond.trajectory"][:, -1]
    dream = golden_engine().dream(2, sampler=SamplerConfig(n, s_cond=0.005), horizon=None)
    dream.reset(seed=0)
    full = dream.obs
    dream.obs_window, dream.act_window, dream._rng = obs.clone(), act.clone(), Scripted(initial, noise)
    step = dream.step(act[:, -1])
    assert_same_frames(dream.obs_window[:, -1], expected)
    assert torch.equal(dream.obs_window[:, :-1], obs[:, 1:])
    assert step.obs.shape == (2, 3, *LARGE)
    assert not torch.equal(step.obs, full)


@pytest.mark.parametrize("name", ["fast", "quality"])
def test_large_frames_are_the_authors(golden, name):
    part = {k.removeprefix("upsampler."): v for k, v in golden.items() if k.startswith("upsampler.")}
    quality = TWO_STAGE_QUALITIES[name].upsampler
    config = quality if name == "fast" else replace(quality, num_denoising_steps=4)  # as the golden one
    assert config == SamplerConfig(config.num_denoising_steps, sigma_min=1, order=2 if name == "fast" else 1, **CHURN)
    torch.testing.assert_close(torch.tensor(karras_sigmas(config)), part[f"{name}.sigmas"])
    dream = golden_engine().dream(2, sampler=TwoStageSampler(FAST.dynamics, config), horizon=None)
    dream.reset(seed=0)
    small = part["low_res"]
    dream._predict.frames = StubWorldModel().denoiser
    dream._predict.frames.denoise = lambda *_: small
    dream.full_window = part["prev_full"].clone()
    given = Scripted(torch.zeros_like(small), torch.zeros(9, 1, 1, 1, 1), part["initial_noise"], part["churn_noise"])
    dream._rng = given
    step = dream.step(actions(0, 2))
    assert_same_trajectory(step.trajectory, part[f"{name}.trajectory"])
    assert_same_frames(step.obs, part[f"{name}.trajectory"][:, -1])
    assert_same_frames(dream.full_window[:, 0], step.final_obs)


def test_the_qualities_are_the_authors():
    fast, quality = TWO_STAGE_QUALITIES["fast"], TWO_STAGE_QUALITIES["quality"]
    assert FAST == fast == TwoStageSampler()
    steps = [s.num_denoising_steps for s in (fast.dynamics, fast.upsampler, quality.dynamics, quality.upsampler)]
    assert steps == [1, 1, 3, 10]
    assert {s.s_cond for s in (fast.dynamics, quality.dynamics)} == {0.005}
    assert all(any(gamma(s, sigma) for sigma in karras_sigmas(s)[:-1]) for s in (fast.upsampler, quality.upsampler))
    assert not any(any(gamma(s, sigma) for sigma in karras_sigmas(s)[:-1]) for s in (fast.dynamics, quality.dynamics))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("restart", [True, False])
def test_rows_dream_what_singles_dream_whatever_the_batch(batch, restart):
    steps, model, sampler = 12, StubEngine(), TwoStageSampler(CHURNED, CHURNED)
    acts = actions(0, steps, batch)
    together = model.dream(batch, sampler=sampler, horizon=5)
    first, seen = together.reset(seed=100), []
    for t in range(steps):
        step = together.step(acts[t], restart=restart)
        if not restart and step.trunc.any():
            together.reset(mask=step.trunc)
        seen.append(
            (to_pixels(step.final_obs), step.trunc, together.start.clone(), together.obs, together.obs_window.clone())
        )
        assert not step.rew.any()
        assert not step.end.any()
    for i in range(batch):
        alone = model.dream(1, sampler=sampler, horizon=5)
        assert torch.equal(alone.reset(seed=100 + i)[0], first[i])
        for t in range(steps):
            step = alone.step(acts[t, i : i + 1])
            mine = (to_pixels(step.final_obs), step.trunc, alone.start, alone.obs, alone.obs_window)
            for a, b in zip(mine, seen[t], strict=True):
                assert torch.equal(a[0], b[i]), (i, t)


def test_small_frames_are_those_of_the_first_stage_alone():
    model = StubEngine()
    both, first = model.dream(2, horizon=4), Dream(model.denoiser, None, model.starts, 2, FAST.dynamics, 4)
    both.reset(seed=3), first.reset(seed=3)
    for t, act in enumerate(actions(1, 9, 2)):
        large, small = both.step(act), first.step(act)
        assert torch.equal(both.obs_window, first.obs_window)
        assert torch.equal(both.obs_window[:, -1], small.obs)
        assert torch.equal(large.start, small.start)
        assert len(large.trajectory) == 2
        assert torch.equal(large.trajectory[-1], large.final_obs)
        assert large.trunc.all() == (t % 4 == 3)


def test_a_step_is_both_stages_with_their_own_noise():
    """The large frame follows from the large one before and the small one now; after a restart from the start's."""
    model, sampler = StubEngine(), TwoStageSampler(SamplerConfig(1), SamplerConfig(1))
    dream = model.dream(2, sampler=sampler, horizon=3)
    dream.reset(seed=5)
    for act in actions(2, 7, 2):
        before, noise = dream.full_window.clone(), dream._rng.normal((3, *LARGE), UPSAMPLER)
        step = dream.step(act, restart=False)
        obs = torch.cat((before, enlarge(dream.obs_window[:, -1], 5)[:, None]), dim=1)
        assert torch.equal(to_pixels(step.obs), to_pixels(model.upsampler.denoise(noise, None, obs, None)))
        if step.trunc.all():
            dream.reset(mask=step.trunc)
            frames = to_frames(torch.from_numpy(model.starts.full_res))[dream.start, -1]
            assert torch.equal(dream.obs, frames)


def test_rows_outside_the_mask_stand_still():
    model = StubEngine()
    dream, twin = model.dream(3, horizon=None), model.dream(3, horizon=None)
    for d in (dream, twin):
        d.reset(seed=0)
    for act, mask in zip(actions(3, 6, 3), itertools.cycle([[True, False, True], [False, True, True]]), strict=False):
        rows, before = torch.tensor(mask), (dream.obs, dream.obs_window.clone())
        dream.step(act, mask=rows)
        for old, new in zip(before, (dream.obs, dream.obs_window), strict=True):
            assert torch.equal(old[~rows], new[~rows])
            assert not torch.equal(old[rows], new[rows])
    for act in actions(3, 6, 3):
        twin.step(act)
    assert torch.equal(twin.obs[2], dream.obs[2])
    before = dream.obs
    dream.reset(seed=9, mask=torch.tensor([False, True, False]))
    assert torch.equal(dream.obs[[0, 2]], before[[0, 2]])
    assert not torch.equal(dream.obs[1], before[1])


@pytest.mark.parametrize("through", [lambda s: s, lambda s: pickle.loads(pickle.dumps(s))])
def test_clones_branch_a_dream(through):
    dream = StubEngine().dream(2, horizon=4)
    with pytest.raises(RuntimeError, match="call reset"):
        dream.clone_state()
    dream.reset(seed=0)
    acts = actions(4, 8, 2)
    dream.step(acts[0])
    state = through(dream.clone_state(include_rng=True))
    once = [dream.step(act).obs for act in acts]
    dream.restore_state(state)
    again = [dream.step(act).obs for act in acts]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    other = StubEngine().dream(2, horizon=4)  # one that has not begun
    other.restore_state(state)
    assert torch.equal(other.step(acts[0]).obs, once[0])
    first = Dream(dream.denoiser, None, engine_starts(), 2, model="engine")
    first.reset(seed=0)
    with pytest.raises(ValueError, match="full-size frames"):
        dream.restore_state(first.clone_state())


def test_dreams_on_from_frames_at_full_size():
    dream = StubEngine().dream(2, horizon=None)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, *LARGE, 3), dtype=np.uint8))
    act = actions(5, 3)
    assert torch.equal(dream.reset(seed=1, obs=frames, act=act), to_frames(frames[-1]).expand(2, -1, -1, -1))
    assert torch.equal(to_pixels(dream.obs_window), shrink(frames, SMALL).expand(2, -1, -1, -1, -1))
    assert torch.equal(dream.act_window[:, :-1], act.expand(2, -1, -1))
    both = torch.stack((frames, frames.flip(0)))
    dream.reset(obs=both, act=torch.stack((act, act)), mask=torch.tensor([False, True]))
    assert torch.equal(to_pixels(dream.obs), torch.stack((frames[-1], frames[0])))
    assert dream.start.tolist() == [-1, -1]
    dream.reset(start=2)
    assert torch.equal(dream.obs[0], to_frames(torch.from_numpy(engine_starts().full_res))[2, -1])
    for wrong in (frames[1:], frames.float(), shrink(frames, SMALL)):
        with pytest.raises(ValueError, match=r"obs must be uint8 frames of shape \(4, 30, 40, 3\)"):
            dream.reset(obs=wrong, act=act)
    with pytest.raises(ValueError, match="actions between the frames"):
        dream.reset(obs=frames, act=act[1:])
    dream.reset(start=1)
    assert torch.equal(dream.obs[0], to_frames(torch.from_numpy(engine_starts().full_res))[1, -1])


def test_shrinking_a_smooth_picture_and_enlarging_it_again():
    ramp = np.linspace(0, 255, LARGE[1]).astype(np.uint8)
    picture = torch.from_numpy(np.broadcast_to(ramp[None, :, None], (*LARGE, 3)).copy())
    again = enlarge(to_frames(shrink(picture, SMALL))[None], 5)[0]
    assert (again - to_frames(picture)).abs()[:, 5:-5, 5:-5].max() < 0.05


def test_what_cannot_be_a_dream_of_two_stages():
    model = golden_engine()
    with pytest.raises(DiamondGymError, match="have none"):
        model.starts = replace(engine_starts(), full_res=None)
        model.dream(1)
    with pytest.raises(DiamondGymError, match="not a multiple"):
        model.starts = engine_starts(large=(30, 41))
        model.dream(1)
    model.upsampler = None
    with pytest.raises(BadArgument, match="one stage"):
        model.dream(1, sampler=TwoStageSampler())


def test_starts_of_one_frame_with_recorded_actions():
    """A window of one frame has no actions between frames, and still those that followed."""
    starts = engine_starts(t=1)
    assert starts.act.shape == (5, 0, 51)
    for wrong in (starts.next_act[1:], starts.next_act[..., 1:], starts.next_act[0], starts.next_act.astype(int)):
        with pytest.raises(DiamondGymError, match="following actions"):
            replace(starts, next_act=wrong)


def test_bfloat16_is_for_the_networks_alone():
    model = golden_engine()
    model.precision = "bfloat16"
    dream = model.dream(2)
    dream.reset(seed=0)
    step = dream.step(actions(0, 2))
    assert step.obs.dtype == dream.obs_window.dtype == torch.float32
    torch.testing.assert_close(step.obs, to_frames(to_pixels(step.obs)), atol=1e-5, rtol=0)
