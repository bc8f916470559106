"""Training of two stages: the authors' losses and sizes, and from recordings to a registered dream of two stages."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import first_person
import gymnasium as gym
import numpy as np
import pytest
import torch
import worlds
from engines import LARGE, SMALL, engine_starts, golden_engine
from rounding import assert_close
from safetensors.torch import load_file
from test_golden import CSGO_INNER, CSGO_UPSAMPLER_INNER, GOLDEN, load_part, recorded_noise
from torch import nn

from diamond_gym import cli
from diamond_gym.actions import CsgoActions
from diamond_gym.cli.train_wm import TrainWm
from diamond_gym.csgo import SIZES, action, decode, encode
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.data.segments import SegmentSampler
from diamond_gym.errors import BadArgument
from diamond_gym.frames import to_frames, to_pixels
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.networks.preconditioning import SigmaDistribution, TrainingNoise
from diamond_gym.play.session import PlaySession
from diamond_gym.registry import load_world_model, resolve, save_model
from diamond_gym.trainers import fidelity
from diamond_gym.trainers.loop import ALONE
from diamond_gym.trainers.measuring import closed_loop
from diamond_gym.trainers.optim import OptimizerConfig, update
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts
from diamond_gym.trainers.start_states import starts_for
from diamond_gym.trainers.two_stage import TwoStageTrainer, upsampler_loss
from diamond_gym.trainers.upsampler import SmallFrames, UpsamplerConfig, settled
from diamond_gym.two_stage import FAST, TwoStageDream, TwoStageSampler, enlarge, enlarge_planes, shrink, shrink_planes
from diamond_gym.world_model import WorldModel

INNER = InnerModelConfig(
    num_steps_conditioning=1, cond_channels=8, depths=[1], channels=[8], attn_depths=[0], patch_size=2
)
UPSAMPLER = UpsamplerConfig(
    2,
    DenoiserConfig(INNER, sigma_offset_noise=0.1, residual=True),
    OptimizerConfig(lr=1e-3, batch_size=2, grad_acc_steps=2, warmup_steps=5),
    every=2,
)
SIDE = 2 * worlds.SIZE
CONFIG = replace(worlds.CONFIG, upsampler=UPSAMPLER, age_weights=(1.0,), past_noise=0.1, motion_weight=0.0).for_frames(
    (SIDE, SIDE, 3), worlds.ACTIONS
)


def store(folder: Path, factor: int = 2, name: str = "Walk", episodes: int = 6, seed: int = 0) -> EpisodeStore:
    """Walks of twice the size, with a pattern that small frames do not show."""
    rng, size = np.random.default_rng(seed), factor * worlds.SIZE
    fine = np.indices((size, size)).sum(0)[None, :, :, None] % 2 * 20
    with EpisodeStore(folder, "a", About(name, (size, size, 3), worlds.ACTIONS)) as writer:
        for _ in range(episodes):
            walk = worlds.walk(rng, 30)
            obs = np.clip(walk.obs.repeat(factor, 1).repeat(factor, 2).astype(int) // 2 + fine, 0, 255).astype(np.uint8)
            writer.append(Episode(obs, walk.act, walk.rew, walk.end, walk.trunc, {"first": True}))
    return EpisodeStore(folder)


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
            return (layer(next(left)) ** 2).mean()

        mean, norm = update(ALONE, layer, torch.optim.SGD(layer.parameters(), 1.0), loss, config, 1.0)
        results.append([mean, norm, layer.weight.detach()])
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


TINY = shlex.split(
    "--preset two-stage-nano --device cpu --precision float32 --windows 3 --denoiser.inner-model.cond-channels 8 "
    "--denoiser.inner-model.channels 8 --denoiser.inner-model.depths 1 --denoiser.inner-model.attn-depths 0 "
    "--reward-end.lstm-dim 8 --reward-end.channels 8 --reward-end.depths 1 --reward-end.attn-depths 0 "
    "--upsampler.denoiser.inner-model.cond-channels 8 --upsampler.denoiser.inner-model.channels 8 "
    "--upsampler.denoiser.inner-model.depths 1 --upsampler.denoiser.inner-model.attn-depths 0 "
    "--denoiser-optimizer.batch-size 2 --reward-end-optimizer.batch-size 2 --upsampler.optimizer.batch-size 2 "
    "--steps 2"
)


def test_from_recordings_to_a_dream_of_two_stages(home: Path, tmp_path: Path, capsys) -> None:
    store(home / "data" / "walk", factor=3), store(home / "data" / "walk-test", factor=3, seed=1)
    words = ["train-wm", "--data", "walk", *TINY]
    assert cli.main([*words, "--minutes", "0.00001"]) == 0
    assert "repeat the command to go on" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert "registered walk-two-stage-nano" in capsys.readouterr().err
    card = resolve("Walk").card
    assert (card.obs_shape, card.spaces["low_res_shape"]) == ((24, 24, 3), [8, 8, 3])
    assert card.upsampler["upsampling_factor"] == 3 and card.summary.startswith("A DIAMOND world model of two stages")
    for table in (card.figures, card.figures["low_res"]):
        assert table["mse_over_copy_1"] > 0 and table["mse_over_copy_4"] > 0
    assert card.figures["mse_over_enlarged_1"] > 0
    # The card's source is the command, and its options are those that were typed.
    typed = cli._parse(TrainWm, "train-wm", words[1:])
    assert cli._parse(TrainWm, "train-wm", shlex.split(card.source)[2:]) == replace(typed, device="auto")

    model = load_world_model("walk-two-stage-nano", "cpu", "float32")
    assert model.starts.obs.shape[1:] == (4, 8, 8, 3) and model.starts.full_res.shape[1:] == (1, 24, 24, 3)
    dream = model.dream(2, seed=0)
    assert isinstance(dream, TwoStageDream) and dream.sampler == FAST.dynamics
    env = gym.make("diamond_gym:DiamondDream-v0", model="walk-two-stage-nano", device="cpu", quality="quality")
    obs, _ = env.reset(seed=0)
    assert obs.shape == (24, 24, 3) and env.observation_space.contains(env.step(1)[0])
    env.reset(options={"obs": np.zeros((4, 24, 24, 3), np.uint8), "act": [0, 1, 2]})

    played = PlaySession(model, seed=0)
    assert played.apply("act", 1).obs.shape == (24, 24, 3) and played.small.shape == (8, 8, 3)

    small = shlex.split("--windows 3 --horizon 3 --starts 1 --dreams-per-start 2 --json --save")
    capsys.readouterr()
    video = tmp_path / "both.gif"
    assert cli.main(["evaluate-wm", "Walk", *small, "--video", str(video)]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["low_res"]["mse_over_copy_1"] > 0 and table["windows"] == 3 and video.stat().st_size
    assert resolve("Walk").card.figures["low_res"]["mse_over_copy_1"] == table["low_res"]["mse_over_copy_1"]
    assert cli.main(["export", "walk-two-stage-nano", str(tmp_path / "out")]) == 0
    assert resolve(str(tmp_path / "out")).card.upsampler is not None
    assert cli.main(["dream", "Walk", "--steps", "2", "--out", str(tmp_path / "walk.gif")]) == 0

    words += ["--init", "walk-two-stage-nano", "--name", "second", "--run", str(tmp_path / "run"), "--windows", "0"]
    assert cli.main([*words, "--steps", "1", "--upsampler.optimizer.lr", "0"]) == 0
    before, after = (load_world_model(name, "cpu").weights() for name in ("walk-two-stage-nano", "second"))
    kept = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key.startswith("upsampler.")} <= kept < set(before)
    capsys.readouterr()
    assert cli.main(["train-wm", "--data", "walk", *TINY, "--dry-run"]) == 0
    assert "world model" in capsys.readouterr().out


def test_first_person_play_by_keys_and_mouse(home: Path, capsys) -> None:
    """Frames that are no squares, CS:GO's actions, neither rewards nor ends: as the authors' recordings are."""
    about = About.of("Ground", (36, 48, 3), CsgoActions())
    for name, seed in (("ground", 0), ("ground-test", 7)):
        with EpisodeStore(home / "data" / name, "a", about) as writer:
            for k in range(2):
                walk = first_person.episode(seed + k, 24)
                writer.append(Episode(np.ascontiguousarray(walk.obs[:, :36]), decode(walk.act)))
    assert cli.main(["train-wm", "--data", "ground", *TINY]) == 0
    card = resolve("Ground").card
    assert (card.obs_shape, card.spaces["low_res_shape"], card.spaces["actions"]) == (
        (36, 48, 3), [12, 16, 3], {"kind": "csgo"},
    )  # fmt: skip
    assert card.reward_end is None and "reward_f1" not in card.figures
    assert card.figures["mse_over_copy_16"] > 0 and card.figures["low_res"]["mse_over_copy_16"] > 0
    env = gym.make("diamond_gym:DiamondDream-v0", model="ground-two-stage-nano", device="cpu")
    env.reset(seed=0)
    obs, reward, terminated, *_ = env.step(action("w", "left", mouse_x=-30))
    assert env.action_space == CsgoActions().space and obs.shape == (36, 48, 3) and (reward, terminated) == (0, False)
    capsys.readouterr()
    words = "evaluate-wm Ground --data ground-test --windows 2 --horizon 2 --starts 1 --dreams-per-start 0 --json"
    assert cli.main(words.split()) == 0
    assert json.loads(capsys.readouterr().out)["low_res"]["mse_over_copy_1"] > 0


def test_the_authors_model_is_measured_too(home: Path, capsys) -> None:
    model, rng = golden_engine(), np.random.default_rng(0)
    save_model(model.card, model.weights(), model.starts)
    with EpisodeStore(home / "data" / "held", "a", About.of("CSGO", (*LARGE, 3), CsgoActions())) as writer:
        obs = rng.integers(0, 256, (13, *LARGE, 3), dtype=np.uint8)
        writer.append(Episode(obs, rng.integers(0, SIZES, (12, len(SIZES)))))
    words = "evaluate-wm csgo-diamond --data held --windows 2 --horizon 4 --starts 1 --dreams-per-start 0 --json"
    assert cli.main(words.split()) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["num_denoising_steps"] == FAST.dynamics.num_denoising_steps and table["held_out"]["steps"] == 12
    assert table["mse_4"] > 0 and table["low_res"]["mse_4"] > 0


def test_dreams_beside_real_play_have_frames_of_both_sizes() -> None:
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
    table = closed_loop(real, dreamed, [1, 2])
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data walk --upsampler.factor 5", "does not divide frames of 16x16 pixels; one of 2 does"),
        ("--data walk --low-size 30x56", "is to be smaller than the frames, which have 16x16 pixels"),
        ("--data walk --low-size 6x8", "does not go into frames of 16x16 pixels"),
        ("--data walk --low-size big", "--low-size is a number or HEIGHTxWIDTH, not 'big'"),
        ("--data walk --preset nano --low-size 8", "--low-size is for two stages: --preset two-stage-nano or csgo"),
        ("--data walk --upsampler.factor 4", "too small for two stages by --upsampler.factor 4, which leaves 4x4"),
        ("--data walk --upsampler.factor 1", "--upsampler.factor is 2 or more, up to 64, not 1"),
        ("--data walk --upsampler.every 0", "every must be at least 1, not 0"),
        ("--data walk --age-weights 0.5 0.1", "--age-weights are chances that sum to 1"),
        ("--data walk --upsampler.optimizer.grad-acc-steps 0", "grad_acc_steps must be at least 1, not 0"),
    ],
)
def test_bad_options_are_one_line(words: str, message: str, home: Path, capsys) -> None:
    store(home / "data" / "walk")
    assert cli.main(["train-wm", "--preset", "two-stage-nano", "--device", "cpu", *words.split()]) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split()) and said.count("\n") == 1, said


def test_a_game_of_64_pixels_needs_no_second_stage(home: Path, capsys) -> None:
    pytest.importorskip("ale_py")
    assert cli.main(["train-wm", "Pong", "--preset", "two-stage-nano"]) == 2
    said = capsys.readouterr().err
    assert "frames of Pong have 64x64 pixels" in said and "use --preset nano or paper" in said and said.count("\n") == 1


def test_the_whole_loop_fits_one_stage(capsys) -> None:
    assert cli.main(["train", "--env", "DiamondGym/Catch-v0", "--preset", "smoke", "--fit.upsampler.factor", "2"]) == 2
    assert "diamond-gym train-wm fits two" in capsys.readouterr().err


def test_a_model_without_a_sampler_of_its_own_dreams_fast(walks: EpisodeStore) -> None:
    model: WorldModel = TwoStageTrainer(CONFIG, walks, 1).averaged()
    model.starts = starts_for(model, walks)
    assert len(model.starts) == 1024 and model.dream(1).sampler == FAST.dynamics
    with pytest.raises(BadArgument, match="does not divide"):
        UPSAMPLER.small((15, 16))
