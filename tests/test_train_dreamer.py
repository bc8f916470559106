"""`train-agent --algo diamond`: the agent learns in a registered model's dreams, resumes, and is registered with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stubs import ACTIONS, save_tiny_model
from test_evaluate import Games

from diamond_gym import cli
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.registry import load_world_model, resolve, save_model
from diamond_gym.registry.loading import read_model
from diamond_gym.starts import StartBank
from diamond_gym.trainers import evaluate
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.presets import AGENT, preset_names, preset_table

TINY = (
    *("train-agent", "--game", "Breakout", "--preset", "nano", "--device", "cpu", "--precision", "float32"),
    *("--n-envs", "2", "--horizon", "3", "--network.lstm-dim", "8", "--network.channels", "4", "4", "--network.down"),
    *("1", "1", "--episodes", "0", "--optimizer.warmup-steps", "1"),
)
WINDOW = 6


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """A model, and stubs in place of the real games."""
    save_tiny_model()
    monkeypatch.setattr(evaluate, "real_games", lambda game, n, limit=None: Games(n, side=16))


def train(*words):
    return cli.main([*TINY, *words])


def agent(name="tiny"):
    return {key: value for key, value in read_model(resolve(name))[1].items() if key.startswith("actor_critic.")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_trains_registers_and_scores(home, capsys):
    assert train("--steps", "20", "--episodes", "4") == 0
    out, err = capsys.readouterr()
    assert "tiny" in out and "random" in out and "registered the agent with tiny" in err
    card = resolve("Breakout").card
    facts = card.training["agent"]
    assert (facts["windows"], facts["steps"], facts["horizon"], facts["episodes"]) == (4, 24, 3, 4)
    assert facts["score"] > 0 and facts["sampler"]["num_denoising_steps"] == 2
    model = load_world_model("tiny", "cpu")
    assert model.actor_critic.config.num_actions == 4 and model.actor_critic.config.img_size == 16
    assert all(value.dtype == torch.float16 for value in agent().values())
    lines = [json.loads(line) for line in (home / "runs/tiny-agent-nano/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4 and "agent/lambda_return" in lines[-1]


def test_goes_on_to_the_same_bits(tmp_path, capsys):
    assert train("--steps", str(4 * WINDOW), "--run", str(tmp_path / "whole")) == 0
    whole = agent()
    parts = ("--run", str(tmp_path / "parts"))
    assert train("--steps", str(4 * WINDOW), "--minutes", "1e-9", *parts) == 0
    assert "stopped at window 1 of 4; repeat" in capsys.readouterr().err
    assert not same(agent(), whole)  # what there was is registered
    assert train("--steps", str(2 * WINDOW), *parts) == 0  # in a model that has been written anew with its agent
    assert train("--steps", str(4 * WINDOW), *parts) == 0
    assert same(agent(), whole)


def test_a_run_keeps_its_options(tmp_path, capsys):
    run = ("--run", str(tmp_path), "--steps", "6")
    assert train(*run) == 0
    assert train(*run, "--loss.gamma", "0.9") == 2
    assert "was begun with fit" in capsys.readouterr().err
    save_tiny_model(seed=1)  # another model of the same name
    assert train(*run) == 2
    assert "was begun with world_model" in capsys.readouterr().err


def test_scores_on_the_way(tmp_path):
    assert train("--run", str(tmp_path), "--steps", "18", "--score-minutes", "1e-9") == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("real/score" in line for line in lines) >= 2


def test_begins_with_another_agent(tmp_path, capsys):
    save_tiny_model("other", seed=2)
    assert train("--model", "tiny", "--run", str(tmp_path / "a"), "--init", "other", "--steps", "6") == 2
    assert "other has no agent to begin with" in capsys.readouterr().err
    assert train("--model", "other", "--steps", "60") == 0
    learnt = agent("other")
    words = ("--model", "tiny", "--run", str(tmp_path / "b"), "--init", "other")
    assert train(*words, "--steps", "6", "--optimizer.lr", "0") == 0
    assert same(agent(), learnt)


def test_divergence_keeps_the_checkpoint(tmp_path, capsys, monkeypatch):
    assert train("--run", str(tmp_path), "--steps", "12") == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    step = ActorCriticTrainer.train_step

    def poisoned(fit):
        if fit.step == 4:
            next(fit.agent.parameters()).data.fill_(torch.nan)
        return step(fit)

    monkeypatch.setattr(ActorCriticTrainer, "train_step", poisoned)
    assert train("--run", str(tmp_path), "--steps", "60") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "became nan by step" in said and "the last good checkpoint is kept" in said
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_command_that_was_refused_does_not_keep_its_folder(tmp_path, capsys):
    save_tiny_model("blank")
    words = ("--run", str(tmp_path / "run"), "--steps", "6", "--model", "tiny")
    assert train(*words, "--init", "blank") == 2
    assert "begun" not in (said := capsys.readouterr().err) and "blank" in said
    assert train(*words, "--seed", "3") == 0
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["init"] is None
    assert train(*words, "--seed", "4") == 2
    assert "was begun with seed = 3, not 4" in capsys.readouterr().err


def test_a_model_without_rewards_is_refused(capsys):
    entry, weights, starts = read_model(resolve("tiny"))
    kept = {key: value for key, value in weights.items() if key.startswith("denoiser.")}
    save_model(replace(entry.card, name="blind", reward_end=None), kept, starts)
    assert train("--model", "blind", "--steps", "6") == 2
    assert "no reward model, so nothing is rewarded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--frame-stack", "2"), "--frame-stack is for --algo ppo, a2c, dqn and sac"),
        (("--real",), "--real is for --algo ppo"),
        (("--horizon", "0"), "--horizon must be at least 1, not 0"),
        (("--network.img-channels", "1"), "--network.img-channels follows from the world and must be 3, not 1"),
        (("--optimizer.batch-size", "0"), "batch_size must be more than 0, not 0"),
        (("--preset", "nanoo"), "did you mean nano"),
        (("--num-denoising-steps", "0"), "--num-denoising-steps must be at least 1"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_one_line_for_what_is_wrong(words, message, capsys):
    assert train(*words) != 0
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_network_that_does_not_fit_together_is_said_by_the_parser(capsys):
    assert train("--network.down", "1", "0", "1") == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").replace("|", " ").split())
    assert "fit.network: these lists describe the same levels, but channels has 2, down has 3" in said


def test_sb3_takes_no_flags_of_diamonds(capsys):
    assert cli.main(["train-agent", "--game", "Breakout", "--algo", "ppo", "--optimizer.lr", "1"]) == 2
    assert "is for --algo diamond, not for ppo" in capsys.readouterr().err


def test_presets_parse_and_the_papers_is_the_papers():
    from diamond_gym.cli.train_agent import TrainAgent

    parsed = {}
    for name in preset_names(AGENT):
        parsed[name] = cli._parse(TrainAgent, "train-agent", ["Pong", "--preset", name])
    assert set(parsed) == {"nano", "paper"}
    assert parsed["paper"].fit == AgentFitConfig()
    assert parsed["paper"].steps == 405_000 * 15 * 32
    assert parsed["nano"].fit.network.lstm_dim == preset_table("nano", AGENT)["network"]["lstm-dim"]


def recordings(folder, shade, shape=(16, 16, 3)):
    """A store of one episode whose frames are all of one shade of grey."""
    end = np.arange(9) == 8
    with EpisodeStore(folder, "a", About("Breakout", shape, ACTIONS)) as store:
        store.append(Episode(np.full((10, *shape), shade, np.uint8), np.arange(9) % ACTIONS, end=end))
    return str(folder)


@pytest.fixture
def begun(monkeypatch):
    """The last frames of all starts that dreams are given."""
    seen, init = [], StartBank.__init__

    def spy(bank, starts, *rest):
        seen.append(starts.obs[:, -1])
        init(bank, starts, *rest)

    monkeypatch.setattr(StartBank, "__init__", spy)
    return seen


@pytest.mark.parametrize("algo", ["diamond", "ppo"])
def test_dreams_begin_from_recordings(algo, tmp_path, begun, capsys):
    save_tiny_model(size=64)
    data = recordings(tmp_path / "mine", 77, (64, 64, 3))
    words = [*TINY, *("--network.down", "1", "1", "--steps", "12")]
    if algo == "ppo":
        words = ["train-agent", "--algo", "ppo", "--n-envs", "2", "--device", "cpu", "--episodes", "0", "--steps", "16"]
        words = [*words, "--register", "--out", str(tmp_path / "agent.zip")]
    words = [*words, "--run", str(tmp_path / "run"), "--data", data]
    assert cli.main(words) == 0
    assert resolve("Breakout").card.training["agent"]["data"] == "mine"
    assert (begun[-1] == 77).all() and len(begun[-1]) == 5461, "256 MB of four frames each"
    assert cli.main([*words[:-1], str(Path(data).parent / "." / "mine")]) == 0, "the same folder, written otherwise"
    other = recordings(tmp_path / "other", 78, (64, 64, 3))
    capsys.readouterr()
    assert cli.main([*words, "--data", other]) == 2
    assert "begun with data" in capsys.readouterr().err


def test_recordings_that_do_not_fit(tmp_path, capsys):
    for name, shape in (("small", (8, 8, 3)), ("grey", (16, 16, 1))):
        assert train("--data", recordings(tmp_path / name, 1, shape)) == 2
        assert "holds other frames or actions than those of the world model" in capsys.readouterr().err
    assert train("--data", str(tmp_path / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err
