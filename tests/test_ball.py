"""Balls that live, are lost and fade, drawn by hand; and the real games, in which they live."""

import numpy as np
import pytest

from benchmarks.ball import BallStudy, find_balls, jumps, steps_alive, wilson

L = 40


def film(game: str, places: dict[int, tuple[int, int]], length: int = L, light: float = 1.0) -> np.ndarray:
    """Frames uint8 (1, length, 3, 64, 64) with a ball of one pixel at (row, column) in some of them."""
    colour, ground = {"Breakout": ((200, 72, 72), (0, 0, 0)), "Pong": ((236, 236, 236), (144, 72, 17))}[game]
    frames = np.empty((1, length, 3, 64, 64), np.uint8)
    frames[:] = np.array(ground, np.uint8)[:, None, None]
    for t, (row, column) in places.items():
        frames[0, t, :, row, column] = np.array(ground) + light * (np.array(colour) - ground)
    return frames


def alive(game: str, places: dict[int, tuple[int, int]], act: dict[int, int] | None = None, light: float = 1.0) -> int:
    acts = np.zeros((1, L - 1), np.int64)
    for t, a in (act or {}).items():
        acts[0, t] = a
    return int(steps_alive(game, find_balls(game, film(game, places, light=light)), acts)[0])


def straight(steps: range, row: int, column: int) -> dict[int, tuple[int, int]]:
    return {t: (row + (t - steps.start) % 3, column + (t - steps.start) % 3) for t in steps}


@pytest.mark.parametrize("game", ["Breakout", "Pong"])
def test_found_where_it_is(game: str) -> None:
    balls = find_balls(game, film(game, {3: (40, 30), 4: (41, 32)}))
    assert np.flatnonzero(balls.seen[0]).tolist() == [3, 4]
    assert abs(balls.row[0, 3] - 40) <= 1
    assert abs(balls.column[0, 4] - 32) <= 1
    assert not find_balls(game, film(game, {3: (40, 30)}, light=0.3)).seen.any(), "a ghost of a ball is none"


@pytest.mark.parametrize("game", ["Breakout", "Pong"])
def test_seen_all_the_time_is_alive_and_fading_in_mid_field_is_not(game: str) -> None:
    everywhere = straight(range(L), 40, 30)
    assert alive(game, everywhere) == L - 1
    flicker = {t: place for t, place in everywhere.items() if t not in (10, 11)}
    assert alive(game, flicker) == L - 1
    assert alive(game, straight(range(20), 40, 30)) == 19, "alive up to the last frame that shows it"
    back_too_late = {t: place for t, place in everywhere.items() if t not in (10, 11, 12)}
    assert alive(game, back_too_late) == 9


def test_breakout_lost_below_waits_for_fire() -> None:
    lost = straight(range(10), 45, 30) | {10: (54, 30)}
    assert alive("Breakout", lost) == L - 1, "nobody serves"
    assert alive("Breakout", lost, {12: 1}) == L - 1, "too early a key does nothing"
    assert alive("Breakout", lost, {24: 1}) == 10, "served, but no ball comes"
    assert alive("Breakout", lost | straight(range(25, L), 38, 20), {24: 1}) == L - 1


def test_breakout_among_the_bricks_for_a_while() -> None:
    up = straight(range(8), 31, 30) | {8: (30, 30)}
    assert alive("Breakout", up | straight(range(20, L), 31, 40)) == L - 1
    assert alive("Breakout", up) == 8


def test_breakout_begins_without_a_ball() -> None:
    assert alive("Breakout", {}) == L - 1
    assert alive("Breakout", {}, {15: 1}) == 0
    assert alive("Breakout", straight(range(16, L), 38, 30), {15: 1}) == L - 1


def test_pong_is_served_without_a_key() -> None:
    out = straight(range(10), 30, 48) | {10: (30, 54)}
    assert alive("Pong", out | straight(range(31, L), 35, 32)) == L - 1
    assert alive("Pong", out) == 10
    assert alive("Pong", straight(range(14, L), 35, 32)) == L - 1, "a game begins"
    left = straight(range(10), 30, 12) | {10: (30, 9)}
    assert alive("Pong", left | straight(range(12, L), 31, 12)) == L - 1, "behind the paddle"


def test_what_is_given_is_not_judged() -> None:
    frames = film("Pong", straight(range(4), 35, 32))
    acts = np.zeros((1, L - 1), np.int64)
    assert steps_alive("Pong", find_balls("Pong", frames), acts, known=4)[0] == 0
    whole = find_balls("Pong", film("Pong", straight(range(L), 35, 32)))
    assert steps_alive("Pong", whole, acts, known=4)[0] == L - 4


def test_jumps() -> None:
    balls = find_balls("Pong", film("Pong", {0: (30, 30), 1: (32, 33), 2: (50, 20), 4: (20, 20)}))
    assert jumps("Pong", balls) == (1, 2)


@pytest.mark.parametrize("game", ["Breakout", "Pong"])
@pytest.mark.parametrize("policy", ["random", "scripted"])
def test_in_the_real_game_the_ball_lives(game: str, policy: str) -> None:
    pytest.importorskip("ale_py")
    from diamond_gym.registry import game as find_game
    from diamond_gym.trainers.policies import StickyPolicy
    from diamond_gym.trainers.rollouts import record
    from diamond_gym.trainers.scripted import ScriptedPolicy
    from diamond_gym.trainers.worlds import Games, find_world

    rng = np.random.default_rng(0)
    player = StickyPolicy(find_game(game).num_actions, np.zeros(4), rng)
    games = Games(find_world(game).envs(4))
    pieces = record(games, ScriptedPolicy(game, 4, rng) if policy == "scripted" else player, 4, 50, rng)
    games.close()
    whole = pieces.going.all(axis=1)
    balls = find_balls(game, pieces.obs[whole])
    assert len(balls.seen) >= 2
    assert (steps_alive(game, balls, pieces.act[whole], 4) == 50).all()
    assert balls.seen.mean() > 0.3
    assert jumps(game, balls)[0] == 0


def test_wilsons_interval() -> None:
    assert wilson(50, 100) == pytest.approx([0.4038, 0.5962], abs=1e-4)  # Wilson's formula, by hand
    assert wilson(100, 100) == pytest.approx([0.9630, 1], abs=1e-4)


def test_the_study_counts_dreams_beside_the_game() -> None:
    pytest.importorskip("ale_py")
    table = BallStudy("pong-nano", rollouts=2, steps=3).run()
    assert table["dreams"]["rollouts"] == 2
    assert 0 <= table["dreams"]["alive"] <= 1
    assert table["game"]["alive"] == 1
