"""Scripted players: they look at frames, play better than chance, and still make mistakes."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ale_py")

from diamond_gym.data import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.trainers.collect import CollectConfig, Collector
from diamond_gym.trainers.policies import PLAYERS, ScriptedPolicy
from diamond_gym.trainers.worlds import find_world


def rewards(folder: Path, game: str, policy: str, steps: int) -> np.ndarray:
    """The signs of the rewards of some play, counted: negative, zero, positive."""
    world = find_world(game)
    config = CollectConfig(policy, seed=1)  # type: ignore[arg-type]
    with EpisodeStore(folder / policy, "a", world.about) as store, Collector(store, world.envs(8), config) as collector:
        return np.array(collector.collect(steps).reward_signs)


def test_breakout_is_played_better_than_by_chance(tmp_path: Path) -> None:
    scripted, chance = (rewards(tmp_path, "Breakout", policy, 2000) for policy in ("scripted", "random"))
    assert scripted[2] > 1.5 * chance[2]


@pytest.mark.slow
def test_pong_is_played_better_than_by_chance(tmp_path: Path) -> None:
    scripted, chance = (rewards(tmp_path, "Pong", policy, 2000) for policy in ("scripted", "random"))
    assert scripted[0] < 0.7 * chance[0]  # balls missed


@pytest.mark.slow
def test_the_chicken_crosses_the_road(tmp_path: Path) -> None:
    assert rewards(tmp_path, "Freeway", "scripted", 1500)[2] >= 3
    assert rewards(tmp_path, "Freeway", "random", 1500)[2] == 0


def _breakout_frame(ball: tuple[int, int] | None, paddle: int) -> np.ndarray:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[57:59, paddle - 4 : paddle + 4] = (200, 72, 72)
    if ball is not None:
        frame[ball] = (200, 72, 72)
    return frame


@pytest.mark.parametrize(
    ("ball", "paddle", "act"), [((40, 50), 20, 2), ((40, 12), 40, 3), ((40, 31), 32, 0), (None, 32, 1)]
)
def test_the_paddle_goes_to_the_ball(ball: tuple[int, int] | None, paddle: int, act: int) -> None:
    obs = _breakout_frame(ball, paddle)[None]
    assert PLAYERS["Breakout"](obs, obs).tolist() == [act]


def test_a_coasting_paddle_is_not_pushed_further() -> None:
    before, now = (_breakout_frame((40, 40), paddle)[None] for paddle in (22, 31))
    assert PLAYERS["Breakout"](now, now).tolist() == [2]
    assert PLAYERS["Breakout"](now, before).tolist() == [0]


def test_spells_of_chance_come_between() -> None:
    policy = ScriptedPolicy("Freeway", 4, np.random.default_rng(0))
    obs, first = np.zeros((4, 64, 64, 3), np.uint8), np.zeros(4, np.bool_)
    acts = np.stack([policy(obs, first) for _ in range(2000)])
    walking = (acts == 1).mean()
    # Two spells in three steps of walking (24 of 34), and a third of chance's actions walk too.
    assert 0.7 < walking < 0.9
    assert set(acts.ravel().tolist()) == {0, 1, 2}


def test_a_game_without_a_script_is_refused() -> None:
    with pytest.raises(BadArgument, match="RoadRunner, not for Boxing"):
        ScriptedPolicy("Boxing", 2, np.random.default_rng(0))


@pytest.mark.slow
def test_road_runner_eats_what_lies_on_the_road(tmp_path: Path) -> None:
    scripted, chance = (rewards(tmp_path, "RoadRunner", policy, 2000) for policy in ("scripted", "random"))
    assert scripted[2] > 3 * chance[2]
