"""Two stages by the commands: from recordings to a registered dream, and what is refused."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import first_person
import gymnasium as gym
import numpy as np
import pytest
import torch
from engines import LARGE, golden_engine
from two_stages import store

from diamond_gym import cli
from diamond_gym.cli.train_wm import TrainWm
from diamond_gym.csgo import SIZES, CsgoActions, action, decode
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.play.session import PlaySession
from diamond_gym.registry import load_world_model, resolve, save_model
from diamond_gym.two_stage import FAST, TwoStageDream

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
    for size in ([], ["--low-size", "12"]):
        assert cli.main(["train-wm", "--data", "walk", *TINY, "--dry-run", *size]) == 0
        assert "world model" in capsys.readouterr().out
    store(home / "data" / "even", factor=2, name="Even")  # into which the preset's factor of 3 does not go
    assert cli.main(["train-wm", "--data", "even", *TINY, "--dry-run", "--low-size", "8"]) == 0
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data walk --upsampler.factor 5", "does not divide frames of 16x16 pixels; one of 2 does"),
        ("--data walk --low-size 30x56", "must be smaller than the frames, which have 16x16 pixels"),
        ("--data walk --low-size 6x8", "does not divide frames of 16x16 pixels: both sides have to"),
        ("--data walk --low-size big", "--low-size is a number or HEIGHTxWIDTH, not 'big'"),
        ("--data walk --preset nano --low-size 8", "--low-size is for two stages: --preset two-stage-nano or csgo"),
        ("--data walk --upsampler.factor 4", "too small for two stages by --upsampler.factor 4, which leaves 4x4"),
        ("--data walk --upsampler.factor 1", "--upsampler.factor must be from 2 to 64, not 1"),
        ("--data walk --upsampler.every 0", "every must be at least 1, not 0"),
        ("--data walk --age-weights 0.5 0.1", "--age-weights must be chances that sum to 1"),
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
