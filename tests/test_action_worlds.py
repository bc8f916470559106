"""Worlds of each kind of actions the whole way: recorded, fitted, dreamed in by Gymnasium, SB3 and CleanRL's tools."""

import json
import shlex
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from test_own_worlds import SMALL, TINY, one_line

import diamond_gym
from diamond_gym import cli
from diamond_gym.actions import Box
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.play.game import Game
from diamond_gym.play.session import PlaySession
from diamond_gym.play.settings import Begin
from diamond_gym.play.terminal import TerminalPlayer
from diamond_gym.play.worlds import Worlds
from diamond_gym.registry import load_world_model, resolve
from diamond_gym.trainers.games import Games
from diamond_gym.trainers.worlds import find_world

SPACES = {
    "Buttons": spaces.MultiBinary(3),
    "Choices": spaces.MultiDiscrete([3, 2]),
    "Numbers": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.5], np.float32)),
}
CHANNELS = {"Buttons": 1, "Choices": 3, "Numbers": 3}
HEIGHT, WIDTH = 36, 40


class Bar(gym.Env):
    """A bar as long as the first number of the action is large; every step pays, the twelfth ends it."""

    def __init__(self, name):
        self.action_space = SPACES[name]
        self.observation_space = spaces.Box(0, 255, (HEIGHT, WIDTH, CHANNELS[name]), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t, self._long = 0, int(self.np_random.integers(WIDTH))
        return self._frame(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._t, self._long = self._t + 1, int(np.clip(self._long + 4 * float(action[0]) - 2, 0, WIDTH))
        return self._frame(), float(self._long > 20), self._t == 12, False, {}

    def _frame(self):
        frame = np.zeros(self.observation_space.shape, np.uint8)
        frame[5:20, : self._long] = 200
        frame[30:, 3 * self._t] = 255  # something always moves
        return frame


@pytest.fixture
def ids():
    for name in SPACES:
        gym.register(f"Bars/{name}-v0", Bar, kwargs={"name": name})
    yield
    for name in SPACES:
        del gym.registry[f"Bars/{name}-v0"]


@pytest.mark.parametrize("name", SPACES)
def test_the_whole_way(name, ids, home, capsys):
    env, space = f"Bars/{name}-v0", SPACES[name]
    assert cli.main(["train-wm", "--env", env, *TINY, "--collect-steps", "100", "--test-steps", "100"]) == 0
    card = resolve(name).card
    assert card.obs_shape == (HEIGHT, WIDTH, CHANNELS[name]) and card.codec.space == space
    assert card.spaces["actions"]["kind"] == {"Buttons": "multi_binary", "Choices": "multi_discrete"}.get(name, "box")
    diamond_gym.register_ids()
    dream = gym.make(f"DiamondDream-{name}-v0", device="cpu", quality="fast")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(dream.unwrapped)
    wrong_actions_are_one_line(dream, space)
    a_dream_goes_on_from_given_frames(dream, space)
    envs = RecordEpisodeStatistics(gym.make_vec(f"DiamondDream-{name}-v0", num_envs=3, device="cpu", quality="fast"))
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(2):
        envs.step(envs.action_space.sample())  # as CleanRL's PPO plays
    state = envs.unwrapped.clone_state(include_rng=True)
    envs.unwrapped.restore_state(state)
    session = PlaySession(load_world_model(name, "cpu", "float32"), quality="fast")
    assert session.apply("act", dream.unwrapped.get_keys_to_action()[("1",) if name != "Numbers" else ("d",)]).step == 1
    capsys.readouterr()
    held_out = ["evaluate-wm", f"{name.lower()}-nano", "--env", env, "--test-steps", "100", *SMALL]
    assert cli.main(held_out) == 0
    assert "returns" in capsys.readouterr().out
    quickly = shlex.split("--batches 2 --eager --precisions float32 --quality fast --seconds 0.001 --device cpu")
    assert cli.main(["benchmark", f"{name.lower()}-nano", *quickly]) == 0
    assert "frames/s" in capsys.readouterr().out
    an_agent_is_trained_and_scored(name, env, home, capsys)


def wrong_actions_are_one_line(dream, space):
    dream.reset(seed=0)
    good = space.sample()
    for wrong in (good[:1], np.full_like(good, 9), np.full(good.shape, np.nan), "left", [[0], [1, 2]], None):
        with pytest.raises((gym.error.InvalidAction, ValueError)) as error:
            dream.unwrapped.step(wrong)
        assert str(error.value).count("\n") == 0
    with pytest.raises(gym.error.InvalidAction, match=r"actions must be .* got \[\[nan"):
        dream.unwrapped.step(np.full(good.shape, np.nan))


def a_dream_goes_on_from_given_frames(dream, space):
    shape = dream.observation_space.shape
    t = dream.unwrapped.world_model.denoiser.num_steps_conditioning
    past = np.stack([space.sample() for _ in range(t - 1)])
    obs, info = dream.unwrapped.reset(options={"obs": np.zeros((t, *shape), np.uint8), "act": past})
    assert not obs.any() and info["start"] == -1
    with pytest.raises(ValueError, match=r"options\['act'\]: an action is"):
        dream.unwrapped.reset(options={"obs": np.zeros((t, *shape), np.uint8), "act": past + 9})


def an_agent_is_trained_and_scored(name, env, home, capsys):
    words = ["train-agent", "--env", env, "--steps", "16", "--n-envs", "2", "--quality", "fast", "--device", "cpu"]
    assert cli.main([*words, "--preset", "nano"]) == 2
    words += ["--max-episode-steps", "4", "--frame-stack", "1"]
    said, algos = one_line(capsys), "ppo or sac" if name == "Numbers" else "ppo"
    assert "DIAMOND's agent takes numbered actions" in said and said.endswith(f": train with --algo {algos}\n")
    assert cli.main([*words, "--algo", "dqn"]) == 2
    assert "--algo dqn takes numbered actions" in one_line(capsys)
    algo = "sac" if name == "Numbers" else "ppo"
    if algo == "ppo":
        assert cli.main([*words, "--algo", "sac"]) == 2
        assert "--algo sac takes numbers within bounds" in one_line(capsys)
    assert cli.main([*words, "--algo", algo, "--episodes", "2", "--register"]) == 0
    assert f"{env}, full games" in capsys.readouterr().out
    file = home / "agents" / f"{name.lower()}-{algo}.zip"
    scoring = ["evaluate", "--env", env, "--episodes", "2", "--n-envs", "1", "--json", "--device", "cpu"]
    for words in ([*scoring, "--agent", str(file)], [*scoring, "--data", name.lower()], [*scoring, "--random"]):
        assert cli.main(words) == 0
        assert all(row["episodes"] == 2 and 0 <= row["mean"] <= 12 for row in json.loads(capsys.readouterr().out))
    assert cli.main(["collect", "--env", env, "--agent", str(file), "--steps", "4", "--num-envs", "2"]) == 0
    it_plays_where_a_person_can(name, str(file))


def it_plays_where_a_person_can(name, file):
    loaded = Worlds("cpu", "float32").take(resolve(name))
    game, other = (Game(loaded, Begin(seed=3, agent_plays=True, agent_file=path)) for path in (None, file))
    algo = "sac" if name == "Numbers" else "ppo"
    assert (game.control, game.agent_kind, other.agent_kind) == ("agent", algo, algo) and not game.notices
    steps = [game.advance() for _ in range(10)]
    acted = [step for step in steps if step.action is not None]  # the others begin a dream
    assert all(step.by == "agent" and SPACES[name].contains(step.action) for step in acted)
    assert all(step.value is None if algo == "sac" else np.isfinite(step.value) for step in steps)
    assert {len(step.probabilities) for step in steps} == {3 if name == "Buttons" else 0}
    json.dumps(game.view().fields())
    assert len({step.action.tobytes() for step in acted}) > 1, "it samples"
    game.rewind(steps[4].step)
    again = [game.advance() for _ in range(5)]
    assert [shown(step) for step in again] == [shown(step) for step in steps[5:]]
    while game.advance().action is None:
        pass
    assert TerminalPlayer(game, 15).status(15.0)[0].count("agent ") == 1
    game.controls.hold(["d" if name == "Numbers" else "1"])
    assert {step.by for step in (game.advance() for _ in range(3)) if step.action is not None} == {"human"}


def shown(step):
    return step.step, step.obs.tobytes(), None if step.action is None else step.action.tolist(), step.probabilities


def test_recordings_of_vectors_alone(home, capsys):
    """No environment, bounds that only the recordings show, frames that are not square, no rewards, no ends."""
    rng = np.random.default_rng(0)
    for folder in ("kart", "kart-test"):
        about = About("Kart", (12, 20, 3), 0, action_dtype="float32", action_shape=(2,))
        with EpisodeStore(home / "data" / folder, "a", about) as store:
            obs = rng.integers(256, size=(41, 12, 20, 3), dtype=np.uint8)
            act = np.linspace([-2, 0], [2, 1], 40, dtype=np.float32) * (1 if folder == "kart" else 2)
            store.append(Episode(obs, act, info={"first": True}))
    assert cli.main(["train-wm", "--data", "kart", *TINY, "--dry-run"]) == 0
    capsys.readouterr()
    assert cli.main(["train-wm", "--data", "kart", *TINY]) == 0
    assert "no rewards or ends were recorded: the model" in " ".join(capsys.readouterr().err.split())
    card = resolve("Kart").card
    assert card.codec == Box([-2, 0], [2, 1]) and card.reward_end is None and card.figures["mse_over_copy_16"] > 0
    assert "Nothing is known of rewards and ends" in card.summary
    dream = gym.make("diamond_gym:DiamondDream-v0", model="kart-nano", device="cpu", max_episode_steps=3)
    dream.reset(seed=0)
    steps = [dream.step(np.array([1.5, 0.25], np.float32)) for _ in range(3)]
    assert [step[1:4] for step in steps] == [(0.0, False, False)] * 2 + [(0.0, False, True)]
    assert cli.main(["evaluate-wm", "kart-nano", "--data", "kart-test", *SMALL]) == 0
    assert cli.main(["train-agent", "--data", "kart", "--algo", "ppo", "--device", "cpu"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "an agent cannot learn in kart-nano: it has no reward model, so nothing is rewarded"


def test_games_of_vectors_go_back_to_a_state(ids):
    rng = np.random.default_rng(0)
    for name, space in SPACES.items():
        games = Games(find_world(env=f"Bars/{name}-v0").envs(3))
        games.reset(1)
        draw = find_world(env=f"Bars/{name}-v0").codec.sample
        for _ in range(17):
            games.step(draw(rng, 3))
        state, act = json.loads(json.dumps(games.state_dict())), [draw(rng, 3) for _ in range(5)]
        expected = [games.step(one) for one in act]
        again = Games(find_world(env=f"Bars/{name}-v0").envs(3))
        again.load_state_dict(state)
        for one, step in zip(act, expected, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(again.step(one), step, strict=True)), space
