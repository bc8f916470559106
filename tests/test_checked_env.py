"""Environments that break what they declare: one line that names them, before anything of it is recorded."""

import gymnasium as gym
import numpy as np
import pytest

from diamond_gym import cli
from diamond_gym.data import EpisodeStore
from diamond_gym.data.about import ABOUT
from diamond_gym.errors import BadArgument
from diamond_gym.trainers.worlds import about_env, make_env

FRAME = np.zeros((8, 6, 3), np.uint8)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:gymnasium", "ignore::DeprecationWarning:gymnasium")


class Odd(gym.Env):
    """A game of four steps that answers `answer` in the second step, and renders `picture`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = gym.spaces.Discrete(2)

    def __init__(self, answer=None, shape=FRAME.shape, picture=None, actions=2, render_mode=None):
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gym.spaces.Discrete(actions)
        self.answer, self.picture, self.render_mode = answer, picture, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(self.observation_space.shape, np.uint8), {}

    def step(self, act):
        self.t += 1
        if self.t == 2 and self.answer is not None:
            return self.answer
        return np.zeros(self.observation_space.shape, np.uint8), 1.0, self.t == 4, False, {"lives": 1}

    def render(self):
        return self.picture


class Old(Odd):
    """Resets as before seeds were given, and says nothing else."""

    def reset(self):
        return FRAME


class Bare(gym.Env):
    """Declares nothing."""


@pytest.fixture
def odd():
    """Registers an environment with these arguments."""
    ids = []

    def register(entry_point=Odd, steps=None, **words):
        ids.append("Test/Odd-v0")
        gym.register(id=ids[0], entry_point=entry_point, kwargs=words, max_episode_steps=steps)
        return ids[0]

    yield register
    gym.registry.pop(ids[0], None)


REWARD = "Test/Odd-v0: the reward of step 1 of a game is"


@pytest.mark.parametrize("steps", [None, 20], ids=["bare", "with a time limit"])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((FRAME, np.nan, False, False, {}), f"{REWARD} nan, not a finite number"),
        ((FRAME, -np.inf, False, False, {}), f"{REWARD} -inf, not a finite number"),
        ((FRAME, 1e300, False, False, {}), f"{REWARD} 1e\\+300, not a finite number"),
        ((FRAME, None, False, False, {}), f"{REWARD} None, not a finite number"),
        ((FRAME, np.ones(1), False, False, {}), rf"{REWARD} array\(\[1.\]\), not a finite number"),
        ((FRAME[1:], 0.0, False, False, {}), r"declares frames uint8 \(8, 6, 3\), but shows uint8 \(7, 6, 3\)"),
        ((FRAME / 255, 0.0, False, False, {}), r"declares frames uint8 \(8, 6, 3\), but shows float64 \(8, 6, 3\)"),
        ((FRAME.tolist(), 0.0, False, False, {}), "but shows a list"),
        ((FRAME, 0.0, None, False, {}), "terminated of step 1 of a game is None, neither true nor false"),
        ((FRAME, 0.0, False, False, None), "info is a NoneType, not a dictionary"),
        ((FRAME, 0.0, False, False, {"lives": None}), r"info\['lives'\] is None, not a number"),
        ((FRAME, 0.0, False, {}), "Test/Odd-v0"),
    ],
)
def test_an_answer_that_was_not_declared(odd, answer, message, steps):
    env = make_env(odd(answer=answer, steps=steps))
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(BadArgument, match=message) as error:
        env.step(0)
    assert "\n" not in str(error.value)


def test_numbers_of_every_kind_are_rewards(odd):
    for reward in (1, True, np.float32(2.5), np.array(0.5)):
        env = make_env(odd(answer=(FRAME, reward, np.bool_(False), 0, {"lives": np.int64(3)})))
        env.reset(seed=0)
        env.step(0)
        assert env.step(0)[1] == reward


def test_errors_of_the_environment_itself_keep_their_traceback(odd):
    env = make_env(odd())
    env.reset(seed=0)
    env.unwrapped.t = "4"
    with pytest.raises(TypeError):
        env.step(0)


@pytest.mark.parametrize(
    ("words", "render_obs", "message"),
    [
        ({"shape": (3, 8, 6)}, False, r"shows frames \(3, 8, 6\) with their channels first, not last: .*transpose"),
        ({"shape": (8, 6, 4)}, False, r"shows frames \(8, 6, 4\) with 4 channels, not 1 or 3"),
        ({}, True, "does not keep to Gymnasium's interface: .*render"),
        ({"picture": np.zeros((8, 6, 4), np.uint8)}, True, r"\(8, 6, 4\) with 4 channels"),
        ({"actions": 5000}, False, "has too many actions: 5,000, of at most 4,096"),
        ({"entry_point": Bare}, False, "Test/Odd-v0 "),
    ],
)
def test_frames_that_cannot_be_learned(odd, words, render_obs, message):
    with pytest.raises(BadArgument, match=message):
        make_env(odd(**words), render_obs=render_obs)


def test_what_can_be_learned(odd):
    for shape, frame in (((8, 6), (8, 6, 1)), ((8, 6, 1), (8, 6, 1)), ((3, 6, 3), (3, 6, 3))):
        assert about_env(odd(shape=shape)).frame_shape == frame


def test_the_interface_before_seeds(odd):
    env = make_env(odd(entry_point=Old))
    with pytest.raises(BadArgument, match=r"Test/Odd-v0 does not keep to Gymnasium's interface: .*'seed'"):
        env.reset(seed=0)


def test_only_what_came_before_is_recorded(odd, tmp_path, capsys):
    words = ["collect", "--env", odd(answer=(FRAME, np.nan, False, False, {})), "--num-envs", "2", "--data"]
    assert cli.main([*words, str(tmp_path / "new")]) == 2
    assert f"{REWARD} nan, not a finite number" in capsys.readouterr().err
    assert [len(episode) for episode in EpisodeStore(tmp_path / "new")] == [1, 1]


def test_no_store_is_left_where_nothing_was_recorded(odd, tmp_path):
    words = ["collect", "--env", odd(entry_point=Old), "--num-envs", "2", "--data"]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").touch()
    EpisodeStore(tmp_path / "before", "a", about_env(words[2])).close()
    for name in ("kept", "new", "before"):
        assert cli.main([*words, str(tmp_path / name)]) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["kept", "notes.txt", "before", ABOUT])
