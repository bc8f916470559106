"""A model's own agent: how it plays in dreams and in the real game, as called and as typed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stubs import ACTIONS, make_starts, save_tiny_model, tiny_networks
from test_agents import CONFIG, an_agent
from test_evaluate import Games

from diamond_gym import cli
from diamond_gym.envs import DreamVectorEnv
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.registry import load_world_model, resolve, with_agent
from diamond_gym.sb3 import make_dream_vec_env
from diamond_gym.trainers import evaluate
from diamond_gym.trainers.policies import AgentPolicy, DreamPolicy, own_agent
from diamond_gym.world_model import WorldModel


@pytest.fixture
def tiny() -> str:
    """A registered model with an agent."""
    save_tiny_model()
    return with_agent(resolve("tiny"), asdict(CONFIG), an_agent().state_dict(), {"windows": 3}).name


@pytest.fixture
def games(monkeypatch: pytest.MonkeyPatch) -> None:
    """Games of the tiny model's size in place of the real ones; row i plays i + 1, i + 2, ... steps of reward 1."""
    monkeypatch.setattr(evaluate, "real_games", lambda game, n, limit=None: Games(n, side=16))


class Watching(ActorCritic):
    """An agent that writes down what it sees, and remembers how many frames it has seen."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.seen: list[torch.Tensor] = []
        self.ages: list[list[float]] = []

    def forward(self, obs, state):  # type: ignore[no-untyped-def]
        self.seen.append(obs)
        self.ages.append(state[0][:, 0].tolist())
        return torch.zeros(len(obs), ACTIONS), torch.zeros(len(obs)), (state[0] + 1, state[1])


def test_a_dreams_earlier_frames_are_seen_first() -> None:
    denoiser, reward_end = tiny_networks()
    model, agent = WorldModel(denoiser, reward_end, starts=make_starts(size=16)), Watching()
    dream = model.dream(2, horizon=2, seed=0)
    dream.reset()
    policy = DreamPolicy(agent, dream, np.random.default_rng(0))
    window = dream.obs_window
    assert window is not None
    pixels = ((dream.obs + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    act = policy(pixels, np.ones(2, bool))
    assert act.shape == (2,)
    assert act.dtype == np.int64
    for seen, frame in zip(agent.seen, window.unbind(1), strict=True):
        torch.testing.assert_close(seen, frame, rtol=0, atol=1e-6)
    assert agent.ages == [[0, 0], [1, 1], [2, 2], [3, 3]]
    agent.ages.clear()
    policy(pixels, np.array([False, True]))  # row 1 begins anew, row 0 goes on
    assert agent.ages == [[0], [1], [2], [4, 3]]
    agent.ages.clear()
    policy(pixels, np.zeros(2, bool))
    assert agent.ages == [[5, 4]]


def test_it_plays_in_dreams_as_its_policy_says(tiny: str) -> None:
    model = load_world_model(tiny, "cpu", "float32")
    agent = own_agent(model)
    with torch.no_grad():
        agent.actor_linear.weight.zero_()
        agent.actor_linear.bias.copy_(torch.tensor([-50.0, 50.0, -50.0, -50.0]))
    envs = DreamVectorEnv(model=model, num_envs=3, autoreset_mode="SameStep")
    obs, _ = envs.reset(seed=0)
    policy = DreamPolicy(agent, envs.dream, np.random.default_rng(0))
    assert policy(obs, np.ones(3, bool)).tolist() == [1, 1, 1]
    envs.close()


def test_a_model_without_one() -> None:
    save_tiny_model()
    with pytest.raises(ModelNotFound, match="'tiny' has no agent of its own: train one with `diamond-gym train-agent"):
        own_agent(load_world_model("tiny", "cpu"))
    denoiser, _ = tiny_networks()
    with pytest.raises(ModelNotFound, match="has no agent"):
        own_agent(WorldModel(denoiser))


def test_scores_of_full_games(games: None) -> None:
    agent = an_agent()
    played = evaluate.score_agent(agent, "Breakout", 5, num_envs=2)
    assert played.scores == (1, 2, 3, 2, 3)
    assert evaluate.score_agent(agent, "Breakout", 5, num_envs=9, deterministic=True).scores == (
        1,
        2,
        3,
        4,
        5,
    )
    other = ActorCritic(ActorCriticConfig(8, 3, 16, [8], [1], num_actions=ACTIONS + 1))
    with pytest.raises(BadArgument, match=r"has 5 actions, but Breakout shows \(16, 16, 3\) and has 4"):
        evaluate.score_agent(other, "Breakout", 5)


def test_a_temperature_divides_the_logits(
    tiny: str, games: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[float] = []

    class Policy(AgentPolicy):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self._temperature)

    monkeypatch.setattr(evaluate, "AgentPolicy", Policy)
    words = ["evaluate", "--model", tiny, "--episodes", "2", "--device", "cpu"]
    for more in ([], ["--temperature", "0.5"], ["--deterministic"]):
        assert cli.main([*words, *more]) == 0
    assert made[:2] == [1.0, 0.5] and 0 < made[2] < 1e-3


def test_evaluate_as_typed(tiny: str, games: None, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--game", "Breakout"], ["--model", tiny], ["--agent", "own", "--game", "Breakout", "--random"]):
        assert cli.main(["evaluate", *words, "--episodes", "3", "--n-envs", "2", "--json", "--device", "cpu"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [(row["policy"], row["game"]) for row in rows] == [
            ("the agent of tiny", "Breakout"),
            ("random", "Breakout"),
        ]
        assert [row["scores"] for row in rows] == [[1, 2, 2]] * 2
    assert cli.main(["evaluate", "--game", "Breakout", "--random", "--episodes", "3", "--json"]) == 0
    assert [row["policy"] for row in json.loads(capsys.readouterr().out)] == ["random"]


def test_dream_as_typed(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dream", "--game", "Breakout", "--steps", "5", "--num-envs", "2", "--max-episode-steps", "3"]
    assert cli.main([*words, "--agent", "own", "--out", str(tmp_path / "own.gif")]) == 0
    assert "10 frames in" in capsys.readouterr().out
    frames = iio.imread(tmp_path / "own.gif")
    assert cli.main([*words, "--agent", "own", "--out", str(tmp_path / "again.gif")]) == 0
    np.testing.assert_array_equal(iio.imread(tmp_path / "again.gif"), frames)


def test_an_agent_of_stable_baselines_dreams_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_model(size=36)
    envs = make_dream_vec_env("DiamondDream-v0", 2, model="tiny", device="cpu")
    PPO("CnnPolicy", envs, n_steps=4, batch_size=4, device="cpu").save(tmp_path / "agent.zip")
    words = ["dream", "--game", "Breakout", "--steps", "3", "--num-envs", "2"]
    assert cli.main([*words, "--agent", str(tmp_path / "agent.zip")]) == 0
    assert "6 frames in" in capsys.readouterr().out
    save_tiny_model("other")
    assert cli.main(["dream", "--model", "other", "--agent", str(tmp_path / "agent.zip")]) == 2
    assert "36×36" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["dream", "--game", "Breakout", "--agent", "own"], 1, "no agent of its own: train one"),
        (["dream", "--game", "Breakout", "--agent", "mine"], 2, "--agent must be own or an agent's .zip, not mine"),
        (["dream", "--game", "Breakout", "--agent", "no.zip"], 1, "there is no agent at no.zip"),
        (["evaluate", "--game", "Breakout"], 1, "no agent of its own: train one"),
        (["evaluate", "--agent", "own"], 2, "say which game"),
        (["evaluate", "--game", "Pong", "--model", "tiny"], 2, "tiny dreams Breakout, not Pong"),
        (["evaluate", "--agent", "a.zip", "--model", "tiny"], 2, "--model is for the world model's own agent"),
    ],
)
def test_one_line_for_what_is_wrong(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model()
    assert cli.main(words) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_model_of_another_game(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--game", "Pong", "--model", tiny]) == 2
    assert "tiny dreams Breakout, not Pong" in capsys.readouterr().err
