"""Experience from any environment of images and discrete actions: what lies in the store is what was played."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import diamond_gym  # noqa: F401
from diamond_gym.data import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.trainers.collect import CollectConfig, Collector
from diamond_gym.trainers.worlds import World, about_env, game_name, make_env

ID = "DiamondGym/Catch-v0"


class Remembering:
    """A policy that notes where an episode begins, and whose actions follow its own chance."""

    def __init__(self, seed=0):
        self.firsts, self.rng = [], np.random.default_rng(seed)

    def __call__(self, obs, first):
        self.firsts.append(first.tolist())
        return self.rng.integers(3, size=len(obs))


def collector(store, num_envs=2, policy=None, **keywords):
    return Collector(store, World(about_env(ID), ID).envs(num_envs), CollectConfig("random", **keywords), policy)


def same(a, b):
    arrays = ("obs", "act", "rew", "end", "trunc")
    return a.info == b.info and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in arrays)


def test_whole_games_with_true_final_frames(tmp_path):
    policy = Remembering()
    with EpisodeStore(tmp_path, "a", about_env(ID)) as store, collector(store, policy=policy) as games:
        stats = [games.collect(steps) for steps in (5, 40, 3)]  # the first two stop within games
        episodes = list(store)
    assert store.about.game == "Catch"
    assert (store.about.frame_shape, store.about.num_actions) == ((16, 16, 3), 3)
    assert sum(s.steps for s in stats) == store.num_steps == 48 + 2  # rows go together
    over = [e for e in episodes if e.end[-1]]
    assert len(over) == sum(s.episodes for s in stats) == 6
    assert [s.scores for s in stats[:1]] == [[]]
    assert sum(stats[1].reward_signs) == stats[1].steps
    env = gym.make(ID)
    for episode in over:
        assert (len(episode), episode.trunc.any()) == (7, False)
        assert {key: episode.info[key] for key in ("first", "policy")} == {"first": True, "policy": "agent"}
        assert abs(episode.rew[-1]) == 1
        assert not episode.rew[:-1].any()
        seed = next(s for s in range(200) if (env.reset(seed=s)[0] == episode.obs[0]).all())
        env.reset(seed=seed)
        for t, act in enumerate(episode.act):
            obs, rew, end, *_ = env.step(act)
            assert (obs == episode.obs[t + 1]).all()
            assert (rew, end) == (episode.rew[t], episode.end[t])
    # The policy hears of it as a game begins, and not between collections; no action is lost.
    begun = np.array(policy.firsts)[:, 0]
    assert np.flatnonzero(begun).tolist() == [0, 7, 14, 21]


def test_goes_on_exactly_from_a_state(tmp_path):
    def sitting(folder, state, *steps):
        policy = Remembering(seed=len(steps))
        with EpisodeStore(folder, "a", about_env(ID)) as store, collector(store, 3, policy, epsilon=0.3) as games:
            if state is not None:
                games.load_state_dict(state)
            for n in steps:
                policy.rng = np.random.default_rng(n)
                games.collect(n)
            return games.state_dict()

    sitting(tmp_path / "whole", None, 9, 21, 33)
    state = sitting(tmp_path / "parts", None, 9, 21)
    torch.save(state, tmp_path / "state.pt")
    sitting(tmp_path / "parts", torch.load(tmp_path / "state.pt", weights_only=True), 33)
    whole, parts = EpisodeStore(tmp_path / "whole"), EpisodeStore(tmp_path / "parts")
    assert len(whole) == len(parts) > 6
    assert all(same(a, b) for a, b in zip(whole, parts, strict=True))


def test_other_sizes_and_rendered_pictures(tmp_path):
    pytest.importorskip("cv2")
    assert about_env(ID, (8, 8)).frame_shape == (8, 8, 3)
    env = make_env(ID, (32, 24))
    assert env.reset(seed=0)[0].shape == (32, 24, 3)


class Vector(gym.Env):
    """No images, unless it is rendered."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (4,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, continuous=False):
        self.render_mode = render_mode
        if continuous:
            self.observation_space, self.action_space = (
                gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
                gym.spaces.Box(-np.inf, np.inf, (2,)),
            )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def render(self):
        return np.zeros((12, 10, 3), np.uint8)


@pytest.fixture
def ids():
    gym.register(id="Test/Vector-v3", entry_point=Vector)
    gym.register(id="Test/Continuous-v0", entry_point=Vector, kwargs={"continuous": True})
    yield
    for name in ("Test/Vector-v3", "Test/Continuous-v0"):
        del gym.registry[name]


def test_what_is_no_game_of_images(ids):
    assert about_env("Test/Vector-v3", render_obs=True).frame_shape == (12, 10, 3)
    for name, message in (
        ("Test/Vector-v3", "not uint8 images of height, width and channels; --render-obs"),
        ("Test/Continuous-v0", "which has no bounds"),
        ("Test/Nowhere-v0", "cannot be made"),
        ("nowhere:Test-v0", "cannot be made"),
    ):
        with pytest.raises(BadArgument, match=message):
            make_env(name)


def test_names():
    ids = (ID, "CartPole-v1", "my_games:Mine/Pac-v10", "Plain", "Test-vector", "games:Plain", "my.games:Mine/Plain")
    assert [game_name(env) for env in ids] == ["Catch", "CartPole", "Pac", "Plain", "Test-vector", "Plain", "Plain"]
