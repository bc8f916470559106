"""Training agents of Stable-Baselines3 in dreams: what is saved, what ends it early, and the real game as dreamed."""

import os
import signal
import zipfile
from functools import partial
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from stubs import ACTIONS, StubWorldModel, save_tiny_model
from test_evaluate import Games

from diamond_gym import cli
from diamond_gym.actions import Discrete
from diamond_gym.envs.atari import RealVectorEnv
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.registry.card import Card
from diamond_gym.trainers import evaluate, loop, sb3
from diamond_gym.trainers.as_dreamed import AsDreamed
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.sb3 import ALGORITHMS, RHYTHM, AgentConfig, SB3Trainer, training_envs
from diamond_gym.trainers.sb3_files import open_agent

SIDE = 36  # the least that SB3's CnnPolicy takes


def dream_of_stubs(monkeypatch):
    """Dreams of a stub in place of those of the registry's models."""
    weights = SimpleNamespace(sha256="abc")
    card = SimpleNamespace(name="stub", game="Breakout", files={"weights": weights}, reward_end={})
    card.check_game = partial(Card.check_game, card)
    monkeypatch.setattr(sb3, "resolve", lambda _: SimpleNamespace(name="stub", card=card))

    def make(config):
        dreams = sb3.make_dream_vec_env("DiamondDream-v0", config.n_envs, model=StubWorldModel(size=SIDE),
                                               max_episode_steps=config.max_episode_steps)  # fmt: skip
        envs = sb3.VecMonitor(dreams)
        return (VecFrameStack(envs, config.frame_stack) if config.frame_stack > 1 else envs), dreams

    monkeypatch.setattr(sb3, "training_envs", make)


@pytest.fixture
def stub_dreams(monkeypatch):
    dream_of_stubs(monkeypatch)


def train_agent(config, out, minutes=None):
    """Trains and saves, also where Ctrl-C or the time ends the training."""
    with RunFolder(out.with_suffix(".run"), tensorboard=False) as run, SB3Trainer(config, run) as trainer:
        reason = loop.train(trainer, run, minutes, RHYTHM)
        card = trainer.save(out)
    return SimpleNamespace(reason=reason, steps=trainer.step, recent_return=trainer.recent_return, card=card)


def config(**kwargs) -> AgentConfig:
    return AgentConfig(
        **{"game": "Breakout", "steps": 32, "n_envs": 2, "max_episode_steps": 5, "device": "cpu"} | kwargs
    )


@pytest.mark.parametrize("name", ["steps", "n_envs", "frame_stack"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(BadArgument, match=f"--{name.replace('_', '-')} must be at least 1, not 0"):
        config(**{name: 0})


def test_frames_too_small_for_sb3_are_refused_before_the_first_step(capsys):
    save_tiny_model()
    assert cli.main(["train-agent", "--game", "Breakout", "--model", "tiny", "--algo", "ppo", "--device", "cpu",
                     "--episodes", "0", "--steps", "8"]) == 2  # fmt: skip
    said = capsys.readouterr().err
    assert "at least 36x36 pixels, not 16x16" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "algo", [name for name in ALGORITHMS if name != "sac"]
)  # whose actions are numbers within bounds
def test_trains_and_saves(algo, tmp_path, stub_dreams):
    training = train_agent(config(algo=algo, seed=3, quality="fast"), tmp_path / "a" / "agent.zip")
    assert training.reason == "steps"
    assert training.steps >= 32
    assert -5 <= training.recent_return <= 5
    opened = open_agent(tmp_path / "a" / "agent.zip")
    assert opened.card == training.card
    card = training.card
    assert (card.game, card.algo, card.trained_in, card.model, card.model_sha256) == (
        "Breakout", algo, "dream", "stub", "abc",
    )  # fmt: skip
    assert (card.obs_shape, card.num_actions, card.frame_stack) == ((SIDE, SIDE, 3), ACTIONS, 4)
    assert (card.steps, card.seed, card.quality, card.max_episode_steps) == (training.steps, 3, "fast", 5)
    assert opened.channels == 12
    opened.check("Breakout", (SIDE, SIDE, 3), Discrete(ACTIONS))
    with pytest.raises(BadArgument, match="was trained for Breakout, not for Pong"):
        opened.check("Pong", (SIDE, SIDE, 3), Discrete(ACTIONS))
    loaded = ALGORITHMS[algo].load(tmp_path / "a" / "agent.zip", device="cpu")  # SB3 itself reads it, too
    assert loaded.num_timesteps == training.steps
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"agent.run", "agent.zip"}


def test_the_seed_fixes_the_training(tmp_path, stub_dreams):
    for name in ("one", "two"):
        train_agent(config(), tmp_path / f"{name}.zip")
    one, two = (open_agent(tmp_path / f"{name}.zip").policy.state_dict() for name in ("one", "two"))
    assert all(two[key].equal(value) for key, value in one.items())


def test_precision_and_compiling_reach_the_dreams(monkeypatch):
    asked = {}

    def opened(**kwargs):
        asked.update(kwargs)
        raise LookupError

    monkeypatch.setattr("diamond_gym.trainers.sb3.make_dream_vec_env", opened)
    with pytest.raises(LookupError):
        training_envs(config(precision="bfloat16", compile=True))
    assert (asked["precision"], asked["compile"]) == ("bfloat16", True)


def test_ctrl_c_saves_what_there_is(tmp_path, stub_dreams, monkeypatch):
    step, steps = sb3.DreamVecEnv.step_wait, []

    def interrupted(dreams):
        steps.append(dreams.num_envs)
        if sum(steps) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return step(dreams)

    monkeypatch.setattr(sb3.DreamVecEnv, "step_wait", interrupted)
    before = signal.getsignal(signal.SIGINT)
    training = train_agent(config(algo="a2c", steps=10_000), tmp_path / "agent.zip")
    assert (training.reason, training.steps) == ("interrupted", 32)  # the second rollout to its end
    assert open_agent(tmp_path / "agent.zip").card.steps == 32
    assert signal.getsignal(signal.SIGINT) is before


def test_time_is_up(tmp_path, stub_dreams):
    training = train_agent(config(algo="a2c", steps=10_000), tmp_path / "agent.zip", minutes=1e-9)
    assert training.reason == "minutes"
    assert open_agent(tmp_path / "agent.zip").card.steps == training.steps == 16


@pytest.mark.parametrize("n_envs", [1, 3, 8, 16])
@pytest.mark.parametrize("steps", [1, 1_000, 30_000, 1_000_000])
def test_settings_suit_the_budget(n_envs, steps):
    settings = config(n_envs=n_envs, steps=steps).settings()
    rollout = settings["n_steps"] * n_envs
    assert 8 <= settings["n_steps"] <= 128
    assert settings["batch_size"] > 1
    assert rollout % settings["batch_size"] == 0
    assert steps < 10 * 16 * n_envs or rollout <= steps / 5
    assert config(algo="dqn", n_envs=n_envs, steps=steps).settings()["buffer_size"] >= n_envs


class Lives(VecEnv):
    """Two games that lose a life or end as given: (lives in the new frame or 0, reward) for each row and step."""

    def __init__(self, given):
        super().__init__(2, gym.spaces.Box(0, 255, (1,), np.uint8), gym.spaces.Discrete(2))
        self.given = iter(given)
        self.time = 0

    def reset(self):
        self.reset_infos = [{"lives": 3}, {"lives": 3}]
        return np.zeros((2, 1), np.uint8)

    def step_async(self, actions):
        pass

    def step_wait(self):
        self.time += 1
        lives, rewards = next(self.given)
        dones, infos = np.array(lives) == 0, [{"lives": life} for life in lives]
        for row in np.flatnonzero(dones):
            infos[row]["terminal_observation"] = np.full(1, 200, np.uint8)
            self.reset_infos[row] = {"lives": 3}
        return np.full((2, 1), self.time, np.uint8), np.array(rewards, np.float32), dones, infos

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [None, None]

    set_attr = env_method = env_is_wrapped = get_attr


def test_the_loss_of_a_life_is_an_end_and_rewards_are_signs():
    given = [
        ((3, 3), (7, -4)),
        ((2, 3), (0, 0)),
        ((2, 1), (0, 1)),
        ((0, 1), (0, 0)),
        ((3, 1), (1, 1)),
        ((2, 0), (0, 0)),
    ]
    envs = AsDreamed(Lives(given))
    envs.reset()
    steps = [envs.step(np.zeros(2, int)) for _ in given]
    assert [step[1].tolist() for step in steps[:2]] == [[1, -1], [0, 0]]
    assert [step[2].tolist() for step in steps] == [
        [False, False], [True, False], [False, True], [True, False], [False, False], [True, True],
    ]  # fmt: skip
    ends = [[info.get("terminal_observation", [None])[0] for info in step[3]] for step in steps]
    assert ends == [[None, None], [2, None], [None, 3], [200, None], [None, None], [6, 200]]


def test_real_games_look_as_dreams_do():
    pytest.importorskip("ale_py")
    envs, bridge = training_envs(config(real=True))
    assert isinstance(bridge.envs, RealVectorEnv)
    assert envs.observation_space == gym.spaces.Box(0, 255, (64, 64, 12), np.uint8)
    assert envs.action_space == gym.spaces.Discrete(4)
    envs.seed(1)
    assert envs.reset().shape == (2, 64, 64, 12)
    dones = 0
    for _ in range(80):
        obs, _, done, infos = envs.step(np.array([1, 3]))
        dones += done.sum()
        for row in np.flatnonzero(done):
            assert infos[row]["terminal_observation"].shape == (64, 64, 12)
            # a lost life clears no frames, as in the games that score the agent; the end of a game does
            assert obs[row, ..., :9].any() == (infos[row]["lives"] > 0)
    assert dones >= 1
    envs.close()


def test_command(home, tmp_path, capsys, stub_dreams, monkeypatch):
    monkeypatch.setattr(evaluate, "real_games", lambda game, n, limit=None: Games(n))
    words = ["train-agent", "--game", "Breakout", "--algo", "ppo", "--steps", "32", "--n-envs", "2", "--device", "cpu"]
    assert cli.main([*words, "--episodes", "2"]) == 0
    out, err = capsys.readouterr()
    assert "breakout-ppo.zip" in out
    assert "random" in out
    assert "saved" in err
    assert "mean return" not in err or "in dreams" in err
    assert zipfile.is_zipfile(home / "agents" / "breakout-ppo.zip")
    PPO.load(home / "agents" / "breakout-ppo.zip", device="cpu")
    enter = loop.Loop.__enter__

    def interrupted(self):
        enter(self)
        os.kill(os.getpid(), signal.SIGINT)
        return self

    monkeypatch.setattr(loop.Loop, "__enter__", interrupted)
    assert cli.main([*words, "--seed", "1", "--run", str(tmp_path), "--out", str(tmp_path / "mine.zip")]) == 130
    assert zipfile.is_zipfile(tmp_path / "mine.zip")
    assert capsys.readouterr().out == ""


def test_a_registered_model_from_its_name_alone(home):
    save_tiny_model("mine", "Breakout", size=SIDE)
    training = train_agent(config(steps=16), home / "agent.zip")
    assert training.card.model == "mine"
    assert len(training.card.model_sha256) == 64
    with pytest.raises(BadArgument, match="the model mine dreams Breakout, not Pong"):
        train_agent(config(game="Pong", model="mine"), home / "agent.zip")
    with pytest.raises(ModelNotFound, match="train-wm --game Hero"):
        train_agent(config(game="Hero"), home / "agent.zip")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--game", "Brakout"], "did you mean Breakout?"),
        (["--n-envs", "0"], "--n-envs must be at least 1"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--frame-stack", "0"], "--frame-stack must be at least 1"),
        (["--max-episode-steps", "0"], "--max-episode-steps must be"),
        (["--quality", "best"], "--quality must be fast, paper, fine or (for two stages) quality, not best"),
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--real", "--model", "x"], "leave out --model"),
        (["--real", "--data", "x"], "leave one out"),
        (["--out", "agent.pt"], "--out must end in .zip"),
        (["--algo", "sarsa"], "--algo"),
    ],
)
def test_one_line_for_what_is_wrong(words, message, capsys):
    assert (
        cli.main(["train-agent", "--algo", "ppo", *(["--game", "Pong"] if "--game" not in words else []), *words]) == 2
    )
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1 or "--help" in err, "one line, or tyro's own message"


@pytest.mark.parametrize("words", [["--algo", "ppo"], ["--preset", "nano"]])
def test_a_quality_that_the_model_has_not(words, capsys):
    save_tiny_model(size=64)
    assert cli.main(["train-agent", "--game", "Breakout", "--quality", "quality", "--episodes", "0", *words]) == 2
    err = capsys.readouterr().err.strip()
    assert "quality must be one of fast, paper, fine, got 'quality'" in err
    assert "\n" not in err
