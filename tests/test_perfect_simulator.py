"""The real game in a world model's place, for the actor-critic."""

import numpy as np
import pytest
import torch

pytest.importorskip("ale_py")

from benchmarks.perfect_simulator import Experiment, RealDream, main
from diamond_gym.frames import to_pixels
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.optim import OptimizerConfig

FIT = AgentFitConfig(
    ActorCriticConfig(lstm_dim=8, channels=[4, 4], down=[1, 1]), optimizer=OptimizerConfig(batch_size=2), horizon=3
)


@pytest.fixture
def dream() -> RealDream:
    dream = RealDream(Experiment("Pong", fit=FIT, episode=3, starts=4, seed=1))
    dream.reset()
    return dream


def test_a_start_goes_on_as_it_went(dream: RealDream) -> None:
    game, played = dream._games[0], []
    for _ in range(2):
        dream._rng = np.random.default_rng(5)  # the same start twice
        frames = dream._begin(0)
        for action in (2, 2, 3, 0):
            game.step(action)
            played.append(game.obs())
    np.testing.assert_array_equal(played[:4], played[4:])
    assert (played[0] != frames[-1]).any(axis=-1).mean() < 0.02  # ball and players have moved on, and nothing else


def test_games_go_back_after_their_steps(dream: RealDream) -> None:
    truncated, frames = [], []
    for _ in range(6):
        step = dream.step(torch.tensor([2, 3]))
        truncated.append(step.trunc.tolist())
        frames.append(step.final_obs)
        kept = ~step.trunc
        assert torch.equal(step.obs[kept], step.final_obs[kept])
        assert torch.equal(dream.obs, step.obs)
    assert truncated == [[False] * 2, [False] * 2, [True] * 2] * 2
    assert dream.obs_window is not None
    assert dream.obs_window.shape == (2, 4, 3, 64, 64)
    starts = {start[1][-1].tobytes() for start in dream._starts}
    assert all(to_pixels(row).numpy().tobytes() in starts for row in dream.obs)


def test_trains_and_scores(tmp_path) -> None:
    out = tmp_path / "lines.jsonl"
    main(Experiment("Pong", windows=2, fit=FIT, episode=3, starts=4, score_games=1, minutes=1, out=out))
    lines = out.read_text().splitlines()
    assert len(lines) == 3
    assert '"window": 2' in lines[0]
    assert '"player": "random"' in lines[2]
