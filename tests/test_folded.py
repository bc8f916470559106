"""Folded networks compute what their originals do, with their weights of the last refresh."""

from dataclasses import replace

import pytest
import torch
from engines import golden_engine
from rounding import assert_close, assert_on_levels_of, without_rounding
from stubs import ACTIONS, tiny_networks
from torch import nn

from diamond_gym.device import compile_network
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.inference import FoldedDenoiser, FoldedRewardEnd
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.sampler import QUALITIES, SamplerConfig, sample

SHAPE = {"cond_channels": 16, "depths": [1, 2], "channels": [32, 64], "attn_depths": [0, 1]}
CHURN = SamplerConfig(s_churn=2.0, s_tmax=4.0, s_cond=0.01)
CONFIGS = {
    "paper's kind": DenoiserConfig(InnerModelConfig(**SHAPE, num_actions=ACTIONS)),
    "nano's kind": DenoiserConfig(InnerModelConfig(**SHAPE, num_actions=ACTIONS, patch_size=2), residual=True),
    "given its condition's noise": DenoiserConfig(InnerModelConfig(**SHAPE, num_actions=ACTIONS, noise_cond=True)),
    "upsampler's kind": DenoiserConfig(
        InnerModelConfig(**SHAPE, num_steps_conditioning=1, num_extra_images=1), upsampling_factor=2
    ),
}


def filled(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return module.eval()


def inputs(config: DenoiserConfig, batch: int, size: tuple[int, int] = (10, 14)):
    inner = config.inner_model
    torch.manual_seed(1)
    obs = torch.rand(batch, inner.num_steps_conditioning + inner.num_extra_images, 3, *size) * 2 - 1
    act = None if inner.num_actions is None else torch.randint(ACTIONS, (batch, inner.num_steps_conditioning))
    return obs, act, torch.randn(batch, 3, *size)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
@pytest.mark.parametrize(("batch", "size"), [(1, (10, 14)), (3, (10, 14)), (2, (7, 9))])
def test_denoising_is_that_of_the_original(config, batch, size, monkeypatch):
    torch.manual_seed(0)
    denoiser = filled(Denoiser(config))
    obs, act, noisy = inputs(config, batch, size)
    sigma_cond = 0.01 if config.inner_model.noise_cond else None
    with torch.no_grad():
        ours = FoldedDenoiser(denoiser).condition(obs, act, sigma_cond, (5.0, 0.3))
        theirs = denoiser.condition(obs, act, sigma_cond)
        for sigma in (5.0, 0.3, 0.002):  # the last is none of those that it was prepared for
            frame = ours(noisy, sigma)
            with monkeypatch.context() as patch:
                without_rounding(patch)
                exact = theirs(noisy, sigma)
            assert_on_levels_of(frame, exact, nearest=config.residual)


def test_small_changes_do_not_count_there_either(monkeypatch):
    torch.manual_seed(0)
    denoiser = filled(Denoiser(replace(CONFIGS["nano's kind"], change_threshold=30)))
    obs, act, noisy = inputs(denoiser.config, 2)
    without_rounding(monkeypatch)
    with torch.no_grad():
        ours, theirs = (d.condition(obs, act)(noisy, 0.7) for d in (FoldedDenoiser(denoiser), denoiser))
    still = (theirs == obs[:, -1]).all(1)
    assert 0.02 < still.float().mean() < 0.98
    assert ((ours == obs[:, -1]).all(1) != still).float().mean() < 0.01, "the edge falls either way"
    assert_close(ours[~still[:, None].expand_as(ours)], theirs[~still[:, None].expand_as(ours)], 1e-2)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_output_before_quantisation(config):
    torch.manual_seed(0)
    denoiser = filled(Denoiser(config))
    obs, act, noisy = inputs(config, 2)
    sigma = torch.tensor([0.7])
    cs = denoiser.precondition(sigma)
    with torch.no_grad():
        inner = FoldedDenoiser(denoiser).inner
        modulation = inner.modulations(inner.embed(cs.c_noise, None), act)[0].expand(2, -1)
        ours = inner(noisy * cs.c_in, inner.past(obs.flatten(1, 2) / 0.5), modulation)
        theirs = denoiser.model_output(noisy, denoiser.precondition(sigma.expand(2)), obs, act)
    assert theirs.abs().max() > 0.1
    assert_close(ours, theirs)


@pytest.mark.parametrize("sampler", [*QUALITIES.values(), CHURN])
def test_samples_in_blocks_of_rows(sampler, monkeypatch):
    config = CONFIGS["given its condition's noise"]
    without_rounding(monkeypatch)
    torch.manual_seed(0)
    denoiser = filled(Denoiser(config))
    obs, act, noise = inputs(config, 5)
    extra = [torch.randn(5, 12, 10, 14)[:, :k] for _ in range(20) for k in (12, 3)]

    def source():
        left = list(extra)

        def draw(shape):
            while left[0].shape[1] != shape[1]:
                left.pop(0)
            return left.pop(0).reshape(shape)

        return draw

    with torch.no_grad():
        theirs, path = sample(denoiser.condition, obs, act, noise, sampler, source())
        folded = FoldedDenoiser(denoiser)
        monkeypatch.setattr("diamond_gym.networks.inference.CACHE_BYTES", 2 * 4 * 32 * 10 * 14)
        assert folded.rows_at_once(obs) == 2
        ours, our_path = sample(folded.condition, obs, act, noise, sampler, source())
    assert_close(ours, theirs, 1e-4)
    for image, expected in zip(our_path, path, strict=True):
        assert_close(image, expected, 1e-4)


def test_blocks_are_as_equal_as_can_be():
    folded = FoldedDenoiser(Denoiser(CONFIGS["nano's kind"]), torch.bfloat16)
    sizes = [folded.rows_at_once(torch.empty(batch, 4, 3, 64, 64)) for batch in (1, 32, 33, 128)]
    assert sizes == [1, 32, 17, 32]


@pytest.mark.parametrize("difference", [False, True])
def test_reward_and_end_are_those_of_the_original(difference):
    torch.manual_seed(0)
    config = RewardEndConfig(lstm_dim=16, img_size=16, num_actions=ACTIONS, difference=difference, **SHAPE)
    model = filled(RewardEnd(config))
    obs, act = torch.rand(3, 4, 3, 16, 16) * 2 - 1, torch.randint(ACTIONS, (3, 3))
    arguments = obs[:, :-1], act, obs[:, 1:]
    with torch.no_grad():
        folded = FoldedRewardEnd(model)
        for state in (None, (torch.randn(1, 3, 16), torch.randn(1, 3, 16))):
            (rew, end, memory), (rew2, end2, memory2) = folded(*arguments, state), model(*arguments, state)
            for ours, theirs in zip((rew, end, *memory), (rew2, end2, *memory2), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_refresh_takes_the_weights_as_they_are_now(dtype):
    denoiser, reward_end = tiny_networks()
    obs, act, noisy = inputs(denoiser.config, 2, (16, 16))
    frames, outcome = FoldedDenoiser(denoiser, dtype), FoldedRewardEnd(reward_end, dtype)

    def results():
        with torch.no_grad():
            return frames.condition(obs, act)(noisy, 0.3), outcome(obs[:, :-1], act[:, :-1], obs[:, 1:])[0]

    before, inner = results(), frames.inner
    assert results()[0].equal(before[0]) and frames.inner is inner
    with torch.no_grad():
        denoiser.inner_model.conv_out.weight.mul_(3)
        reward_end.head[0].weight.mul_(3)
    frames.refresh()
    outcome.refresh()
    after = results()
    assert not after[0].equal(before[0]) and not after[1].equal(before[1])
    fresh = FoldedDenoiser(denoiser, dtype).condition(obs, act)(noisy, 0.3)
    assert after[0].equal(fresh)


def test_the_original_is_left_as_it_was():
    denoiser, reward_end = tiny_networks()
    before = {k: v.clone() for k, v in denoiser.state_dict().items()}
    dtypes = {p.requires_grad for p in denoiser.parameters()}
    assert FoldedDenoiser(denoiser, torch.bfloat16).inner.enter_past.weight.dtype == torch.bfloat16
    assert FoldedRewardEnd(reward_end, torch.bfloat16).networks.lstm.weight_ih_l0.dtype == torch.bfloat16
    assert {p.requires_grad for p in denoiser.parameters()} == dtypes == {True}
    assert all(v.dtype == torch.float32 and v.equal(before[k]) for k, v in denoiser.state_dict().items())
    assert all(p.requires_grad for p in reward_end.parameters())


def test_a_large_network_is_not_held_twice():
    denoiser, _ = tiny_networks()
    inner = FoldedDenoiser(denoiser.to(memory_format=torch.channels_last)).inner
    assert inner.leave.conv.weight.data_ptr() == denoiser.inner_model.conv_out.weight.data_ptr()


def test_many_hot_actions(monkeypatch):
    without_rounding(monkeypatch)
    dynamics = golden_engine().denoiser
    obs = torch.rand(2, 4, 3, 6, 8) * 2 - 1
    act = (torch.rand(2, 4, dynamics.config.inner_model.num_actions) > 0.8).float()
    noise = torch.randn(2, 3, 6, 8)
    with torch.no_grad():
        ours, theirs = (
            sample(d.condition, obs, act, noise, QUALITIES["paper"])[0] for d in (FoldedDenoiser(dynamics), dynamics)
        )
    assert_close(ours, theirs, 1e-4)


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits():
    denoiser, reward_end = (network.cuda() for network in tiny_networks())
    obs, act, noise = (x.cuda() for x in inputs(denoiser.config, 4, (16, 16)))
    frames, outcome = FoldedDenoiser(denoiser), FoldedRewardEnd(reward_end)

    def frame():
        x = sample(frames.condition, obs, act, noise, QUALITIES["paper"], lambda _: noise)[0]
        return x, outcome(obs[:, -1:], act[:, -1:], x[:, None])[0]

    with torch.no_grad():
        first = frame()
        torch.cuda.set_sync_debug_mode("error")  # raises where the host would wait
        try:
            second = frame()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert second[0].equal(first[0])
    assert frames.rows_at_once(obs) == 4


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_on_a_gpu_are_those_of_the_cpu(batch, dtype):
    denoiser, _ = tiny_networks()
    obs, act, noise = inputs(denoiser.config, batch, (16, 16))
    with torch.no_grad():
        here = sample(denoiser.condition, obs, act, noise, QUALITIES["paper"])[0]
        folded = FoldedDenoiser(denoiser.cuda(), dtype)
        there = sample(folded.condition, obs.cuda(), act.cuda(), noise.cuda(), QUALITIES["paper"])[0]
    limit = 1.01 if dtype == torch.float32 else 8  # levels of 255
    assert ((there.cpu() - here).abs() * 127.5 > limit).float().mean() <= 1e-2


@pytest.mark.gpu
def test_on_a_gpu_new_weights_are_written_where_a_graph_reads_them():
    denoiser, _ = tiny_networks()
    denoiser, dtype = denoiser.cuda(), torch.bfloat16
    obs, act, noise = (x.cuda() for x in inputs(denoiser.config, 4, (16, 16)))
    folded = FoldedDenoiser(denoiser, dtype)
    with torch.no_grad():
        sample(folded.condition, obs, act, noise, QUALITIES["paper"])
        levels = [part.data_ptr() for level in folded._levels.values() for step in level for part in step]
        places = [p.data_ptr() for p in folded.inner.parameters()]
        for parameter in denoiser.parameters():
            parameter.mul_(1.5)
        folded.refresh()
        ours, theirs = (
            sample(network.condition, obs, act, noise, QUALITIES["paper"])[0]
            for network in (folded, FoldedDenoiser(denoiser, dtype))
        )
    assert ours.equal(theirs)
    assert [p.data_ptr() for p in folded.inner.parameters()] == places
    assert [part.data_ptr() for level in folded._levels.values() for step in level for part in step] == levels


@pytest.mark.gpu
def test_compiled_on_a_gpu():
    denoiser = tiny_networks()[0].cuda()
    obs, act, noise = (x.cuda() for x in inputs(denoiser.config, 4, (16, 16)))
    with torch.no_grad():
        plain = sample(denoiser.condition, obs, act, noise, QUALITIES["paper"])[0]
        compile_network(denoiser.inner_model)
        folded = FoldedDenoiser(denoiser)
        for _ in range(3):  # the graph is recorded in the second call, and replayed from the third
            compiled = sample(folded.condition, obs, act, noise, QUALITIES["paper"])[0]
    assert ((compiled - plain).abs() * 127.5 > 1.01).float().mean() <= 1e-2


@pytest.mark.slow
def test_compiled_networks_are_refreshed_without_compiling_again():
    denoiser, _ = tiny_networks()
    obs, act, noise = inputs(denoiser.config, 2, (16, 16))
    compile_network(denoiser.inner_model)
    folded = FoldedDenoiser(denoiser)
    with torch.no_grad():
        sample(folded.condition, obs, act, noise, QUALITIES["fast"])
        inner = folded.inner
        denoiser.inner_model.conv_out.weight.mul_(3)
        folded.refresh()
        compiled = sample(folded.condition, obs, act, noise, QUALITIES["fast"])[0]
        assert folded.inner is inner
        theirs = sample(tripled().condition, obs, act, noise, QUALITIES["fast"])[0]
    assert ((compiled - theirs).abs() * 127.5 > 1.01).float().mean() <= 1e-2


def tripled():
    denoiser, _ = tiny_networks()
    with torch.no_grad():
        denoiser.inner_model.conv_out.weight.mul_(3)
    return denoiser
