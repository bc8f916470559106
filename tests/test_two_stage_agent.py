"""DIAMOND's agent in worlds of two stages: it sees the large frames, in training as in play."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_own_agent import Watching
from test_two_stage_commands import TINY
from torch import Tensor
from two_stages import CONFIG, SIDE, store

from diamond_gym import cli
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.play.agent import OwnAgent
from diamond_gym.play.session import PlaySession
from diamond_gym.registry import load_world_model, resolve
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.imagination import Imagination, world_to_dream_in
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.policies import DreamPolicy
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.start_states import starts_for
from diamond_gym.trainers.two_stage import TwoStageTrainer
from diamond_gym.two_stage import FAST, TWO_STAGE_QUALITIES, TwoStageDream
from diamond_gym.world_model import WorldModel

ROWS, HORIZON = 3, 4
NETWORK = ActorCriticConfig(lstm_dim=8, img_size=SIDE, channels=[4, 4], down=[1, 1], num_actions=3)
FIT = AgentFitConfig(NETWORK, optimizer=OptimizerConfig(lr=1e-2, weight_decay=0, batch_size=ROWS), horizon=HORIZON)
AGENT = shlex.split(
    "--preset nano --device cpu --precision float32 --steps 24 --n-envs 2 --horizon 4 --episodes 0 "
    "--network.lstm-dim 8 --network.channels 4 4 --network.down 1 1"
)


def world(folder: Path, large_frames: int = 1) -> WorldModel:
    """A model of two stages with the weights that networks begin with, whose starts keep so many large frames."""
    inner = replace(CONFIG.upsampler.denoiser.inner_model, num_steps_conditioning=large_frames)
    denoiser = replace(CONFIG.upsampler.denoiser, inner_model=inner)
    experience = store(folder)
    config = replace(CONFIG, upsampler=replace(CONFIG.upsampler, denoiser=denoiser))
    model = TwoStageTrainer(config, experience, 1).averaged()
    for network in (model.denoiser, model.upsampler):
        assert network is not None
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():  # the zero initialisation would hide the network
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    model.starts = starts_for(model, experience)
    return model


class Onlooker(Watching):
    """It plays any dream of three actions, and writes down what it sees."""

    def forward(self, obs: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        _, val, memory = super().forward(obs, state)
        return torch.zeros(len(obs), 3), val, memory


def test_a_window_shows_the_agent_the_large_frames(tmp_path: Path) -> None:
    model, agent = world(tmp_path), Onlooker()
    dream = model.dream(ROWS, horizon=HORIZON)
    imagination = Imagination(agent, dream, seed=5)
    assert isinstance(dream, TwoStageDream) and agent.seen == [], "one large frame a start: nothing to burn in"
    window = imagination.window(HORIZON + 1)
    assert window.logits_act.shape == (ROWS, HORIZON + 1, 3)
    assert {getattr(window, name).shape for name in ("act", "val", "rew", "end", "val_bootstrap")} == {(ROWS, 5)}
    assert window.trunc[:, HORIZON - 1].all() or window.end.any()

    # The same dreams by their own steps, in the actions of the window.
    again = model.dream(ROWS, horizon=HORIZON)
    again.reset(5)
    expected = [again.obs]
    for act in window.act.unbind(1):
        step = again.step(act)
        over = step.end | step.trunc
        expected += [step.final_obs[over], step.obs] if over.any() else [step.obs]
    assert {tuple(frame.shape[1:]) for frame in expected} == {(3, SIDE, SIDE)}
    for seen, frame in zip(agent.seen, expected, strict=True):
        assert torch.equal(seen, frame)
    # A memory begins at zero where a dream begins; the rows that went on had seen every frame before.
    begun = (window.end | window.trunc)[:, :-1].any(0).nonzero().flatten().tolist()
    assert agent.ages[0] == [0.0] * ROWS and 0.0 in agent.ages[begun[0] + 2]


def test_the_large_frames_that_a_start_keeps_are_burnt_in(tmp_path: Path) -> None:
    model, agent = world(tmp_path, large_frames=2), Onlooker()
    dream = model.dream(ROWS, horizon=HORIZON)
    assert isinstance(dream, TwoStageDream)
    imagination = Imagination(agent, dream)
    assert dream.full_window is not None and dream.full_window.shape == (ROWS, 2, 3, SIDE, SIDE)
    assert len(agent.seen) == 1 and torch.equal(agent.seen[0], dream.full_window[:, 0])
    imagination.window(1)
    assert agent.ages[1] == [1.0] * ROWS

    agent.seen.clear(), agent.ages.clear()
    dream.reset(seed=1)
    before = dream.full_window[:, 0].clone()
    pixels = ((dream.obs + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    DreamPolicy(agent, dream, np.random.default_rng(0))(pixels, np.array([True, False, True]))
    assert torch.equal(agent.seen[0], before[[0, 2]]) and agent.ages == [[0, 0], [1, 0, 1]]

    agent.seen.clear(), agent.ages.clear()
    session = PlaySession(model, seed=3, agent=OwnAgent(agent))
    session.apply("act", 1)
    assert [tuple(seen.shape) for seen in agent.seen] == [(1, 3, SIDE, SIDE)] * 3
    assert agent.ages == [[0], [1], [2]], "the start's two frames, and the one after"


def fit(folder: Path, seed: int = 0) -> ActorCriticTrainer:
    trainer = ActorCriticTrainer(FIT, 6, seed)
    trainer.dream_in(world(folder).dream(ROWS, horizon=HORIZON), seed)
    return trainer


@pytest.mark.parametrize("stop_at", [0, 3])
def test_resumed_training_ends_with_the_same_bits(tmp_path: Path, stop_at: int) -> None:
    whole, first = fit(tmp_path / "store"), fit(tmp_path / "store1")
    for _ in range(whole.total_steps):
        whole.train_step()
    for _ in range(stop_at):
        first.train_step()
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        run.save(first.state_dict())
        second = fit(tmp_path / "store2", seed=5)
        second.load_state_dict(run.load())
    while second.step < second.total_steps:
        second.train_step()
    expected = whole.agent.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in second.agent.state_dict().items())


def test_a_state_of_one_stage_is_refused(tmp_path: Path) -> None:
    trainer = fit(tmp_path)
    assert trainer.imagination is not None
    state = trainer.imagination.state_dict()
    state["dream"] = {key: value for key, value in state["dream"].items() if key != "full"}
    with pytest.raises(ValueError, match="of another number of stages"):
        trainer.imagination.load_state_dict(state)


@pytest.fixture
def walk(home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A registered world of two stages."""
    store(home / "data" / "walk", factor=3), store(home / "data" / "walk-test", factor=3, seed=1)
    assert cli.main(["train-wm", "--data", "walk", *TINY, "--windows", "0"]) == 0
    capsys.readouterr()
    return "walk-two-stage-nano"


def test_from_recordings_to_an_agent(walk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train-agent", "--data", "walk", *AGENT]
    before = resolve(walk)
    plain, sampler = world_to_dream_in(before)
    assert sampler == FAST and world_to_dream_in(before, quality="quality")[1] == TWO_STAGE_QUALITIES["quality"]
    _, sampler = world_to_dream_in(before, quality="quality", sampler={"num_denoising_steps": 2})
    dynamics = SamplerConfig(num_denoising_steps=2, s_cond=0.005)
    assert sampler == replace(TWO_STAGE_QUALITIES["quality"], dynamics=dynamics)
    with pytest.raises(BadArgument, match="quality must be one of fast, quality, got 'paper'"):
        world_to_dream_in(before, quality="paper")
    assert plain.upsampler is not None and plain.obs_shape == (24, 24, 3) and plain.actor_critic is None
    assert cli.main([*words, "--minutes", "0.00001"]) == 0
    assert "repeat the command to go on" in capsys.readouterr().err
    assert cli.main([*words, "--quality", "quality", "--run", str(tmp_path / "other"), "--steps", "8"]) == 0
    assert "3 and 10 denoising steps" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert "1 and 1 denoising steps" in capsys.readouterr().err
    entry = resolve("Walk")
    assert world_to_dream_in(entry)[0].fingerprint == plain.fingerprint, "the agent changes nothing of its dreams"
    assert entry.card.actor_critic["img_size"] == 24 and entry.card.upsampler == before.card.upsampler
    facts = entry.card.training["agent"]
    assert (facts["algo"], facts["steps"], facts["windows"]) == ("diamond", 24, 3)
    assert facts["sampler"]["upsampler"]["order"] == 2 and facts["sampler"]["dynamics"]["s_cond"] == 0.005

    model = load_world_model(walk, "cpu", "float32")
    assert model.actor_critic is not None and model.actor_critic.config.frame_shape == (24, 24, 3)
    session = PlaySession(model, seed=0, agent=OwnAgent(model.actor_critic))
    assert session.apply("act", session.now.agent_action).probabilities == pytest.approx([1 / 3] * 3, abs=0.1)
    assert cli.main(["dream", "Walk", "--agent", "own", "--steps", "3", "--device", "cpu"]) == 0
    assert cli.main(["train-agent", "--data", "walk", *AGENT, "--init", walk, "--run", str(tmp_path / "more")]) == 0
    small = shlex.split("--data walk-test --windows 2 --horizon 2 --starts 1 --dreams-per-start 0 --json")
    capsys.readouterr()
    assert cli.main(["evaluate-wm", "Walk", *small]) == 0
    assert json.loads(capsys.readouterr().out)["mse_1"] > 0


def test_collecting_in_frames_of_another_size_is_one_line(walk: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train-agent", "--data", "walk", *AGENT]) == 0
    capsys.readouterr()
    assert cli.main(["collect", "--env", "DiamondGym/Catch-v0", "--agent", walk, "--steps", "4"]) == 2
    said = capsys.readouterr().err
    assert "sees frames (24, 24, 3) and has actions Discrete(3), but Catch shows (" in said and said.count("\n") == 1


def test_without_rewards_it_is_refused_in_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(home / "data" / "walk", factor=3)
    assert cli.main(["train-wm", "--data", "walk", *TINY, "--windows", "0", "--without-rewards"]) == 0
    capsys.readouterr()
    assert cli.main(["train-agent", "--data", "walk", *AGENT]) == 2
    said = capsys.readouterr().err
    assert "an agent cannot learn in walk-two-stage-nano: it has no reward model" in " ".join(said.split())
    assert len([line for line in said.splitlines() if "to score it, add --env ID" not in line]) == 1
