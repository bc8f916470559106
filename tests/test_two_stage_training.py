"""The training of two stages: the authors' losses and sizes, steps, resumption, and what is dreamed with."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from engines import LARGE, SMALL, engine_starts, golden_engine
from rounding import assert_close
from safetensors.torch import load_file
from test_golden import CSGO_INNER, CSGO_UPSAMPLER_INNER, GOLDEN, load_part, recorded_noise
from torch import nn
from two_stages import CONFIG, SIDE, UPSAMPLER, store

from diamond_gym import cli
from diamond_gym.cli.train_wm import TrainWm
from diamond_gym.csgo import SIZES, encode
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.errors import BadArgument
from diamond_gym.frames import to_frames, to_pixels
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.networks.preconditioning import SigmaDistribution, TrainingNoise
from diamond_gym.trainers import fidelity
from diamond_gym.trainers.loop import ALONE
from diamond_gym.trainers.measuring import closed_loop
from diamond_gym.trainers.optim import OptimizerConfig, update
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts
from diamond_gym.trainers.start_states import starts_for
from diamond_gym.trainers.two_stage import SmallFrames, TwoStageTrainer, upsampler_loss
from diamond_gym.trainers.world_model_config import settled
from diamond_gym.two_stage import FAST, TwoStageSampler, enlarge, enlarge_planes, shrink, shrink_planes
from diamond_gym.world_model import WorldModel


@pytest.fixture
def walks(tmp_path: Path) -> EpisodeStore:
    return store(tmp_path / "walks")


def preset(name: str) -> TrainWm:
    return cli._parse(TrainWm, "train-wm", ["--data", "x", "--preset", name])


def test_the_preset_csgo_is_the_authors() -> None:
    fit = preset("csgo").fit
    config = fit.upsampler.for_frames(3)
    dynamics = replace(fit.denoiser, inner_model=replace(fit.denoiser.inner_model, num_actions=51))
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in Denoiser(c).parameters()) for c in (dynamics, config.denoiser)]
    assert [round(n / 1e6) for n in sizes] == [330, 51]
    assert fit.upsampler.small((150, 280)) == (30, 56)
    assert fit.sigma == config.sigma == SigmaDistribution(-1.2, 1.2, 2e-3, 20)
    assert (fit.num_autoregressive_steps, config.num_autoregressive_steps) == (4, 1)
    assert fit.denoiser.noise_previous_obs and not config.denoiser.noise_previous_obs
    assert fit.denoiser.inner_model.noise_cond and config.denoiser.inner_model.noise_cond
    assert fit.denoiser.sigma_offset_noise == config.denoiser.sigma_offset_noise == 0.1
    assert preset("csgo").sampler == FAST.dynamics
    # The golden networks, which are the authors' in small, differ from the preset's in nothing but sizes.
    for made, golden in ((fit.denoiser.inner_model, CSGO_INNER), (config.denoiser.inner_model, CSGO_UPSAMPLER_INNER)):
        for field in ("img_channels", "num_steps_conditioning", "patch_size", "num_extra_images", "noise_cond"):
            assert getattr(made, field) == getattr(golden, field), field


def test_golden_losses_of_both_stages_in_training(tmp_path: Path) -> None:
    """What a training of the preset csgo computes for the authors' batch, with their weights and their noise."""
    golden = load_file(GOLDEN / "csgo" / "expected.safetensors")
    obs, act, full = golden["loss.obs"], golden["loss.act"], golden["loss.full_res"]
    fit = preset("csgo").fit
    upsampler = replace(fit.upsampler, denoiser=replace(fit.upsampler.denoiser, inner_model=CSGO_UPSAMPLER_INNER))
    fit = replace(
        fit, upsampler=upsampler.for_frames(3), denoiser=replace(fit.denoiser, inner_model=CSGO_INNER),
        reward_end=worlds.CONFIG.reward_end,
    )  # fmt: skip
    about = About("Guns", (*full.shape[-2:], 3), 0, action_shape=(51,))
    with EpisodeStore(tmp_path, "a", about) as writer:
        writer.append(Episode(np.zeros((9, *full.shape[-2:], 3), np.uint8), np.zeros((8, 51), np.int64)))
    trainer = TwoStageTrainer(fit, EpisodeStore(tmp_path), 10)
    model, mask = trainer.world_model, torch.ones(obs.shape[:2], dtype=torch.bool)
    load_part(GOLDEN / "csgo" / "csgo.pt", "denoiser.", model.denoiser)
    load_part(GOLDEN / "csgo" / "csgo.pt", "upsampler.", model.upsampler)
    trainer.noise = recorded_noise(golden, "dynamics_loss")
    assert_close(trainer._objectives["denoiser"](obs, act, mask), golden["dynamics_loss.loss"])
    low_res = enlarge(obs.flatten(0, 1), 5).unflatten(0, obs.shape[:2])
    noise = recorded_noise(golden, "upsampler_loss")
    loss = model.upsampler.loss(full[:, :2], None, mask[:, :2], noise, low_res=low_res[:, :2])
    assert_close(loss, golden["upsampler_loss.loss"])


def test_small_frames_are_what_dreams_begin_from(walks: EpisodeStore) -> None:
    small = SmallFrames(walks.folder, (8, 8))
    assert small[0].obs.shape == (len(walks[0]) + 1, 8, 8, 3)
    expected = shrink(torch.from_numpy(walks[0].obs), (8, 8))
    assert np.array_equal(small[0].obs, expected.numpy())
    batches = [SegmentSampler(s, 4, 3, False, np.random.default_rng(1)).sample() for s in (small, walks)]
    real = batches[0].mask_padding
    assert np.array_equal(batches[0].obs[real], shrink_planes(batches[1].obs, (8, 8))[real])
    assert np.array_equal(batches[0].act, batches[1].act)


def test_the_upsampler_learns_large_frames_from_their_small_ones(walks: EpisodeStore) -> None:
    trainer = TwoStageTrainer(CONFIG, walks, 10)
    batch = trainer.upsampler_batches.sample()
    assert batch.obs.shape == (2, 3, 3, SIDE, SIDE)
    obs, mask = torch.from_numpy(batch.obs).float() / 127.5 - 1, torch.ones(2, 3, dtype=torch.bool)
    noises = [TrainingNoise.on("cpu", UPSAMPLER.sigma) for _ in range(2)]
    upsampler = trainer.world_model.upsampler
    torch.manual_seed(0)
    loss = upsampler_loss(upsampler, obs, mask, (8, 8), noises[0])
    torch.manual_seed(0)
    low_res = enlarge(to_frames(torch.from_numpy(shrink_planes(batch.obs, (8, 8))).flatten(0, 1).movedim(1, -1)), 2)
    expected = upsampler.loss(obs, None, mask, noises[1], low_res=low_res.unflatten(0, (2, 3)))
    assert_close(loss, expected)


def test_losses_of_both_fall(walks: EpisodeStore) -> None:
    trainer = TwoStageTrainer(CONFIG, walks, 10**6)
    steps = [trainer.train_step() for _ in range(80)]
    assert all(("upsampler/loss" in step) == (i % 2 == 0) for i, step in enumerate(steps))
    for name in ("denoiser/loss", "upsampler/loss"):
        losses = [float(step[name]) for step in steps if name in step]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10]), name


def test_a_resumed_training_ends_with_the_same_bits(walks: EpisodeStore) -> None:
    whole = TwoStageTrainer(CONFIG, walks, 5, seed=3)
    for _ in range(5):
        whole.train_step()
    first = TwoStageTrainer(CONFIG, walks, 5, seed=3)
    for _ in range(3):
        first.train_step()
    state = first.state_dict()
    then = TwoStageTrainer(CONFIG, walks, 5, seed=4)
    then.load_state_dict(state)
    for _ in range(2):
        then.train_step()
    ours, theirs = whole.world_model.weights(), then.world_model.weights()
    assert any(key.startswith("upsampler.") for key in ours)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    averages = whole.averaged().weights(), then.averaged().weights()
    assert all(torch.equal(value, averages[1][key]) for key, value in averages[0].items())


def test_a_frozen_stage_stays_as_it_is(walks: EpisodeStore) -> None:
    frozen = replace(CONFIG, upsampler=replace(CONFIG.upsampler, optimizer=OptimizerConfig(lr=0)))
    alone = replace(
        CONFIG,
        denoiser_optimizer=replace(CONFIG.denoiser_optimizer, lr=0.0),
        reward_end_optimizer=replace(CONFIG.reward_end_optimizer, lr=0.0),
    )
    for config, changed in ((frozen, {"denoiser", "rew_end_model"}), (alone, {"upsampler"})):
        trainer = TwoStageTrainer(config, walks, 5)
        before = {key: value.clone() for key, value in trainer.world_model.weights().items()}
        trainer.train_step()
        after = trainer.world_model.weights()
        assert {key.split(".")[0] for key, value in after.items() if not value.equal(before[key])} == changed


def test_gradients_of_several_batches_are_averaged() -> None:
    """Two batches of two rows are an update on one of four, and the loss is the mean of theirs."""
    x, results = torch.randn(4, 3), []
    for batches in ([x], [x[:2], x[2:]]):
        torch.manual_seed(0)
        layer = nn.Linear(3, 1)
        config = OptimizerConfig(grad_acc_steps=len(batches), max_grad_norm=0.1)
        left = iter(batches)

        def loss(layer=layer, left=left):
            value = (layer(next(left)) ** 2).mean()
            return value, {"loss": value.detach()}

        figures = update("layer", ALONE, layer, torch.optim.SGD(layer.parameters(), 1.0), loss, config, 1.0)
        results.append([figures["loss"], figures["layer/grad_norm"], layer.weight.detach()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_residual_upsampler_changes_the_enlarged_frame() -> None:
    """Untrained it repeats it, whatever the large frame before shows; so does its folded form."""
    upsampler = Denoiser(CONFIG.upsampler.denoiser).eval()
    nn.init.zeros_(upsampler.inner_model.conv_out.bias)
    past, enlarged = (to_frames(torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8)) for _ in range(2))
    obs, noise = torch.stack((past, enlarged), dim=1), torch.randn(2, 3, SIDE, SIDE)
    for network in (upsampler, FoldedDenoiser(upsampler)):
        torch.testing.assert_close(network.condition(obs, None)(noise, 5.0), enlarged, atol=1e-5, rtol=0)


def test_dreams_beside_real_play_have_frames_of_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dream's own, after real ones that were made small; with actions of several numbers."""
    model, rng = golden_engine(), np.random.default_rng(0)
    obs = rng.integers(0, 256, (2, 6, 3, *LARGE), dtype=np.uint8)
    act = encode(rng.integers(0, SIZES, (2, 5, len(SIZES))))
    real = Rollouts(obs, act, np.zeros((2, 2), np.float32), np.zeros((2, 2), np.bool_))
    dreamed = dream_rollouts(model, real, TwoStageSampler())
    assert dreamed.obs.shape == obs.shape and dreamed.low_res.shape == (2, 6, 3, *SMALL)
    assert np.array_equal(dreamed.low_res[:, :4], shrink_planes(obs[:, :4], SMALL)) and dreamed.rew_prob is None
    model.starts = replace(engine_starts(2), obs=dreamed.low_res[:, :4].transpose(0, 1, 3, 4, 2).copy())
    model.starts = replace(model.starts, full_res=obs[:, 3:4].transpose(0, 1, 3, 4, 2).copy(), act=act[:, :3])
    dream = model.dream(2, seed=0, horizon=None)
    dream.reset(start=torch.arange(2), seed=0)
    for i in range(2):
        large = dream.step(torch.from_numpy(act[:, 3 + i])).obs
        assert np.array_equal(to_pixels(large).movedim(-1, 1).numpy(), dreamed.obs[:, 4 + i])
        assert np.array_equal(to_pixels(dream.obs_window[:, -1]).movedim(-1, 1).numpy(), dreamed.low_res[:, 4 + i])
    monkeypatch.setattr(fidelity, "HORIZONS", (1, 2))
    table = closed_loop(real, dreamed)
    small = fidelity.mse(dreamed.low_res[:, 4:], shrink_planes(obs[:, 4:], SMALL))
    assert table["low_res"]["mse_2"] == small[1]
    bicubic = fidelity.mse(obs[:, 4:], enlarge_planes(dreamed.low_res[:, 4:], 5))
    assert table["mse_over_enlarged_2"] == table["mse_2"] / bicubic[1]
    assert real.small(SMALL).obs.shape == (2, 6, 3, *SMALL)


def test_kernels_dream_the_same_frames_in_both_stages(walks: EpisodeStore) -> None:
    from diamond_gym.networks.kernels import MULTIPLE, built_kernels

    if built_kernels() is None:
        pytest.skip("there is no compiler to build the kernels")
    wide = replace(CONFIG.denoiser.inner_model, channels=[MULTIPLE], depths=[1], attn_depths=[0])
    large = replace(CONFIG.upsampler.denoiser.inner_model, channels=[MULTIPLE])
    config = replace(
        CONFIG,
        denoiser=replace(CONFIG.denoiser, inner_model=wide),
        reward_end=replace(CONFIG.reward_end, channels=[MULTIPLE]),
        upsampler=replace(CONFIG.upsampler, denoiser=replace(CONFIG.upsampler.denoiser, inner_model=large)),
    )
    model, frames = TwoStageTrainer(config, walks, 1).averaged(), []
    for part in (model.denoiser, model.upsampler):
        nn.init.normal_(part.inner_model.conv_out.weight, std=0.1)
    model.starts = starts_for(model, walks)
    for kernels in (False, True):
        assert not kernels or model.use_kernels()
        dream = model.dream(2, horizon=None)
        dream.reset(seed=0)
        frames.append(to_pixels(dream.step(torch.tensor([1, 2])).obs).int())
        assert hasattr(dream._large_frames, "inner")
    difference = (frames[0] - frames[1]).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


def test_a_run_with_one_stage_knows_no_upsampler() -> None:
    """So that runs begun before there were two go on."""
    one, two = asdict(worlds.CONFIG), asdict(CONFIG)
    assert settled(one)["upsampler"] is None and settled(two)["upsampler"]["factor"] == 2
    assert {**settled(one), "upsampler": None} == settled({**one, "upsampler": {**one["upsampler"], "every": 3}})


def test_a_model_without_a_sampler_of_its_own_dreams_fast(walks: EpisodeStore) -> None:
    model: WorldModel = TwoStageTrainer(CONFIG, walks, 1).averaged()
    model.starts = starts_for(model, walks)
    assert len(model.starts) == 1024 and model.dream(1).sampler == FAST.dynamics
    with pytest.raises(BadArgument, match="does not divide"):
        UPSAMPLER.small((15, 16))
