"""`diamond-gym train` as a user types it, on Catch and on environments of their own, with networks of a toy's size."""

import json
import os
import shlex
import signal
import sys
import time
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

import diamond_gym  # noqa: F401
from diamond_gym import cli
from diamond_gym.cli import train as train_module
from diamond_gym.cli.train import Train
from diamond_gym.data import About, EpisodeStore
from diamond_gym.registry import load_world_model, resolve
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.collect import Collector
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.held_out import HeldOut
from diamond_gym.trainers.presets import LOOP, preset_names
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.world_model import WorldModelTrainer

ID = "DiamondGym/Catch-v0"
TINY = shlex.split(
    "--preset smoke --device cpu --precision float32 --videos-every 0 --fit.denoiser.inner-model.cond-channels 8 "
    "--fit.denoiser.inner-model.channels 8 --fit.denoiser.inner-model.depths 1 "
    "--fit.denoiser.inner-model.attn-depths 0 --fit.denoiser.inner-model.patch-size 4 --fit.reward-end.lstm-dim 8 "
    "--fit.reward-end.channels 8 --fit.reward-end.depths 1 --fit.reward-end.attn-depths 0 "
    "--fit.reward-end.patch-size 4 --fit.denoiser-optimizer.batch-size 2 --fit.reward-end-optimizer.batch-size 2 "
    "--fit.reward-end-length 6 --agent.network.lstm-dim 8 --agent.network.channels 4 4 --agent.network.down 1 1 "
    "--agent.horizon 3 --agent.optimizer.batch-size 2 --first-steps 30 --first-steps-at-most 30 --steps-per-epoch "
    "10 --real-steps 60 --num-envs 2 --first-world-model-steps 3 --world-model-steps 2 --first-agent-steps 3 "
    "--agent-steps 2 --num-starts 8 --test-steps-at-most 8"
)


def train(*words, env=ID):
    return cli.main(["train", "--env", env, *TINY, *words])


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same(one, other):
    parts = [state[key] for state in (one, other) for key in ("world_model", "agent")]
    weights = [parts[0]["weights"], parts[1]["agent"], parts[2]["weights"], parts[3]["agent"]]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in
               ((weights[0], weights[2]), (weights[1], weights[3])))  # fmt: skip


def test_from_nothing_to_an_agent_and_its_dream(home, tmp_path, capsys, monkeypatch):
    inits = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **words: inits.append(words)))
    run = tmp_path / "run"
    words = ("--run", str(run), "--name", "caught", "--videos-every", "3", "--wandb")
    assert train(*words) == 0
    err = capsys.readouterr().err
    assert "epoch 0 of 3" in err and "score" in err and "registered caught" in err
    assert "whole games at the end" in err
    metrics = {key: value for line in lines(run) for key, value in line.items()}
    for key in ("denoiser/loss", "agent/policy_entropy", "test/score", "test/reward_precision", "test/end_recall",
                "speed/dreamed_frames_per_second", "final/score"):  # fmt: skip
        assert np.isfinite(metrics[key]), key
    assert -1 <= metrics["final/score"] <= 1 and metrics["test/games_over"] == 1  # a game has seven steps
    assert {path.name for path in (run / "videos").iterdir()} == {"epoch-0003-dream.mp4", "epoch-0003-real.mp4"}
    assert list(run.glob("events.out.tfevents*"))
    assert inits[0]["sync_tensorboard"] and inits[0]["config"]["epochs"] == 3

    card = resolve("caught").card
    assert (card.game, card.sampler, card.training["agent"]["windows"]) == ("Catch", {"num_denoising_steps": 1}, 7)
    assert card.training["agent"]["score"] == metrics["final/score"]
    assert "Gymnasium environment" in card.training["data"]["source"]
    assert load_world_model("caught", "cpu").actor_critic.config.num_actions == 3
    dream = gym.make("diamond_gym:DiamondDream-v0", model="caught", device="cpu")
    assert dream.reset(seed=0)[0].shape == (16, 16, 3)

    assert train(*words) == 0  # again: there is nothing left to train
    assert inits[1]["id"] == inits[0]["id"]
    assert checkpoint(run)["epoch"] == 3


def test_stopped_and_gone_on_ends_with_the_same_bits(tmp_path, capsys, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train("--run", str(whole), "--final-episodes", "0") == 0
    assert "it is not registered" in capsys.readouterr().err and (whole / "model").is_dir()
    words = ("--run", str(parts), "--final-episodes", "0", "--videos-every", "3")  # which make no difference
    for _ in range(2):  # once it has played, and after an update of the world model
        assert train(*words, "--minutes", "1e-9") == 0
        assert "stopped with epoch 0 of 3 done and the next one begun; repeat" in capsys.readouterr().err
    assert checkpoint(parts)["world_model"]["step"] == 1
    for what, name in ((WorldModelTrainer, "train_step"), (ActorCriticTrainer, "train_step"), (Collector, "_step")):
        with monkeypatch.context() as patch:
            patch.setattr(what, name, asking(getattr(what, name)))
            assert train(*words) == 130
        assert "and the next one begun; repeat" in capsys.readouterr().err
    assert train(*words) == 0
    assert same(checkpoint(whole), checkpoint(parts))


def asking(known):
    """A function before which Ctrl-C is pressed once."""
    asked = iter([True])

    def interrupting(*args, **options):
        if next(asked, False):
            os.kill(os.getpid(), signal.SIGINT)
        return known(*args, **options)

    return interrupting


class Killed(BaseException):
    """Ends a training as SIGKILL does: nobody catches it."""


PHASES = {"playing": (Collector, "_step", 1, 300), "world model": (WorldModelTrainer, "train_step", 10, 30),
          "agent": (ActorCriticTrainer, "train_step", 10, 30)}  # fmt: skip


@pytest.mark.parametrize(
    "phase", [pytest.param(phase, marks=[pytest.mark.slow] * (phase != "world model")) for phase in PHASES]
)
def test_a_kill_within_an_epoch_loses_two_minutes_at_most(phase, home, tmp_path, monkeypatch, capfd):
    """Of the first epoch in CartPole, where a step takes a second and an update ten, by a clock of its own."""
    owner, name, seconds, steps = PHASES[phase]
    words = shlex.split(f"--run {tmp_path} --render-obs --size 16 --num-envs 1 --epochs 1 --real-steps 300 "
                        "--first-steps 300 --first-steps-at-most 300 --first-world-model-steps 30 "
                        "--first-agent-steps 30 --test-every 0 --final-episodes 0")  # fmt: skip
    known, now, done = getattr(owner, name), [0.0], [0]
    left = [steps * 9 // 10]

    def slow(*args):
        if done[0] == left[0]:
            raise Killed
        result = known(*args)
        now[0] += seconds
        done[0] += 1
        return result

    monkeypatch.setattr(owner, name, slow)
    fake = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("diamond_gym.trainers.loop.time", fake)
    with pytest.raises(Killed):
        train(*words, env="CartPole-v1")
    assert left[0] * seconds > 120
    left[0] = -1
    assert train(*words, env="CartPole-v1") == 0
    assert 0 <= (done[0] - steps) * seconds <= 120, "what was done again"
    said = capfd.readouterr()
    assert "XDG" not in said.err and "pygame" not in said.out + said.err


def test_divergence_keeps_the_last_good_epoch(tmp_path, capsys, monkeypatch):
    assert train("--run", str(tmp_path), "--minutes", "1e-9") == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    step = WorldModelTrainer.train_step
    monkeypatch.setattr(
        WorldModelTrainer, "train_step", lambda fit: step(fit) | {"denoiser/loss": torch.tensor(torch.inf)}
    )
    assert train("--run", str(tmp_path)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "denoiser/loss became inf by step 3; the last good checkpoint is kept" in said
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_folder_is_one_process_and_one_trainings(tmp_path, capsys):
    assert train("--run", str(tmp_path), "--minutes", "1e-9") == 0
    with RunFolder(tmp_path):
        assert train("--run", str(tmp_path)) == 1
    assert "another process is training" in capsys.readouterr().err
    assert train("--run", str(tmp_path), "--agent.loss.gamma", "0.9") == 2
    assert "was begun with loop" in capsys.readouterr().err
    (tmp_path / "checkpoint.pt").write_bytes(b"rubbish")
    assert train("--run", str(tmp_path)) == 1
    assert "not a readable checkpoint" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_has_not_begun(tmp_path, capsys, monkeypatch):
    """A command that was refused, or killed in its first play, keeps neither its folder nor what it played."""
    run, words = tmp_path / "run", ("--epochs", "1", "--test-every", "0", "--final-episodes", "0")
    assert train("--run", str(run), *words, "--seed", "5", "--finish") == 2
    assert "no finished epoch" in capsys.readouterr().err
    monkeypatch.setattr(WorldModelTrainer, "train_step", fail)
    with pytest.raises(RuntimeError):
        train("--run", str(run), *words, "--seed", "6")
    assert EpisodeStore(run / "experience").about.game == "Catch"
    monkeypatch.undo()
    monkeypatch.setenv("DIAMOND_GYM_HOME", str(tmp_path / "home"))
    grey = ("--render-obs", "--size", "16")
    assert train("--run", str(run), *words, *grey, "--test-every", "1", env="CartPole-v1") == 0
    fresh = tmp_path / "fresh"
    assert train("--run", str(fresh), *words, *grey, "--test-every", "1", env="CartPole-v1") == 0
    for store in ("experience", "test-experience"):
        one, other = EpisodeStore(run / store), EpisodeStore(fresh / store)
        assert one.about.game == other.about.game == "CartPole"
        assert [episode.act.tolist() for episode in one] == [episode.act.tolist() for episode in other]
    assert same(checkpoint(run), checkpoint(fresh))
    capsys.readouterr()
    assert train("--run", str(run), *words) == 2
    assert "was begun with env = CartPole-v1" in capsys.readouterr().err


def test_a_run_does_not_learn_from_a_folder_that_it_clears(tmp_path, capsys):
    run, episodes = tmp_path / "run", tmp_path / "run" / "experience"
    assert train("--run", str(run), "--minutes", "1e-9") == 0
    (run / "checkpoint.pt").unlink()  # as one begins a run anew
    before = EpisodeStore(episodes).num_steps
    assert train("--run", str(run), "--data", str(episodes)) == 2
    assert f"is what the run in {run} has played: name another --run" in capsys.readouterr().err
    assert EpisodeStore(episodes).num_steps == before > 0


MODULE = """
import gymnasium as gym, numpy as np
class Grey(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (20, 30, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observation_space.sample() // 2, {}
    def step(self, act):
        self.time += 1
        return self.observation_space.sample() // 2, float(act), self.time == 5, False, {}
class Sized(Grey):
    def __init__(self, side):
        self.observation_space = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
gym.register("Mine/Grey-v3", Grey)
for side in (7, 50):
    gym.register(f"Mine/Side{side}-v0", Sized, kwargs={"side": side})
"""


def test_an_environment_of_the_users_own(home, tmp_path, monkeypatch):
    (tmp_path / "my_games.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("--epochs", "1", "--test-every", "0", "--final-episodes", "1")
    assert train(*words, "--name", "grey", "--size", "16", env="my_games:Mine/Grey-v3") == 0
    card = resolve("Grey").card
    assert (card.name, card.obs_shape, card.num_actions) == ("grey", (16, 16, 3), 2)
    assert (home / "runs" / "grey-diamond-smoke" / "checkpoint.pt").exists()


@pytest.mark.parametrize("side", [7, 50])
def test_frames_that_patches_and_levels_do_not_divide(side, tmp_path, monkeypatch):
    (tmp_path / "my_games.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    deep = shlex.split("--agent.network.channels 4 4 4 4 --agent.network.down 1 1 1 1")  # the default's halvings
    words = ("--epochs", "1", "--test-every", "0", "--final-episodes", "1", "--name", "odd", *deep)
    assert train(*words, env=f"my_games:Mine/Side{side}-v0") == 0
    dream = gym.make("DiamondDream-v0", model="odd", device="cpu")
    assert dream.reset(seed=0)[0].shape == dream.step(1)[0].shape == (side, side, 3)


def test_finished_before_its_end(home, tmp_path, capsys, monkeypatch):
    words = ("--run", str(tmp_path / "run"), "--name", "early")
    assert train(*words, "--finish") == 2
    assert "no finished epoch" in (err := capsys.readouterr().err) and err.count("error") <= 1
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="after the first epoch"):
        patch.setattr(train_module.EpochTable, "line", fail)
        train(*words)
    step = checkpoint(tmp_path / "run")["world_model"]["step"]
    assert train(*words, "--finish") == 0
    card = resolve("early").card
    assert card.training["epochs"] == 1 and card.training["steps"] == step == 3
    assert card.summary.endswith("It was finished after 1 of 3 epochs.") and "--finish" not in card.source
    assert "score" in card.training["agent"]
    assert train(*words) == 0, "it can still be trained to its end"
    assert resolve("early").card.training["epochs"] == 3


def test_registers_the_epoch_of_the_best_test(tmp_path, capsys, monkeypatch):
    scores = iter([1.0, 3.5, 2.0])
    monkeypatch.setattr(HeldOut, "measure", lambda *_: {"test/score": next(scores)})
    assert train("--run", str(tmp_path / "run"), "--name", "best", "--register-best", "--final-episodes", "1") == 0
    assert "epoch 2 had the best test score, 3.50" in capsys.readouterr().err
    card, last = resolve("best").card, checkpoint(tmp_path / "run")
    assert card.summary.endswith("It is of epoch 2 of 3, whose test had the best score.")
    assert (card.training["epochs"], card.training["test_score"]) == (2, 3.5)
    assert card.training["steps"] == last["best"]["counts"]["updates"] < last["world_model"]["step"]
    assert card.training["data"]["steps"] == last["best"]["counts"]["steps"]
    assert card.training["data"]["steps"] < EpisodeStore(tmp_path / "run" / "experience").num_steps


def fail(*_):
    raise RuntimeError("after the first epoch")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--game", "Brakout"], "did you mean Breakout?"),
        ([], "say what to learn"),
        (["--game", "Pong", "--env", ID], "--game and --env exclude each other"),
        (["--game", "Pong", "--render-obs"], "are for --env"),
        (["--env", "CartPole-v1"], "--render-obs takes its rendered picture instead"),
        (["--env", "NoSuch-v0"], "NoSuch-v0 cannot be made"),
        (["--env", ID, "--preset", "nanoo"], "did you mean nano"),
        (["--env", ID, "--minutes", "0"], "--minutes must be more than 0"),
        (["--env", ID, "--epochs", "0"], "--epochs must be at least 1, not 0"),
        (["--env", ID, "--fit.denoiser.inner-model.num-extra-images", "1"], "must be 0, not 1: leave it out"),
        (["--env", ID, "--agent.network.num-actions", "9"], "must be 3, not 9: leave it out"),
        (["--env", ID, "--agent.horizon", "0"], "--horizon must be at least 1, not 0"),
        (["--env", ID, "--epsilon", "2"], "--epsilon must be from 0 to 1"),
        (["--env", ID, "--temperature", "0"], "--temperature must be more than 0"),
        (["--env", ID, "--seed", "-1"], "must be at least 0"),
    ],
)
def test_one_line_for_what_is_wrong(words, message, capsys):
    assert cli.main(["train", "--preset", "smoke", "--precision", "float32", *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_preset_of_a_file_is_refused_what_an_option_is(tmp_path, capsys, home):
    (tmp_path / "mine.toml").write_text('preset = "smoke"\n[fit.reward-end]\nimg-size = 32\n')
    assert cli.main(["train", "--env", ID, "--preset", str(tmp_path / "mine.toml"), "--precision", "float32"]) == 2
    said = capsys.readouterr().err
    assert "--reward-end.img-size follows from the world and must be 16, not 32" in said and said.count("\n") == 1
    assert not (home / "runs").exists()


def test_wandb_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train("--run", str(tmp_path), "--wandb") == 1
    assert "pip install 'diamond-gym[wandb]'" in capsys.readouterr().err


def parse(*words, game="Pong"):
    return cli._parse(Train, "train", [game, *words])


def test_presets_parse_and_the_papers_is_the_papers():
    parsed = {name: parse("--preset", name) for name in preset_names(LOOP)}
    assert set(parsed) == {"nano", "nano-gpu", "paper", "smoke"}
    assert parsed["paper"].loop == DiamondConfig()
    assert parsed["nano"].loop.fit.denoiser.inner_model.patch_size == 2  # the networks of train-wm's preset
    assert parsed["nano"].loop.agent.network.lstm_dim == 256  # and of train-agent's
    assert parsed["nano-gpu"].loop.fit.denoiser.inner_model == parsed["nano"].loop.fit.denoiser.inner_model
    assert parsed["smoke"].loop.fit.denoiser_optimizer.batch_size == 8


def test_the_users_options_come_on_top():
    loop = parse("--preset", "nano", "--fit.denoiser.inner-model.channels", "8", "16", "16", "--fit.focus", "0.25",
                 "--temperature", "0.5", "--fit.denoiser_optimizer.lr=0.5", "--agent.horizon", "9").loop  # fmt: skip
    assert loop.fit.denoiser.inner_model.channels == [8, 16, 16]
    assert (loop.fit.focus, loop.temperature, loop.agent.horizon) == (0.25, 0.5, 9)
    assert loop.fit.denoiser_optimizer.lr == 0.5


@pytest.mark.parametrize(("words", "game", "temperature"), [
    ([], "Freeway", 0.01), (["--temperature", "0.3"], "Freeway", 0.3), ([], "Pong", 1.0),
])  # fmt: skip
def test_freeway_is_explored_at_a_lower_temperature(words, game, temperature):
    about = About(game, (64, 64, 3), 3)
    assert parse("--preset", "paper", *words, game=game).loop.for_game(about).temperature == temperature
