"""A dream's steps are DIAMOND's method: frames, rewards, ends, horizons, trajectories."""

import numpy as np
import pytest
import torch
from stubs import StubDenoiser, StubWorldModel, actions, levels, make_starts, tiny_dream, tiny_networks
from torch import nn

from diamond_gym.dream import Dream
from diamond_gym.errors import BadArgument
from diamond_gym.frames import to_frames, to_pixels
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.randomness import NOISE, RowRandom, draw_category
from diamond_gym.sampler import QUALITIES, SamplerConfig, sample


def test_pixels_and_frames_are_inverse():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    frames = to_frames(pixels)
    assert frames.shape == (1, 1, 16, 16)
    assert (float(frames.min()), float(frames.max())) == (-1, 1)
    assert torch.equal(to_pixels(frames), pixels)
    assert torch.equal(to_pixels(frames + 1e-5), pixels)
    assert to_pixels(torch.tensor([-9.0, 9.0]).view(1, 1, 2)).flatten().tolist() == [0, 255]


def test_draw_category_inverts_the_distribution():
    probs = torch.tensor([0.5, 0.2, 0.3]).expand(6, 3)
    drawn = draw_category(probs, torch.tensor([0.0, 0.49, 0.51, 0.69, 0.71, 1 - 2**-24]))
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2]
    assert draw_category(torch.tensor([[1.0, 0.0]]), torch.tensor([1 - 2**-24])).tolist() == [0]


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
            next_obs, _ = sample(denoiser.condition, obs, act, noise, SamplerConfig())
            logits_rew, logits_end, state = reward_end(obs[:, -1:], act[:, -1:], next_obs[:, None], state)
            uniform = uniform[0]
            rng.advance()
            step = dream.step(torch.tensor([action]), restart=False)
            assert torch.equal(step.obs, next_obs)
            cdf_rew, cdf_end = (logits[0, 0].softmax(0).cumsum(0) for logits in (logits_rew, logits_end))
            torch.testing.assert_close(step.rew_prob[0], logits_rew[0, 0].softmax(0))
            torch.testing.assert_close(step.end_prob, logits_end[0, 0].softmax(0)[1:])
            rew = -1.0 if uniform[0] < cdf_rew[0] else 0.0 if uniform[0] < cdf_rew[1] else 1.0
            assert step.rew.tolist() == [rew]
            assert bool(step.end) == bool(uniform[1] >= cdf_end[0])
            obs, act = torch.cat((obs[:, 1:], next_obs[:, None]), dim=1), act[:, 1:]
            assert torch.equal(dream.obs_window, obs)
            assert torch.equal(dream.act_window[:, :-1], act)


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
        assert step.rew_prob.tolist() == [[0, 1, 0]] * 2 and step.end_prob.tolist() == [0, 0]
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
    with pytest.raises(BadArgument, match="precision"):
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


class Vit(nn.Module):
    """A transformer over patches of the noisy and the past frames: no U-Net, and nothing that could be folded."""

    def __init__(self, images: int, patch: int = 4, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3 * images, width, patch, stride=patch)
        self.act_emb, self.noise_emb = nn.Embedding(4, width), nn.Linear(1, width)
        self.block = nn.TransformerEncoderLayer(width, 2, width, dropout=0.0, batch_first=True)
        self.out = nn.ConvTranspose2d(width, 3, patch, stride=patch)

    def forward(self, noisy, c_noise, obs, act, c_noise_cond=None):
        x = self.patches(torch.cat((obs, noisy), dim=1))
        cond = self.act_emb(act).sum(1) + self.noise_emb(c_noise[:, None])
        tokens = self.block(x.flatten(2).transpose(1, 2) + cond[:, None])
        return self.out(tokens.transpose(1, 2).reshape(x.shape)).float()


def test_any_network_can_be_dreamed_with():
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(), Vit(images=5)).eval()
    for precision in ("float32", "bfloat16"):
        dream = Dream(denoiser, tiny_networks()[1], make_starts(5, size=16), 2, precision=precision, choice=0)
        dream.reset(seed=0)
        window, state = dream.obs_window.clone(), dream.clone_state(include_rng=True)
        step = dream.step(torch.tensor([1, 2]))
        rng = RowRandom(2, "cpu", 0)
        rng.load_state_dict(state.rng)
        act = torch.cat((state.act[:, :-1], torch.tensor([[1], [2]])), dim=1)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            expected, _ = sample(denoiser.condition, window, act, rng.normal((3, 16, 16), NOISE), SamplerConfig())
        assert torch.equal(step.final_obs, expected)
        dream.refresh()


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
