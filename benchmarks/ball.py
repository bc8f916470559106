"""Whether the ball of Breakout and Pong stays alive, in dreams and in the real game.

    python benchmarks/ball.py breakout-nano --policy random

A ball is alive as long as it can be seen, or is out of sight for a reason that the game knows: behind a paddle until it
is served again, or among Breakout's bricks. A ball that fades away in mid-field is not. The rules below were read off
real play, and hold for nearly all of it: the share is printed beside the dreams'.
"""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro

from diamond_gym.cli.terminal import counting
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry import load_world_model, resolve
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.own_agent import own_file
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts, policies_of, policy_maker, real_rollouts
from diamond_gym.trainers.worlds import Games, find_world

_Frames = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]
_Int = npt.NDArray[np.int64]

_FIRE, _Z = 1, 1.959964  # the serving key; the normal quantile of 95 % intervals
_VISIBLE = 0.5  # of the light of a whole ball


@dataclass(frozen=True)
class Court:
    """Where a game's ball can be seen in frames of 64×64, and when it may be out of sight.

    Attributes:
        rows: The rows in which it is looked for, from and below.
        columns: The columns.
        background: Light of the background there, of 255.
        light: What a whole ball adds to that over all its pixels.
        red: Whether its light is red, or else white, the least of the three colours.
        low: From this row on it may leave below (Breakout).
        high: Above this row it may be among the bricks (Breakout), for `among_bricks` steps.
        sides: Up to the first column and from the second on it may leave at a side (Pong).
        away: For how many steps it may be away before it is served, without anybody's doing (Pong) or if the serving
            key is pressed after that (Breakout).
        served_by_fire: Whether it waits for that key.
        reach: How far it moves in a step at most, in pixels along either axis.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    background: float
    light: float
    red: bool
    away: int
    reach: int
    low: int = 64
    high: int = 0
    among_bricks: int = 0
    sides: tuple[int, int] = (-1, 64)
    served_by_fire: bool = False


# Over 16,000 real steps of each game, random and scripted: in Breakout a lost ball can be served from the 9th hidden
# step on, and is then seen with the very next frame; in Pong it is back after 17 to 20. A game of Pong begins with up
# to 15 steps without a ball. In mid-field a ball was never unseen (Breakout), or for one step, at a wall (Pong).
COURTS: Mapping[str, Court] = {
    "Breakout": Court(
        (29, 57), (3, 61), 30, 195, True, 8, 4, low=53, high=31, among_bricks=15, served_by_fire=True
    ),
    "Pong": Court((11, 59), (8, 56), 25, 205, False, 24, 5, sides=(12, 50)),
}  # fmt: skip
_FLICKER = 2  # steps for which a ball may be unseen anywhere: more would be another ball
_LATE = 3  # steps after the serving key within which the ball has to appear


@dataclass(frozen=True)
class Balls:
    """The ball in N pieces of L frames.

    Attributes:
        seen: bool (N, L).
        row: int64 (N, L), where it is; meaningless where it is not seen.
        column: int64 (N, L).
    """

    seen: _Bool
    row: _Int
    column: _Int


def find_balls(game: str, frames: _Frames) -> Balls:
    """Looks for the ball in frames uint8 (N, L, C, 64, 64): the brightest 3×3 pixels of the field.

    Raises:
        KeyError: The game is not in `COURTS`.
    """
    court = COURTS[game]
    (top, bottom), (left, right) = court.rows, court.columns
    field = frames[..., top:bottom, left:right]
    light = (field[:, :, 0] if court.red else field.min(axis=2)).astype(np.float32) - court.background
    sums = _box_sums(light.clip(min=0))
    flat = sums.reshape(*sums.shape[:2], -1)
    place = flat.argmax(axis=-1)
    return Balls(
        flat.max(axis=-1) > _VISIBLE * court.light, place // sums.shape[-1] + top, place % sums.shape[-1] + left
    )


def _box_sums(images: _Floats) -> _Floats:
    """Sums over the 3×3 pixels around each, of images (N, L, h, w)."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return np.asarray(rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:])


def steps_alive(game: str, balls: Balls, act: _Int, known: int = 1) -> _Int:
    """For how many steps the ball stays alive, int64 (N,): all L - known of them, or up to where it is gone.

    Args:
        game: One of `COURTS`.
        balls: In L frames.
        act: int64 (N, L - 1), `act[:, t]` leads from frame t to frame t + 1.
        known: How many of the frames are given, so that what they show is not judged.
    """
    return np.array(
        [_alive(COURTS[game], *row, known) for row in zip(balls.seen, balls.row, balls.column, act, strict=True)],
        np.int64,
    )


def _alive(court: Court, seen: _Bool, rows: _Int, columns: _Int, act: _Int, known: int) -> int:
    length = len(seen)
    last: tuple[int, int] | None = None  # where it was seen last
    hidden, served = 0, -1
    for t in range(length):
        if seen[t]:
            last, hidden, served = (int(rows[t]), int(columns[t])), 0, -1
            continue
        hidden += 1
        if court.served_by_fire and served < 0 and hidden > court.away and t > 0 and act[t - 1] == _FIRE:
            served = hidden
        if t >= known and hidden > _allowed(court, last, hidden, served):
            # gone since it was seen last, or since the dream began
            return max(0, t - hidden + 1 - known)
    return length - known


def _allowed(court: Court, last: tuple[int, int] | None, hidden: int, served: int) -> int:
    """For how many steps a ball may be unseen that was last seen at `last`, and has been unseen for `hidden` steps."""
    row, column = last if last is not None else (-1, -1)
    lost = last is None or row >= court.low or not court.sides[0] < column < court.sides[1]
    if lost and court.served_by_fire:
        return hidden if served < 0 else served + _LATE
    if lost:
        return court.away
    return court.among_bricks if row <= court.high else _FLICKER


def jumps(game: str, balls: Balls) -> tuple[int, int]:
    """How many of the moves between two frames that both show the ball are further than it can fly, and all of them."""
    both = balls.seen[:, 1:] & balls.seen[:, :-1]
    far = np.maximum(np.abs(np.diff(balls.row)), np.abs(np.diff(balls.column))) > COURTS[game].reach + 1
    return int((far & both).sum()), int(both.sum())


@dataclass(frozen=True)
class BallStudy:
    """Counts the dreams in which the ball stays alive, beside real play from the same frames."""

    name: tyro.conf.Positional[str]
    """A model of Breakout or Pong."""
    policy: str = "random"
    """Who plays: random, scripted, or agent, the model's own."""
    rollouts: int = 100
    """Dreams, and as many pieces of real play."""
    steps: int = 50
    """Steps of each."""
    seed: int = 0
    """Seeds games and dreams."""

    def run(self) -> dict[str, Any]:
        """Plays, dreams and counts."""
        entry = resolve(self.name)
        game = entry.card.game
        if game not in COURTS:
            raise BadArgument(f"{game} has no ball that this study knows: it knows {', '.join(COURTS)}")
        policies_of(entry.card.has_agent, game, (self.policy,))
        model = load_world_model(entry)
        make = policy_maker(model, game, self.policy, own_file(entry, "auto"))
        with closing(Games(find_world(game).envs(self.rollouts))) as games:
            t = model.denoiser.num_steps_conditioning
            real = real_rollouts(games, make, t, self.steps, self.seed)
        sampler = SamplerConfig(**entry.card.sampler)
        with counting("dreaming", self.rollouts * self.steps, "frames") as advance:
            dreamed = dream_rollouts(model, real, sampler, make, self.seed, lambda frames: advance(frames, more=True))
        assert real.going is not None
        whole = real[np.flatnonzero(real.going.all(axis=1))]
        return {"dreams": count(game, dreamed)} | ({"game": count(game, whole)} if len(whole) else {})


def count(game: str, rollouts: Rollouts) -> dict[str, Any]:
    """In what share of rollouts the ball stays alive to the end, and how it moves."""
    balls, steps = find_balls(game, rollouts.obs), rollouts.rew.shape[1]
    lived = steps_alive(game, balls, rollouts.act, rollouts.num_start_frames)
    far, moves = jumps(game, balls)
    return {
        "rollouts": len(rollouts),
        "alive": float((lived == steps).mean()),
        "alive_interval_95": wilson(int((lived == steps).sum()), len(lived)),
        "mean_steps_alive": float(lived.mean()),
        "seen": float(balls.seen[:, -steps:].mean()),
        "jumps": far / moves if moves else 0.0,
    }


def wilson(hits: int, n: int) -> list[float]:
    """Wilson's interval of a share, which is honest at 0 and 1 too (Wilson 1927)."""
    p, z2 = hits / n, _Z**2
    middle, half = p + z2 / (2 * n), _Z * np.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    return [float(max(0.0, (middle - half) / (1 + z2 / n))), float(min(1.0, (middle + half) / (1 + z2 / n)))]


if __name__ == "__main__":
    try:
        print(json.dumps(tyro.cli(BallStudy).run(), indent=2))
    except DiamondGymError as error:
        raise SystemExit(str(error)) from None
