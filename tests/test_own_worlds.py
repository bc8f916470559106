"""Worlds of a user's own, from an environment or from recordings alone, to a registered dream; and what cannot be."""

import json
import shlex
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from stubs import save_tiny_model

import diamond_gym
from diamond_gym import cli
from diamond_gym.actions import Box
from diamond_gym.cli.collect import store_folder
from diamond_gym.cli.train import Train
from diamond_gym.cli.train_wm import TrainWm
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.registry import resolve
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.presets import LOOP, WORLD_MODEL, command_line
from diamond_gym.trainers.run import CHECKPOINT, RunFolder

ID = "DiamondGym/Catch-v0"
TINY = shlex.split(
    "--preset nano --device cpu --precision float32 --windows 3 --denoiser.inner-model.cond-channels 8 "
    "--denoiser.inner-model.channels 8 --denoiser.inner-model.depths 1 --denoiser.inner-model.attn-depths 0 "
    "--denoiser.inner-model.patch-size 4 --reward-end.lstm-dim 8 --reward-end.channels 8 --reward-end.depths 1 "
    "--reward-end.attn-depths 0 --reward-end.patch-size 4 --denoiser-optimizer.batch-size 2 "
    "--reward-end-optimizer.batch-size 2 --steps 2"
)
SMALL = shlex.split(
    "--windows 3 --horizon 3 --rollouts 2 --rollout-steps 4 --free-dreams 2 --free-steps 4 --starts 1 "
    "--dreams-per-start 2 --num-denoising-steps 1"
)


def one_line(capsys):
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return message


def recordings(folder, name="Maze", side=12, channels=1, length=30):
    """Two episodes of noise, without rewards or ends."""
    rng = np.random.default_rng(0)
    with EpisodeStore(folder, "a", About(name, (side, side, channels), 5)) as store:
        for _ in range(2):
            obs = rng.integers(256, size=(length + 1, side, side, channels), dtype=np.uint8)
            store.append(Episode(obs, rng.integers(5, size=length), info={"first": True}))
    return folder


def test_from_an_environments_id_to_a_dream_and_its_figures(home, tmp_path, capsys):
    words = ["train-wm", "--env", ID, *TINY, "--collect-steps", "100", "--test-steps", "100"]
    assert cli.main(words) == 0
    assert "registered catch-nano" in capsys.readouterr().err
    assert {path.name for path in (home / "data").iterdir()} == {"catch", "catch-test"}
    card = resolve("Catch").card
    assert (card.name, card.game, card.obs_shape, card.num_actions) == ("catch-nano", "Catch", (16, 16, 3), 3)
    assert card.figures["windows"] == 3 and card.figures["mse_over_copy_4"] > 0
    assert card.training["data"]["source"] == f"the Gymnasium environment {ID}"
    diamond_gym.register_ids()
    assert gym.make("DiamondDream-Catch-v0", device="cpu").reset(seed=0)[0].shape == (16, 16, 3)
    assert cli.main(["dream", "Catch", "--steps", "2", "--out", str(tmp_path / "catch.gif")]) == 0

    assert cli.main(["evaluate-wm", "catch-nano", "--env", ID, "--test-steps", "100", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "returns" in printed and "drift" in printed
    assert cli.main(["evaluate-wm", "catch-nano", "--data", "catch-test", *SMALL]) == 0
    assert "returns" not in capsys.readouterr().out, "nothing says which environment to play"
    assert cli.main(["evaluate-wm", "catch-nano", "--env", "CartPole-v1", "--render-obs", *SMALL]) == 2
    assert "CartPole-v1 has other frames or actions than the dreams of catch-nano" in one_line(capsys)

    # The card's source is the command that makes this model, and names what it began with.
    again = cli._parse(TrainWm, "train-wm", shlex.split(card.source)[2:])
    typed = cli._parse(TrainWm, "train-wm", words[1:])
    assert card.source.startswith("diamond-gym train-wm --preset nano --env") and again == replace(typed, device="auto")
    assert cli.main([*words, "--init", "catch-nano", "--name", "second", "--run", str(tmp_path / "run")]) == 0
    second = resolve("second").card
    assert "in 2 stages: it began with the weights of catch-nano." in second.summary
    assert "--init catch-nano" in second.source and second.training["stages"] == [card.source, second.source]
    assert {path.name for path in (home / "data").iterdir()} == {"catch", "catch-test"}
    an_agent_learns_in_it_and_is_scored(capsys)


def an_agent_learns_in_it_and_is_scored(capsys):
    words = ["train-agent", "--preset", "nano", "--steps", "30", "--horizon", "5", "--network.lstm-dim", "8"]
    words += ["--network.channels", "4", "4", "--network.down", "1", "1", "--optimizer.batch-size", "2"]
    words += ["--device", "cpu", "--precision", "float32", "--episodes", "10"]
    capsys.readouterr()
    assert cli.main([*words, "--env", ID]) == 0
    assert f"{ID}, full games" in capsys.readouterr().out
    agent = resolve("Catch").card.training["agent"]
    assert -1 <= agent["score"] <= 1 and agent["episodes"] == 10
    assert cli.main(["evaluate", "--env", ID, "--episodes", "4", "--n-envs", "2", "--json", "--device", "cpu"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["game"], row["episodes"], row["human_normalised"]) for row in rows] == [(ID, 4, None)] * 2
    assert cli.main([*words, "--model", "catch-nano", "--steps", "60"]) == 0
    assert f"the agent will not be scored in the real Catch: to score it, add --env {ID}" in capsys.readouterr().err
    for source in (["--model", "catch-nano"], ["--data", "catch"]):
        assert cli.main(["evaluate", *source, "--device", "cpu"]) == 2
        assert (
            f"Catch cannot be played here by its name alone: name its environment with --env {ID}"
            in capsys.readouterr().err
        )


def test_recordings_alone(home, capsys):
    """No environment, one channel, no rewards, nothing held out."""
    recordings(home / "data" / "maze")
    assert cli.main(["train-wm", "--data", "maze", *TINY]) == 0
    assert "the model will not be measured" in " ".join(capsys.readouterr().err.split())
    card = resolve("Maze").card
    assert (card.name, card.figures, card.training["data"]["source"]) == ("maze-nano", {}, "recordings")
    assert card.training["data"]["steps"] == 60 and not card.action_meanings
    dream = gym.make("diamond_gym:DiamondDream-v0", model="maze-nano", device="cpu")
    assert dream.reset(seed=0)[0].shape == dream.step(4)[0].shape == (12, 12, 1)
    assert EpisodeStore(home / "data" / "maze").num_steps == 60, "nothing is added to them"

    recordings(home / "data" / "maze-test", length=40)
    assert cli.main(["train-wm", "--data", "maze", *TINY, "--name", "measured"]) == 0
    assert resolve("measured").card.figures["mse_over_copy_16"] > 0
    with_name = ["--data", str(home / "data" / "maze"), "--dry-run"]
    capsys.readouterr()
    assert cli.main(["train-wm", *with_name, *TINY]) == 0
    assert "world model" in capsys.readouterr().out


def test_the_whole_loop_begins_with_recordings(home, tmp_path, capsys, monkeypatch):
    from test_train import TINY as LOOP_WORDS

    weights, begin = [], DiamondTrainer.__init__
    monkeypatch.setattr(
        DiamondTrainer, "__init__", lambda *words: weights.append(words[1].fit.age_weights) or begin(*words)
    )

    assert cli.main(["collect", "--env", ID, "--data", "mine", "--steps", "40", "--num-envs", "2"]) == 0
    words = [*LOOP_WORDS, "--epochs", "1", "--test-every", "0", "--final-episodes", "1", "--data", "mine"]
    assert cli.main(["train", "--env", ID, *words, "--run", str(tmp_path / "played"), "--name", "played"]) == 0
    assert EpisodeStore(tmp_path / "played" / "experience").num_steps == 40, "the first 30 steps are there already"
    assert "whole games at the end" in capsys.readouterr().err
    assert cli.main(["train", *words, "--run", str(tmp_path / "read"), "--name", "read"]) == 0
    assert "whole games" not in capsys.readouterr().err
    assert resolve("read").card.training["data"]["source"] == "recordings"
    assert EpisodeStore(home / "data" / "mine").num_steps == 40
    assert weights == [None, (1.0,)], "recordings alone do not get better, and are drawn evenly"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("train-wm --env Nowhere-v0", 2, "Nowhere-v0 cannot be made"),
        ("train-wm --env nowhere:Game-v0", 2, "cannot be made: "),
        ("train-wm --env CartPole-v1", 2, "--render-obs takes its rendered picture instead"),
        ("train-wm --env CartPole-v1 --render-obs --size 12x", 2, "--size is a number or HEIGHTxWIDTH"),
        ("train-wm --env CartPole-v1 --render-obs --size 0", 2, "--size must be from 1 to 1,024 a side, not 0"),
        (
            f"train-wm --env {ID} --preset nano --denoiser.inner-model.num-extra-images 1",
            2,
            "must be 0, not 1: leave it",
        ),
        (f"train-wm --env {ID} --preset nano --reward-end.img-size 48", 2, "must be 16, not 48: leave it out"),
        (f"train-wm --env {ID} --game Pong", 2, "--game and --env exclude each other"),
        (f"collect Pong --env {ID}", 2, "--game and --env exclude each other"),
        (f"collect --env {ID} --size 99999", 2, "--size must be from 1 to 1,024 a side, not 99999"),
        (f"collect --env {ID} --size 12345x3", 2, "--size must be from 1 to 1,024 a side, not 12345x3"),
        ("train-wm --game Pong --size 32", 2, "--render-obs and --size are for --env"),
        ("train-wm --data nothing", 1, "no experience at"),
        ("train-wm --data a*b", 2, "names no store"),
        ("train-wm --data steering", 2, "nothing says what the actions of Steering mean"),
        ("train-wm --data empty", 1, "there is no experience in"),
        ("train-wm --game Pong --data empty", 1, "holds experience with game Empty, not Pong"),
        ("train --data nothing", 1, "no experience at"),
        ("train --data driving", 2, "takes numbered actions, and those of Driving are Box(-1.0, 1.0, (2,), float32)"),
        ("collect --data nothing", 1, "no experience at"),
        ("collect --data empty", 2, "Empty cannot be played here"),
        ("evaluate-wm tiny --data nothing", 1, "there is no experience in"),
        ("evaluate-wm tiny --env Nowhere-v0", 2, "Nowhere-v0 cannot be made"),
        ("evaluate --env Nowhere-v0 --random", 2, "Nowhere-v0 cannot be made"),
        (f"evaluate --env {ID} --game Pong", 2, "--game and --env exclude each other"),
        ("evaluate --game Pong --size 32", 2, "--render-obs and --size are for --env"),
        (f"evaluate --env {ID} --data empty", 2, "--data empty holds recordings of Empty, not of Catch"),
        (
            "evaluate --data empty",
            2,
            "Empty cannot be played here by its name alone: name its environment with --env ID",
        ),
        ("evaluate --data nothing", 1, "no experience at"),
        (f"evaluate --env {ID}", 1, "no world model for 'Catch' yet"),
        (f"train-agent --env {ID} --game Pong", 2, "--game and --env exclude each other"),
        ("train-agent --env Nowhere-v0", 2, "Nowhere-v0 cannot be made"),
        ("train-agent --env Nowhere-v0 --algo ppo --real", 2, "Nowhere-v0 cannot be made"),
        ("train-agent --env Nowhere-v0 --size x", 2, "--size is a number or HEIGHTxWIDTH"),
        ("train-agent --game Pong --size 3", 2, "--size is for --env"),
        ("train-agent --data empty", 1, "no world model for 'Empty' yet"),
        ("train-agent --data empty --game Pong", 2, "--data empty holds recordings of Empty, not of Pong"),
    ],
)
def test_one_line_for_what_cannot_be(words, code, message, home, capsys):
    save_tiny_model()
    driving = About.of("Driving", (16, 16, 3), Box([-1, -1], [1, 1]))
    EpisodeStore(home / "data" / "driving", "a", driving).close()
    EpisodeStore(home / "data" / "empty", "a", About("Empty", (16, 16, 3), 2)).close()
    steering = About("Steering", (16, 16, 3), 0, action_dtype="float32", action_shape=(2,))
    EpisodeStore(home / "data" / "steering", "a", steering).close()
    command, *rest = words.split()
    preset = ["--preset", "smoke" if command == "train" else "nano", "--precision", "float32"]
    assert cli.main([command, *rest, *(preset if command.startswith("train") else [])]) == code
    said = [line for line in capsys.readouterr().err.splitlines() if line and "nothing is held out" not in line]
    assert message in " ".join(said) and (len(said) == 1 or "empty-test" in " ".join(said))


def test_where_a_store_is(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recordings(tmp_path / "here")
    assert store_folder("here") == type(tmp_path)("here"), "a store in this folder"
    assert store_folder("pong") == home / "data" / "pong"
    assert store_folder("./pong") == type(tmp_path)("pong")
    for name in ("", "a ", "x" * 200, "?"):
        with pytest.raises(BadArgument, match="names no store"):
            store_folder(name)


@pytest.mark.parametrize(
    ("kind", "name", "preset_kind", "words"),
    [
        (TrainWm, "train-wm", WORLD_MODEL, "Pong --preset paper"),
        (
            TrainWm,
            "train-wm",
            WORLD_MODEL,
            "Pong --preset nano --denoiser.no-residual --sigma.loc -1 --no-across-lives",
        ),
        (TrainWm, "train-wm", WORLD_MODEL, "--env CartPole-v1 --render-obs --size 32 --preset nano --name a --seed 4"),
        (TrainWm, "train-wm", WORLD_MODEL, "--data './my play' --preset nano --sampler.num-denoising-steps 1"),
        (Train, "train", LOOP, "Boxing --preset nano --fit.denoiser.inner-model.channels 8 16 16 --agent.horizon 9"),
        (Train, "train", LOOP, f"--env {ID} --preset smoke --temperature 0.5 --data ./x"),
    ],
)
def test_a_command_line_says_all(kind, name, preset_kind, words):
    command = cli._parse(kind, name, shlex.split(words))
    line = command_line(name, command, preset_kind)
    assert line.startswith(f"diamond-gym {name} ")
    assert cli._parse(kind, name, shlex.split(line)[2:]) == command


def test_a_preset_of_the_users_is_written_out(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('preset = "nano"\nsteps = 7\n[denoiser.inner-model]\nchannels = [8, 8, 8]\n')
    command = cli._parse(TrainWm, "train-wm", ["Pong", "--preset", str(file)])
    line = command_line("train-wm", command, WORLD_MODEL)
    assert "mine.toml" not in line and "--preset paper" in line and "--steps 7" in line
    assert cli._parse(TrainWm, "train-wm", shlex.split(line)[2:]) == replace(command, preset="paper")


def test_a_run_of_another_version_is_one_line(home, capsys):
    recordings(home / "data" / "maze")
    words = ["train-wm", "--data", "maze", *TINY]
    assert cli.main([*words, "--minutes", "1e-9"]) == 0
    run = home / "runs" / "maze-nano"
    capsys.readouterr()
    state = torch.load(run / CHECKPOINT, weights_only=True)
    del state["ema"]
    torch.save(state, run / CHECKPOINT)
    assert cli.main(words) == 1
    assert (
        "is of another version of diamond-gym, so that the run cannot go on" in capsys.readouterr().err.splitlines()[-1]
    )
    with RunFolder(home / "old") as old:
        old.settle({"fit": {"surprise": 0.5, "focus": 1}})
        old.save({"step": 1})
        with pytest.raises(BadArgument, match=r"of another version .* which had an option fit\.surprise"):
            old.settle({"fit": {"focus": 1}})
        with pytest.raises(BadArgument, match=r"of another version .* which had no option fit\.delight; name another"):
            old.settle({"fit": {"surprise": 0.5, "focus": 1, "delight": 0.0}})
        old.settle({"fit": {"surprise": 0.5, "focus": 1, "delight": None}})
