"""Scoring agents in whole games: which games count, what a file may be, and that no pickle is opened unasked."""

import json
import zipfile
from itertools import count

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.vec_env import VecFrameStack
from stubs import ACTIONS, StubWorldModel

from diamond_gym import cli
from diamond_gym.actions import Discrete
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.sb3 import make_dream_vec_env
from diamond_gym.trainers import evaluate
from diamond_gym.trainers.evaluate import Scores, play
from diamond_gym.trainers.policies import StickyPolicy
from diamond_gym.trainers.sb3_files import SavedAgent, open_agent

SIDE = 36  # the least that SB3's CnnPolicy takes


class Games(VectorEnv):
    """Row i plays games of i + 1, i + 2, ... steps; each step pays 1."""

    def __init__(self, num_envs: int, side: int = SIDE, actions: int = ACTIONS) -> None:
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.single_action_space = gym.spaces.Discrete(actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.lengths = [count(i + 1) for i in range(num_envs)]
        self.seeds = []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.left = np.array([next(length) for length in self.lengths])
        return self.observation_space.sample(), {}

    def step(self, actions):
        assert self.action_space.contains(actions)
        self.left -= 1
        over = self.left == 0
        self.left[over] = [next(self.lengths[i]) for i in np.flatnonzero(over)]
        cut = over & (np.arange(self.num_envs) == 2)  # the games of row 2 are always cut short
        return self.observation_space.sample(), np.ones(self.num_envs), over & ~cut, cut, {}


def trained(algorithm=PPO, stack=2, side=SIDE, **kwargs):
    envs = make_dream_vec_env("DiamondDream-v0", 2, model=StubWorldModel(size=side))
    kwargs = {PPO: {"n_steps": 8, "batch_size": 8}, DQN: {"buffer_size": 8}}.get(algorithm, {}) | kwargs
    policy = kwargs.pop("policy", "CnnPolicy")
    return algorithm(policy, VecFrameStack(envs, stack), seed=0, device="cpu", **kwargs)


def test_each_row_plays_its_share_whatever_ends_first():
    firsts, done = [], []
    policy = StickyPolicy(ACTIONS, np.zeros(3), np.random.default_rng(0))

    def watching(obs, first):
        firsts.append(first.copy())
        return policy(obs, first)

    envs = Games(3)
    scores = play(watching, envs, "Breakout", 7, seed=5, progress=done.append)
    assert scores.scores == (1, 2, 3, 2, 3, 3, 4)  # rows of 3, 2 and 2 games
    assert scores.lengths == (1, 2, 3, 2, 3, 3, 4)
    assert scores.truncated == 2
    assert envs.seeds == [5]
    assert firsts[0].all()
    assert [bool(first[0]) for first in firsts] == [True, True, False, True, False, False, True]
    assert done[-1] == 7
    with pytest.raises(BadArgument, match="3 rows cannot share 2 games"):
        play(policy, Games(3), "Breakout", 2)


def test_statistics():
    scores = Scores("Breakout", tuple(np.random.default_rng(0).normal(16, 4, 200)), (10,) * 200)
    low, high = scores.interval()
    assert low < scores.mean < high
    # for a bell, the percentiles of resampled means are those of the normal approximation
    half = 1.96 * scores.std / 200**0.5
    assert np.allclose([low, high], [scores.mean - half, scores.mean + half], atol=0.1)
    assert scores.interval() == (low, high)
    assert scores.human_normalised == pytest.approx((scores.mean - 1.7) / (30.5 - 1.7))
    assert json.loads(json.dumps(scores.table()))["mean_length"] == 10
    single = Scores("Pong", (-21.0,), (800,))
    assert (single.mean, single.std, single.interval()) == (-21, None, None)


def test_the_random_policy_is_uniform():
    policy = StickyPolicy(4, np.zeros(1000), np.random.default_rng(1))
    act = policy(np.zeros((1000, 1, 1, 3), np.uint8), np.zeros(1000, bool))
    assert np.bincount(act, minlength=4).min() > 200


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN], ids=lambda a: a.__name__)
def test_an_opened_agent_plays_as_sb3_does(algorithm, tmp_path, monkeypatch):
    """Frames are stacked as in training, and the actions are those of the algorithm that was saved."""
    monkeypatch.setattr("cloudpickle.loads", None)  # opening needs none
    agent = trained(algorithm)
    agent.save(tmp_path / "agent.zip")
    opened = open_agent(tmp_path / "agent.zip", device="cpu")
    assert (opened.channels, opened.size, opened.codec.num_inputs, opened.card) == (6, (SIDE, SIDE), ACTIONS, None)
    playing = opened.playing(3, deterministic=True)
    envs = make_dream_vec_env("DiamondDream-v0", 3, model=StubWorldModel(size=SIDE), max_episode_steps=4)
    stacked = VecFrameStack(envs, 2)
    envs.seed(3)
    seen, first = stacked.reset(), np.ones(3, bool)
    for _ in range(12):
        expected, _ = agent.predict(seen, deterministic=True)
        act = playing(seen[..., 3:], first)
        np.testing.assert_array_equal(playing._seen, seen)
        np.testing.assert_array_equal(act, expected)
        seen, _, first, _ = stacked.step(act)


def test_sampled_actions(tmp_path):
    trained(DQN).save(tmp_path / "dqn.zip")
    opened = open_agent(tmp_path / "dqn.zip")
    opened = SavedAgent(**{**vars(opened), "epsilon": 1.0})
    obs, first = np.zeros((64, SIDE, SIDE, 3), np.uint8), np.ones(64, bool)
    assert len(set(opened.playing(64)(obs, first))) == ACTIONS
    assert len(set(opened.playing(64, deterministic=True)(obs, first))) == 1
    np.testing.assert_array_equal(opened.playing(64, seed=4)(obs, first), opened.playing(64, seed=4)(obs, first))
    trained(PPO).save(tmp_path / "ppo.zip")
    torch.manual_seed(0)
    assert len(set(open_agent(tmp_path / "ppo.zip").playing(64)(obs, first))) == ACTIONS


def test_recurrent_agents_remember(tmp_path):
    contrib = pytest.importorskip("sb3_contrib")
    kwargs = {"policy": "CnnLstmPolicy", "n_steps": 8, "batch_size": 8, "policy_kwargs": {"lstm_hidden_size": 8}}
    agent = trained(contrib.RecurrentPPO, **kwargs)
    agent.save(tmp_path / "agent.zip")
    playing = open_agent(tmp_path / "agent.zip", device="cpu").playing(2, deterministic=True)
    rng, memory = np.random.default_rng(0), None
    seen = np.zeros((2, SIDE, SIDE, 6), np.uint8)
    for t in range(5):
        obs, first = rng.integers(0, 256, (2, SIDE, SIDE, 3), np.uint8), np.array([t == 0, t in (0, 3)])
        seen[first] = 0
        seen = np.concatenate((seen[..., 3:], obs), axis=-1)
        expected, memory = agent.predict(seen, memory, first, deterministic=True)
        np.testing.assert_array_equal(playing(obs, first), expected)
        np.testing.assert_allclose(playing._memory[0], memory[0], rtol=1e-5)


class Mine(ActorCriticCnnPolicy):
    pass


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_pickles_stay_closed_unless_trusted(tmp_path):
    path = tmp_path / "agent.zip"
    trained(policy=Mine).save(path)
    with pytest.raises(DiamondGymError, match=r"--trust-pickles"):
        open_agent(path)
    assert isinstance(open_agent(path, trust_pickles=True).policy, Mine)
    trained(policy_kwargs={"activation_fn": torch.nn.Tanh}).save(path)
    with pytest.raises(DiamondGymError, match=r"--trust-pickles"):
        open_agent(path)
    assert open_agent(path, trust_pickles=True).policy.activation_fn is torch.nn.Tanh
    agent = trained()
    agent.tensorboard_log = Bomb()
    agent.save(path)
    open_agent(path)
    with pytest.raises(pytest.fail.Exception):
        open_agent(path, trust_pickles=True)


def rewritten(path, name, content):
    with zipfile.ZipFile(path) as archive:
        parts = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (parts | {name: content}).items():
            archive.writestr(member, data)


def test_files_that_are_no_agents(tmp_path):
    path = tmp_path / "agent.zip"
    with pytest.raises(DiamondGymError, match="there is no agent at"):
        open_agent(path)
    for content in (b"", b"not a zip", b"PK\x03\x04 nearly"):
        path.write_bytes(content)
        with pytest.raises(DiamondGymError, match="not an agent saved by Stable-Baselines3"):
            open_agent(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
    with pytest.raises(DiamondGymError, match="not an agent saved by Stable-Baselines3"):
        open_agent(path)
    trained().save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:40_000] + b"\0" * 40_000 + whole[80_000:]):
        path.write_bytes(content)
        with pytest.raises(DiamondGymError, match="not an agent saved by Stable-Baselines3") as error:
            open_agent(path)
        assert "\n" not in str(error.value)
    for name, content in (("data", b"[1, 2]"), ("policy.pth", b"abc"), ("diamond_gym.json", b"{}")):
        path.write_bytes(whole)
        rewritten(path, name, content)
        with pytest.raises(DiamondGymError, match="not an agent saved by Stable-Baselines3"):
            open_agent(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        table = json.loads(archive.read("data"))
    rewritten(path, "data", json.dumps(table | {"action_space": {"n": "9"}}))
    with pytest.raises(DiamondGymError, match="weights of another policy"):
        open_agent(path)
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(path)
    with pytest.raises(DiamondGymError, match="does not play from images"):
        open_agent(path)


def test_agents_of_other_games(tmp_path):
    path = tmp_path / "agent.zip"
    trained().save(path)
    agent = open_agent(path)
    agent.check("Breakout", (SIDE, SIDE, 3), Discrete(ACTIONS))
    with pytest.raises(BadArgument, match="sees frames of 36×36 with 6 channels, but Pong shows 64×64×3"):
        agent.check("Pong", (64, 64, 3), Discrete(ACTIONS))
    with pytest.raises(BadArgument, match="knows 4 actions, but Pong has 6"):
        agent.check("Pong", (SIDE, SIDE, 3), Discrete(6))


@pytest.fixture
def stub_games(monkeypatch):
    made = []
    monkeypatch.setattr(evaluate, "real_games", lambda game, n, limit=None: made.append(Games(n)) or made[-1])
    return made


def test_command(tmp_path, capsys, stub_games):
    path = tmp_path / "agent.zip"
    trained().save(path)
    words = ["evaluate", "--agent", str(path), "--game", "Breakout", "--episodes", "5", "--n-envs", "2"]
    assert cli.main([*words, "--random", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in rows] == ["agent.zip", "random"]
    assert [row["scores"] for row in rows] == [[1, 2, 3, 2, 3]] * 2
    assert cli.main([*words, "--deterministic"]) == 0
    assert "2.20" in capsys.readouterr().out
    assert cli.main(["evaluate", "--random", "--game", "Breakout", "--episodes", "3"]) == 0
    assert [games.num_envs for games in stub_games] == [2, 2, 2, 3]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "--agent FILE, or --random"),
        (["--random"], 2, "--game Pong"),
        (["--random", "--game", "Brakout"], 2, "did you mean Breakout?"),
        (["--random", "--game", "Pong", "--episodes", "0"], 2, "--episodes must be at least 1"),
        (["--agent", "nowhere.zip", "--game", "Pong"], 1, "there is no agent at nowhere.zip"),
        (["--game", "Pong", "--temperature", "0"], 2, "--temperature must be more than 0"),
        (["--game", "Pong", "--temperature", "0.5", "--deterministic"], 2, "sampled actions"),
        (["--agent", "nowhere.zip", "--temperature", "0.5"], 2, "a world model's own agent"),
        (["--game", "Pong", "--random", "--deterministic"], 2, "--deterministic is for an agent, and random play has"),
        (["--game", "Pong", "--trust-pickles"], 2, "--trust-pickles is for an agent in a Stable-Baselines3 .zip"),
        (["--game", "Breakout", "--temperature", "0.5"], 2, "agents of Stable-Baselines3 have no --temperature"),
    ],
)
def test_one_line_for_what_is_wrong(words, code, message, capsys):
    assert cli.main(["evaluate", *words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_real_game_scores_at_random():
    pytest.importorskip("ale_py")
    played = evaluate.score_agent(None, "Breakout", 2, num_envs=2, seed=0, max_episode_steps=30)
    assert (played.lengths, played.truncated) == ((30, 30), 2)
    assert played == evaluate.score_agent(None, "Breakout", 2, num_envs=2, seed=0, max_episode_steps=30)
