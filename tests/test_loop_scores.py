"""The games that the loop is tested in, and which epoch it registers."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import torch
from catch_loop import TINY, WORLD, begin, games
from gymnasium.vector import AutoresetMode

from diamond_gym.data import EpisodeStore
from diamond_gym.trainers.collect import Collector
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.evaluate import score
from diamond_gym.trainers.held_out import HeldOut
from diamond_gym.trainers.run import RunFolder


def test_scores_whole_games(whole, tmp_path):
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run)
        found = score(diamond.agent.agent, games(4), "Catch", 10)
        diamond.close()
    assert set(found.scores) <= {-1.0, 1.0} and found.lengths == (7,) * 10
    assert found == score(diamond.agent.agent, games(4), "Catch", 10)


def test_a_test_collection_is_whole_games_that_touch_no_training(whole, tmp_path):
    config = replace(TINY, test_every=2, test_episodes=3)
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), test_envs=WORLD.envs)
        figures = [diamond.train_epoch() for _ in range(4)]
        played = len(diamond.held_out.store)
        diamond.close()
    assert [{k: v for k, v in f.items() if not k.startswith("test/")} for f in figures] == whole[1]
    tests = [{k: v for k, v in f.items() if k.startswith("test/")} for f in figures]
    assert tests[0] == tests[2] == {} and played >= 6
    for test in (tests[1], tests[3]):
        assert test["test/games_over"] == 1 and 3 * test["test/score"] in (-3, -1, 1, 3)
        assert all(np.isfinite(value) for value in test.values())
        figures_of = {
            f"test/{figure}"
            for kind in ("reward", "end")
            for figure in (
                f"{kind}_precision",
                f"{kind}_recall",
                f"{kind}_loss",
                f"{kind}_rate",
                f"dreamed_{kind}_rate",
            )
        }
        undefined = figures_of - set(test)
        assert undefined <= {"test/reward_precision", "test/end_precision"}, "of what was not found even once"
        assert 0 < test["test/reward_rate"] == test["test/end_rate"] < 0.5, "a game of Catch has one, at its end"
        assert all(0 < test[f"test/dreamed_{kind}_rate"] < 1 for kind in ("reward", "end"))
    with RunFolder(tmp_path / "again", tensorboard=False) as run:  # a killed one tests again, and forgets the first try
        again = DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), test_envs=WORLD.envs)
        for _ in range(2):
            again.train_epoch()
        again.held_out.measure(9, again.world_model, again.agent.agent, 2, 8)
        again.close()
        resumed = DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), test_envs=WORLD.envs)
        assert [resumed.train_epoch() for _ in range(2)] == figures[2:]
        assert len(resumed.held_out.store) == played
        resumed.close()


def test_the_best_test_is_what_was_learnt(tmp_path, monkeypatch):
    config = replace(TINY, test_every=1, register_best=True)
    scores = {1: 0.2, 2: 0.5, 3: 0.5, 4: -1.0}
    monkeypatch.setattr(HeldOut, "measure", lambda self, epoch, *_: {"test/score": scores[epoch]})

    def trainer(run):
        return DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), test_envs=WORLD.envs)

    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = trainer(run)
        assert diamond.learnt().score is None
        for _ in range(3):
            diamond.train_epoch()
        best = diamond.world_model.averaged().weights() | diamond.agent.agent.state_dict()
        best = {key: value.clone() for key, value in best.items()}
        diamond.close()
        diamond = trainer(run)  # the best is part of the checkpoint
        diamond.train_epoch()
        learnt, now = diamond.learnt(), diamond.agent.agent.state_dict()
        diamond.close()
    assert learnt.score == 0.5
    assert learnt.counts == {"epochs": 3, "steps": 40, "episodes": 6, "updates": 7, "windows": 7}
    found = learnt.world_model.weights() | learnt.agent.state_dict()
    assert all(torch.equal(found[key], value) for key, value in best.items())
    assert not all(torch.equal(now[key], value) for key, value in learnt.agent.state_dict().items())


class Scripted(gym.vector.VectorEnv):
    """Two rows with rewards, ends and truncations as written here."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012
    num_envs = 2

    def __init__(self):
        self.given = iter([([1, 2], [1, 0], [0, 0]), ([5, 3], [0, 0], [0, 1]), ([7, 9], [1, 1], [0, 0])])

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 16, 16, 3), np.uint8), {}

    def step(self, act):
        rew, end, trunc = (np.array(part) for part in next(self.given))
        return self.reset()[0], rew.astype(float), end.astype(bool), trunc.astype(bool), {}


def test_only_the_first_game_of_a_row_counts(tmp_path):
    with EpisodeStore(tmp_path, "a", WORLD.about) as store, Collector(store, Scripted()) as collector:
        for over in ([True, False], [True, True], [True, True]):
            collector.collect(2)
            assert (~np.isnan(collector.first_scores)).tolist() == over
    assert collector.first_scores.tolist() == [1, 5]
