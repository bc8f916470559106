"""Group norms of a GPU: where they are called, on a CPU with a stand-in; and the kernel, on a GPU."""

import pytest
import torch
import torch.nn.functional as F
from stubs import tiny_networks

from diamond_gym.networks import blocks, folding
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.blocks import GROUP_NORM_EPS, fused_norm
from diamond_gym.networks.inference import FoldedDenoiser, FoldedRewardEnd
from diamond_gym.sampler import QUALITIES, sample


def by_definition(x, groups, scale, shift, eps, silu):
    """What the kernel computes, for scales and shifts (B, C) or (C,)."""
    b, c, h, w = x.shape
    grouped = x.double().reshape(b, groups, -1)
    deviation = grouped - grouped.mean(-1, keepdim=True)
    normed = (deviation / (deviation.square().mean(-1, keepdim=True) + eps).sqrt()).reshape(b, c, h, w)
    scale, shift = (part.double().expand(b, c)[:, :, None, None] for part in (scale, shift))
    y = normed * scale + shift
    return (F.silu(y) if silu else y).to(x.dtype)


def outputs():
    """What all networks make of the same inputs."""
    denoiser, reward_end = tiny_networks()
    torch.manual_seed(1)
    agent = ActorCritic(ActorCriticConfig(lstm_dim=8, img_size=16, channels=[8, 8], down=[1, 1], num_actions=4))
    for network in (denoiser, reward_end, agent):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    obs, noise = torch.randn(3, 4, 3, 16, 16).clamp(-1, 1), torch.randn(3, 3, 16, 16)
    act = torch.randint(4, (3, 4))
    results = []
    with torch.no_grad():
        for frames, outcome in ((denoiser, reward_end), (FoldedDenoiser(denoiser), FoldedRewardEnd(reward_end))):
            frame = sample(frames.condition, obs, act, noise, QUALITIES["paper"])[0]
            results += [frame, *outcome(obs[:, -1:], act[:, -1:], frame[:, None])[:2]]
        logits, value, _ = agent(obs[:, 0], agent.initial_state(3))
    return [*results, logits, value]


def test_wherever_it_is_called_it_takes_the_place_of_torchs_norm(monkeypatch):
    plain, calls = outputs(), []

    def norm(x, groups, scale, shift, eps, silu):
        calls.append(silu)
        return by_definition(x, groups, scale, shift, eps, silu)

    for module in (blocks, folding):
        monkeypatch.setattr(module, "fused_norm", lambda x: norm)
    for ours, theirs in zip(outputs(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=1e-4)  # frames are on 8-bit levels
    assert {True, False} <= set(calls)


def test_a_cpu_has_torchs_norm():
    assert fused_norm(torch.zeros(1, 8, 4, 4)) is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(
    "size", [(2, 32, 1, 8, 8), (1, 64, 2, 5, 7), (3, 48, 1, 32, 32), (2, 96, 3, 6, 6), (2, 3, 1, 5, 5)]
)
@pytest.mark.parametrize("of_a_row", [True, False])
def test_the_kernel_and_its_gradient(dtype, silu, size, of_a_row):
    b, c, groups, h, w = size
    torch.manual_seed(0)
    x = torch.randn(b, c, h, w, device="cuda").to(dtype, memory_format=torch.channels_last).requires_grad_()
    scales = torch.randn(b, 2 * c + 3, device="cuda") if of_a_row else torch.randn(2 * c, device="cuda")
    scale, shift = (part.requires_grad_() for part in scales[..., : 2 * c].chunk(2, -1))
    norm = fused_norm(x)
    assert norm is not None
    results, grad = [], torch.randn_like(x)
    for function in (norm, by_definition):
        y = function(x, groups, scale, shift, GROUP_NORM_EPS, silu=silu)
        results.append((y, *torch.autograd.grad(y, (x, scale, shift), grad)))
    for ours, theirs in zip(*results, strict=True):
        error = (ours.double() - theirs.double()).norm() / theirs.double().norm()
        assert error < (1e-4 if dtype == torch.float32 else 2e-2)
