"""Things that live, are lost and fade, drawn by hand; and the real games, in which they live and are where they are."""

from contextlib import closing
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from diamond_gym.trainers.things import Detector, things, wilson

L, GAMES = 40, ("Boxing", "Breakout", "Freeway", "MsPacman", "Pong")
COLOURS = {"Breakout": ((200, 72, 72), (0, 0, 0)), "Pong": ((236, 236, 236), (144, 72, 17))}


@cache
def detector(game: str) -> Detector:
    return Detector(game, film(game, {}, 2)[0])


def film(game: str, places: dict[int, tuple[int, int]], length: int = L, light: float = 1.0) -> npt.NDArray[np.uint8]:
    """Frames uint8 (1, length, 3, 64, 64) with a ball of one pixel at (row, column) in some of them."""
    colour, ground = COLOURS[game]
    frames = np.empty((1, length, 3, 64, 64), np.uint8)
    frames[:] = np.array(ground, np.uint8)[:, None, None]
    for t, (row, column) in places.items():
        frames[0, t, :, row, column] = np.array(ground) + light * (np.array(colour) - ground)
    return frames


def alive(game: str, places: dict[int, tuple[int, int]], act: dict[int, int] | None = None) -> list[int]:
    """The steps in which the ball is not alive."""
    acts = np.zeros((1, L - 1), np.int64)
    for t, a in (act or {}).items():
        acts[0, t] = a
    return np.flatnonzero(~detector(game).alive(film(game, places), acts)["ball"][0]).tolist()


def straight(steps: range, row: int, column: int) -> dict[int, tuple[int, int]]:
    return {t: (row + (t - steps.start) % 3, column + (t - steps.start) % 3) for t in steps}


@pytest.mark.parametrize("game", COLOURS)
def test_found_where_it_is(game: str) -> None:
    ball = things(game)[0].parts[0]
    seen = detector(game).seen(ball, film(game, {3: (40, 30), 4: (41, 32)}))[0]
    assert seen[3].tolist() == [40, 30] and seen[4].tolist() == [41, 32]
    assert np.flatnonzero(seen[:, 0] >= 0).tolist() == [3, 4]
    faint = detector(game).seen(ball, film(game, {3: (40, 30)}, light=0.3))
    assert (faint == -1).all(), "a ghost of a ball is none"
    smear = film(game, {3: (40, 30)})
    smear[0, 3, :, 40:44, 30:33] = smear[0, 3, :, 40, 30, None, None]
    assert (detector(game).seen(ball, smear) == -1).all(), "twelve pixels are no ball"
    two = film(game, {3: (40, 30)})
    two[0, 3, :, 35, 20] = two[0, 3, :, 40, 30]
    assert (detector(game).seen(ball, two) == -1).all(), "nor are two balls"


@pytest.mark.parametrize("game", COLOURS)
def test_seen_all_the_time_is_alive_and_fading_in_mid_field_is_not(game: str) -> None:
    everywhere = straight(range(L), 40, 30)
    assert alive(game, everywhere) == []
    assert alive(game, {t: place for t, place in everywhere.items() if t not in (10, 11)}) == []
    assert alive(game, {t: place for t, place in everywhere.items() if t not in (10, 11, 12)}) == [12]
    assert alive(game, straight(range(20), 40, 30)) == list(range(22, L))


def test_breakout_lost_below_waits_for_fire() -> None:
    lost = straight(range(10), 45, 30) | {10: (54, 30)}
    assert alive("Breakout", lost) == [], "nobody serves"
    assert alive("Breakout", lost, {12: 1}) == [], "too early a key does nothing"
    assert alive("Breakout", lost, {24: 1}) == list(range(29, L)), "served, but no ball comes"
    assert alive("Breakout", lost | straight(range(25, L), 38, 20), {24: 1}) == []


def test_breakout_among_the_bricks_for_a_while() -> None:
    up = straight(range(8), 31, 30) | {8: (30, 30)}
    assert alive("Breakout", up | straight(range(20, L), 31, 40)) == []
    assert alive("Breakout", up) == list(range(24, L))


def test_pong_is_served_without_a_key() -> None:
    out = straight(range(10), 30, 48) | {10: (30, 54)}
    assert alive("Pong", out | straight(range(31, L), 35, 32)) == []
    assert alive("Pong", out) == list(range(35, L))
    assert alive("Pong", straight(range(14, L), 35, 32)) == [], "a game begins"


def test_a_thing_of_several_parts_is_alive_while_enough_of_them_are() -> None:
    cars = next(thing for thing in things("Freeway") if thing.name == "cars")
    frames = np.full((1, 3, 3, 64, 64), 142, np.uint8)
    for part in cars.parts:
        frames[0, :, :, part.rows[0] + 1 : part.rows[0] + 3, 30:33] = np.array(part.colour)[:, None, None]
    detect = Detector("Freeway", frames[0])
    assert len(cars.parts) == 10 and detect.alive(frames, np.zeros((1, 2), np.int64))["cars"].all()
    for gone, lives in ((1, True), (2, False)):
        few = np.repeat(frames[:, :1], 30, axis=1)
        for part in cars.parts[:gone]:
            few[0, 3:, :, slice(*part.rows)] = 142
        assert detect.alive(few, np.zeros((1, 29), np.int64))["cars"][0, 10] == lives


def test_a_score_has_to_look_like_a_real_one() -> None:
    rng = np.random.default_rng(0)
    real = np.zeros((4, 3, 64, 64), np.uint8)
    real[:, :, 1:5, 13:33] = 200 * rng.integers(0, 2, (4, 1, 4, 20))
    frames = real[None].copy()
    frames[0, 1, :, 1:5, 13:33] //= 2  # darker
    frames[0, 2, :, 1:5, 13:33] = 100  # gone
    frames[0, 3, :, 1:5, 13:33] = 200 * rng.integers(0, 2, (1, 4, 20))  # no number
    seen = Detector("Breakout", real).alive(frames, np.zeros((1, 3), np.int64))["score"]
    assert seen.tolist() == [[True, True, False, False]]


def test_games_without_a_table_have_nothing_to_count() -> None:
    assert things("Asterix") == ()
    assert {game: next(thing.name for thing in things(game)) for game in GAMES} == {
        "Boxing": "player", "Breakout": "ball", "Freeway": "chicken", "MsPacman": "player", "Pong": "ball"
    }  # fmt: skip


# a thing, the axis (0 down, 1 across) and the byte of the game's memory that holds its place (Anand et al. 2019)
PLACES = {
    "Boxing": (("player", 1, 32), ("opponent", 1, 33)), "Breakout": (("ball", 1, 99), ("paddle", 1, 72)),
    "Freeway": (("chicken", 0, 14),), "MsPacman": (("player", 1, 10),),
    "Pong": (("ball", 1, 49), ("player", 0, 51), ("opponent", 0, 50)),
}  # fmt: skip


@pytest.mark.parametrize("game", GAMES)
def test_in_the_real_game_everything_lives_and_is_where_the_memory_says(game: str) -> None:
    pytest.importorskip("ale_py")
    from gymnasium.vector import AutoresetMode

    from diamond_gym.envs.atari import RealVectorEnv

    rows, rng = 2, np.random.default_rng(1)
    with closing(RealVectorEnv(game=game, num_envs=rows, autoreset_mode=AutoresetMode.SAME_STEP)) as envs:
        first, _ = envs.reset(seed=3)
        frames, acts, memory = [first], [], [np.stack([row.ale.getRAM() for row in envs.games])]
        for _ in range(110):
            acts.append(rng.integers(0, envs.single_action_space.n, rows))
            frames.append(envs.step(acts[-1])[0])
            memory.append(np.stack([row.ale.getRAM() for row in envs.games]))
    obs, ram = np.stack(frames, 1).transpose(0, 1, 4, 2, 3), np.stack(memory, 1).astype(float)
    detect = Detector(game, obs.reshape(-1, 3, 64, 64))
    for name, lives in detect.alive(obs, np.stack(acts, 1)).items():
        assert lives.mean() >= 0.99, name
    for name, axis, byte in PLACES[game]:
        part = next(thing for thing in detect.things if thing.name == name).parts[0]
        places = detect.seen(part, obs)[:, 20:]
        there = places[..., 0] >= 0
        assert there.mean() > 0.3
        scale = (-64 / 220 if game == "Freeway" else 64 / 210) if axis == 0 else 64 / 160
        apart = places[..., axis][there] - scale * ram[:, 20:, byte][there]
        assert np.quantile(np.abs(apart - np.median(apart)), 0.9) < 2.5, name


def test_wilsons_interval() -> None:
    assert wilson(50, 100) == pytest.approx([0.4038, 0.5962], abs=1e-4)  # Wilson's formula, by hand
    assert wilson(100, 100) == pytest.approx([0.9630, 1], abs=1e-4)
