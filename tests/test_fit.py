"""Fitting a world model: it learns, it resumes bit for bit, it stops cleanly, it refuses nonsense."""

import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds

from diamond_gym.errors import BadArgument, DamagedModel, DiamondGymError
from diamond_gym.networks.denoiser import DenoiserConfig
from diamond_gym.registry import load_world_model, save_model
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.loop import Loop, Rhythm, train
from diamond_gym.trainers.optim import OptimizerConfig, average, lr_factor
from diamond_gym.trainers.register import half, make_card
from diamond_gym.trainers.run import CHECKPOINT, Means, RunFolder
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.trainers.warm_start import begin_with
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.trainers.world_model_config import WorldModelConfig


@pytest.fixture
def store(tmp_path: Path):
    return worlds.store(tmp_path / "walks")


def weights_equal(a: WorldModelTrainer, b: WorldModelTrainer) -> bool:
    first, second = a.world_model.weights(), b.world_model.weights()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_losses_fall(store) -> None:
    fit = WorldModelTrainer(worlds.CONFIG, store, total_steps=10**6)
    losses = [float(fit.train_step()["denoiser/loss"]) for _ in range(120)]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])


def test_reward_end_takes_its_turns(store) -> None:
    fit = WorldModelTrainer(worlds.CONFIG, store, total_steps=10)
    turns = ["reward_end/loss_rew" in fit.train_step() for _ in range(4)]
    assert turns == [True, False, True, False]


@pytest.mark.parametrize("name", ["denoiser", "reward_end"])
def test_a_learning_rate_of_0_leaves_a_network_alone(store, name: str, monkeypatch) -> None:
    optimizer = replace(getattr(worlds.CONFIG, f"{name}_optimizer"), lr=0.0)
    fit = WorldModelTrainer(
        replace(worlds.CONFIG, reward_end_every=1, **{f"{name}_optimizer": optimizer}), store, total_steps=10
    )
    monkeypatch.setattr(fit.world_model.parts[name], "loss", None)  # no time is spent on it either
    before = {key: value.clone() for key, value in fit.world_model.weights().items()}
    assert not any(key.startswith(name) for key in fit.train_step())
    changed = {key.split(".")[0] for key, value in fit.world_model.weights().items() if not value.equal(before[key])}
    assert changed == {"denoiser": {"rew_end_model"}, "reward_end": {"denoiser"}}[name]


@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1.0), ("lr", float("nan")), ("batch_size", 0), ("max_grad_norm", float("nan"))]
)
def test_what_no_optimizer_can_do_is_refused(name: str, value: float) -> None:
    with pytest.raises(BadArgument, match=f"an optimizer's {name} must"):
        OptimizerConfig(**{name: value})


def test_there_is_something_to_fit() -> None:
    with pytest.raises(BadArgument, match="there is nothing to train"):
        WorldModelConfig(denoiser_optimizer=OptimizerConfig(lr=0), reward_end_optimizer=OptimizerConfig(lr=0))


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_resumed_run_ends_with_the_same_bits(store, tmp_path: Path, stop_at: int) -> None:
    whole = WorldModelTrainer(worlds.CONFIG, store, total_steps=10, seed=3)
    for _ in range(10):
        whole.train_step()
    first = WorldModelTrainer(worlds.CONFIG, store, total_steps=10, seed=3)
    for _ in range(stop_at):
        first.train_step()
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        run.save(first.state_dict())
        torch.manual_seed(999)  # whatever happened in between
        second = WorldModelTrainer(worlds.CONFIG, store, total_steps=10, seed=3)
        state = run.load()
    assert state is not None
    second.load_state_dict(state)
    assert second.step == stop_at
    while second.step < 10:
        second.train_step()
    assert weights_equal(whole, second)
    averages = second.ema["denoiser"].state_dict()
    assert all(torch.equal(v, averages[k]) for k, v in whole.ema["denoiser"].state_dict().items())


def test_a_run_stops_at_the_step_limit_and_logs(store, tmp_path: Path) -> None:
    fit = WorldModelTrainer(worlds.CONFIG, store, total_steps=6)
    drawn, logged = [], []
    with RunFolder(tmp_path / "run") as run:
        rhythm = Rhythm(log_steps=2, checkpoint_seconds=0, picture_seconds=0)
        reason = train(fit, run, None, rhythm, lambda step, values: logged.append(step), drawn.append)
    assert (reason, fit.step) == ("steps", 6)
    assert logged == [2, 4, 6] and drawn == [1, 2, 3, 4, 5, 6]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[0]["denoiser/loss"] > 0 and lines[0]["speed/steps_per_second"] > 0
    assert list((tmp_path / "run").glob("events.out.tfevents*"))


def test_a_run_stops_in_time_and_on_ctrl_c(store, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        fit = WorldModelTrainer(worlds.CONFIG, store, total_steps=10**6)
        assert train(fit, run, minutes=1e-6) == "minutes"
        done = fit.step
        rhythm = Rhythm(picture_seconds=0)
        reason = train(fit, run, None, rhythm, on_picture=lambda step: os.kill(os.getpid(), signal.SIGINT))
        assert (reason, fit.step) == ("interrupted", done + 1)
        state = run.load()
    assert state is not None and state["step"] == fit.step


def test_ctrl_c_in_the_last_save_is_obeyed_too(store, tmp_path: Path, monkeypatch) -> None:
    saved = RunFolder.save
    monkeypatch.setattr(RunFolder, "save", lambda *words: [saved(*words), os.kill(os.getpid(), signal.SIGINT)])
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        fit = WorldModelTrainer(worlds.CONFIG, store, total_steps=2)
        assert train(fit, run) == "interrupted"
        assert run.load()["step"] == fit.step == 2


def test_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Loop(lambda: None) as loop:
        os.kill(os.getpid(), signal.SIGINT)
        loop.look_up(1, Means())
        assert loop.stopped == "interrupted"
        os.kill(os.getpid(), signal.SIGINT)


def test_diverged_loss_keeps_the_last_checkpoint(store, tmp_path: Path) -> None:
    fit = WorldModelTrainer(worlds.CONFIG, store, total_steps=100)
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        fit.train_step()
        run.save(fit.state_dict())
        with torch.no_grad():
            fit.world_model.denoiser.inner_model.conv_in.weight.fill_(float("nan"))
        with pytest.raises(DiamondGymError, match="denoiser/loss became nan by step"):
            train(fit, run, None, Rhythm(log_steps=1))
        state = run.load()
    assert state is not None and state["step"] == 1
    assert all(v.isfinite().all() for v in state["weights"].values())
    means = Means()
    means.add({"loss": float("inf")})
    with pytest.raises(DiamondGymError, match="became inf by step 5"):
        means.check(5)


def test_two_processes_in_one_run_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path), pytest.raises(DiamondGymError, match="another process is training"):
        RunFolder(tmp_path)
    RunFolder(tmp_path).close()


def test_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        assert run.load() is None
        (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
        with pytest.raises(DamagedModel, match="not a readable checkpoint"):
            run.load()


def test_settings_may_not_change(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.settle({"lr": 1e-3, "minutes": None})
        run.save({"step": 1})
        run.settle({"lr": 1e-3, "minutes": 5}, frozenset({"minutes"}))
        with pytest.raises(BadArgument, match="begun with lr = 0.001, not 0.1"):
            run.settle({"lr": 0.1, "minutes": 5})


def test_settings_hold_from_the_first_checkpoint_on(tmp_path: Path) -> None:
    """What was refused or killed before it has learnt nothing that other settings could spoil."""
    with RunFolder(tmp_path) as run:
        run.settle({"seed": 5, "init": "wrong"})
        run.log(0, {"loss": 1.0})
    with RunFolder(tmp_path) as run:
        run.settle({"seed": 6})
        assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 6}
        assert run.load() is None and (tmp_path / "metrics.jsonl").read_text() == ""
        run.save({"step": 0})
        with pytest.raises(BadArgument, match="begun with seed = 6, not 7"):
            run.settle({"seed": 7})
        assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 6}


def test_averaged_model_is_the_average(store) -> None:
    fit = WorldModelTrainer(worlds.CONFIG, store, total_steps=10)
    for _ in range(3):
        fit.train_step()
    averaged = fit.averaged().weights()
    expected = fit.ema["denoiser"].module.state_dict()
    assert all(torch.equal(averaged[f"denoiser.{k}"], v) for k, v in expected.items())
    plain = WorldModelTrainer(replace(worlds.CONFIG, ema_decay=0.0), store, total_steps=10)
    plain.train_step()
    assert all(torch.equal(plain.world_model.weights()[k], v) for k, v in plain.averaged().weights().items())


def test_ema_follows_its_formula() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    ema = average(layer, 0.5)
    expected = 0.0  # the first update copies
    for i in range(20):
        torch.nn.init.constant_(layer.weight, float(i))
        ema.update_parameters(layer)
        decay = min(0.5, (1 + i) / (10 + i)) if i else 0.0
        expected = decay * expected + (1 - decay) * i
    assert ema.module.weight.item() == pytest.approx(expected)


def test_both_averages_remember_as_many_steps(store) -> None:
    """Of a network that is updated at every third step, an update weighs as much as three of the other's."""
    fit = WorldModelTrainer(replace(worlds.CONFIG, reward_end_every=3, ema_decay=0.9), store, total_steps=1000)
    for _ in range(90):
        fit.train_step()
    shares = {}
    for name, updates in {"denoiser": 12, "reward_end": 4}.items():
        network, averaged = fit.world_model.parts[name], fit.ema[name]
        key, before = next((key, value.clone()) for key, value in averaged.module.named_parameters() if value.any())
        torch.nn.init.zeros_(network.get_parameter(key))
        for _ in range(updates):
            averaged.update_parameters(network)
        shares[name] = float(averaged.module.get_parameter(key).norm() / before.norm())
    assert shares == pytest.approx({"denoiser": 0.9**12, "reward_end": 0.9**12}, rel=0.01)


def test_learning_rate_warms_up_and_decays() -> None:
    factors = [lr_factor(step, 5, 100 - step, 50) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:50] == pytest.approx([1.0] * 45)
    assert all(a >= b for a, b in itertools.pairwise(factors[50:]))
    assert 0.05 <= factors[-1] < 0.06


def test_begins_with_another_models_weights(store) -> None:
    first, second = (
        WorldModelTrainer(worlds.CONFIG, store, 10, seed=1),
        WorldModelTrainer(worlds.CONFIG, store, 10, seed=2),
    )
    assert not weights_equal(first, second)
    begin_with(second, first.world_model.weights())
    assert weights_equal(first, second)
    averaged = second.averaged().weights()
    assert all(torch.equal(v, averaged[k]) for k, v in first.world_model.weights().items())
    with pytest.raises(DiamondGymError, match="do not fit the networks"):
        begin_with(second, {"denoiser.stranger": torch.zeros(1)})


def test_autoregressive_predictions_may_come_late(store) -> None:
    late = replace(worlds.CONFIG, num_autoregressive_steps=1, autoregressive_from=0.5)
    fit = WorldModelTrainer(late, store, total_steps=4)
    lengths = []
    denoiser = fit.world_model.denoiser
    loss = denoiser.loss

    def measured(obs, act, mask_padding, *args, **kwargs):
        lengths.append((obs.shape[1], act.shape[1], mask_padding.shape[1]))
        return loss(obs, act, mask_padding, *args, **kwargs)

    denoiser.loss = measured
    for _ in range(4):
        fit.train_step()
    t = denoiser.num_steps_conditioning
    assert lengths == [(t + 1,) * 3] * 2 + [(t + 2,) * 3] * 2


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_a_model_fitted_with_noise_on_past_frames(store, home: Path, given: bool, residual: bool) -> None:
    inner = replace(worlds.INNER, noise_cond=given)
    config = replace(worlds.CONFIG, denoiser=DenoiserConfig(inner, residual=residual), past_noise=0.3)
    fit = WorldModelTrainer(config, store, total_steps=4, seed=1)
    shown, loss = [], fit.world_model.denoiser.model_output

    def output(noisy, cs, obs, act, sigma_cond=None):
        shown.append((obs, sigma_cond))
        return loss(noisy, cs, obs, act, sigma_cond)

    fit.world_model.denoiser.model_output = output
    for _ in range(4):
        fit.train_step()
    levels = torch.cat([level for _, level in shown])
    assert (levels == 0).any() and (levels > 0).any() and levels.max() <= 0.3
    # walks have two colours, and padding
    clean = [obs[row].unique().numel() <= 3 for obs, level in shown[::2] for row in range(len(level))]
    assert clean == [value == 0 for _, level in shown[::2] for value in level.tolist()]

    model = fit.averaged()
    weights = half(model)
    model.load_weights(weights)
    sampler = SamplerConfig(num_denoising_steps=2)
    card = make_card("walk", store, config, {}, {}, "diamond-gym train-wm", sampler, "a test")
    entry = save_model(card, weights, draw_starts(store, 2))
    loaded = load_world_model(entry.name, "cpu", "float32")
    assert loaded.denoiser.config == config.denoiser
    model.starts, model.card = loaded.starts, loaded.card
    frames = []
    for each in (model, loaded):
        dream = each.dream(2, seed=0)
        dream.reset()
        frames.append(torch.stack([dream.step(torch.tensor([1, 2])).obs for _ in range(3)]))
    assert frames[0].equal(frames[1]) and frames[0].isfinite().all()


def test_settings_that_differ_are_named_at_any_depth(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        run.settle({"steps": 3, "fit": {"focus": 0.5}})
        run.save({"step": 1})
        with pytest.raises(BadArgument, match="begun with fit.focus = 0.5, not 0.25"):
            run.settle({"steps": 3, "fit": {"focus": 0.25}})
        with pytest.raises(BadArgument, match="which had no option fit.new"):
            run.settle({"steps": 3, "fit": {"focus": 0.5, "new": 1}})


def test_parts_and_counts_are_checked() -> None:
    for values, message in (
        ({"focus": -0.1}, "--focus must be from 0 to 1, not -0.1"),
        ({"appearance_focus": 1.5}, "--appearance-focus must be from 0 to 1"),
        ({"ema_decay": float("nan")}, "--ema-decay must be from 0 to 1"),
        ({"reward_end_every": 0}, "--reward-end-every must be at least 1, not 0"),
        ({"num_autoregressive_steps": -1}, "--num-autoregressive-steps must be at least 0"),
        ({"motion_weight": -1.0}, "--motion-weight must be at least 0, not -1.0"),
        ({"past_noise": 1.5}, "--past-noise must be from 0 to 1, not 1.5"),
        ({"age_weights": ()}, "--age-weights must be chances that sum to 1"),
        ({"age_weights": (float("nan"), 1.0)}, "--age-weights must be chances that sum to 1"),
    ):
        with pytest.raises(BadArgument, match=message):
            WorldModelConfig(**values)
    for horizon in (0, -1):
        with pytest.raises(BadArgument, match=f"--horizon must be at least 1, not {horizon}"):
            AgentFitConfig(horizon=horizon)
    with pytest.raises(BadArgument, match="--first-steps-at-most must be at least 1, not 0"):
        DiamondConfig(first_steps_at_most=0)
