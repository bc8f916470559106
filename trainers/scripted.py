"""Simple scripted players, so that the data shows what random play hardly ever reaches.

A random paddle seldom returns the ball, and a chicken that walks at random never crosses the road: a world model
fitted to such play has not seen what a good agent will do in it. The players look at frames only.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import game

_Frames = npt.NDArray[np.uint8]
_Actions = npt.NDArray[np.int64]
_Places = npt.NDArray[np.float64]
_Player = Callable[[_Frames, _Frames], _Actions]  # from these frames and those before, both (B, H, W, 3)

_NOOP, _FIRE, _RIGHT, _LEFT = 0, 1, 2, 3  # the minimal actions of Breakout and, but for the words, of Pong
_UP = 1  # of Freeway
_AWAY = 4  # of RoadRunner: to the left
_SCRIPTED_STEPS, _RANDOM_STEPS, _HELD_STEPS = 24.0, 10.0, 4.0  # mean lengths of spells, and of a held random action


def _centre(bright: npt.NDArray[np.bool_]) -> _Places:
    """The mean index of what is true along the last axis, (B,); NaN where nothing is."""
    count = bright.sum(axis=-1)
    total = (bright * np.arange(bright.shape[-1])).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _breakout(obs: _Frames, before: _Frames) -> _Actions:
    """Keeps the paddle under the ball, and serves when there is none."""
    size = obs.shape[1]
    walls = slice(round(size * 0.05), round(size * 0.95))

    def seen(frames: _Frames) -> tuple[_Places, _Places]:
        field = frames[:, round(size * 0.46) : round(size * 0.875), walls, 0]
        return _centre(field.max(axis=1) > 80), _centre(frames[:, round(size * 0.89), walls, 0] > 60)

    return _follow(seen(obs), seen(before), size / 14, _FIRE)


def _pong(obs: _Frames, before: _Frames) -> _Actions:
    """Keeps the right paddle at the ball's height; "right" is up here."""
    size = obs.shape[1]
    rows = slice(round(size * 0.17), round(size * 0.92))

    def seen(frames: _Frames) -> tuple[_Places, _Places]:
        field = frames[:, rows].astype(np.int16)
        # Ball and background differ most in blue, the green paddle and the background in green less red.
        ball = field[:, :, round(size * 0.13) : round(size * 0.87), 2].max(axis=2) > 48
        right = field[:, :, round(size * 0.87) : round(size * 0.94)]
        return -_centre(ball), -_centre((right[..., 1] - right[..., 0]).max(axis=2) > 10)

    return _follow(seen(obs), seen(before), size / 14, _NOOP)


def _always(act: int) -> _Player:
    """Takes one action, whatever it sees."""
    return lambda obs, before: np.full(len(obs), act, np.int64)


def _follow(now: tuple[_Places, _Places], before: tuple[_Places, _Places], near: float, unseen: int) -> _Actions:
    """Actions that bring the paddle to the ball; it coasts on for a step after the key is released."""
    (ball, paddle), (old_ball, old_paddle) = now, before
    ahead = ball + np.nan_to_num(ball - old_ball)
    coasting = paddle + np.nan_to_num(paddle - old_paddle)
    distance = ahead - coasting
    act = np.where(distance > near, _RIGHT, np.where(distance < -near, _LEFT, _NOOP))
    return np.where(np.isnan(distance), unseen, act).astype(np.int64)


PLAYERS: Mapping[str, _Player] = {
    "Breakout": _breakout,
    "Pong": _pong,
    "Freeway": _always(_UP),
    "RoadRunner": _always(_AWAY),
}


def check_scripted(name: str) -> None:
    """Raises BadArgument where there is no script for a game."""
    if name not in PLAYERS:
        raise BadArgument(f"there is a scripted player for {', '.join(PLAYERS)}, not for {name}")


class ScriptedPolicy:
    """Plays a game by a simple script, between spells of held random actions.

    The random spells bring what the script never does: misses, detours, states a learning agent will wander into.

    Args:
        name: The game, one of `PLAYERS`.
        num_envs: Rows of a batch, B.
        rng: The source of chance.

    Raises:
        BadArgument: There is no script for this game.
    """

    def __init__(self, name: str, num_envs: int, rng: np.random.Generator) -> None:
        check_scripted(name)
        self._num_actions = game(name).num_actions
        self._player, self._rng = PLAYERS[name], rng
        self._scripted = np.ones(num_envs, np.bool_)
        self._held = np.zeros(num_envs, np.int64)
        self._before: _Frames | None = None

    def __call__(self, obs: _Frames, first: npt.NDArray[np.bool_]) -> _Actions:
        """From frames (B, H, W, 3), and in which rows an episode begins (B,), to actions (B,)."""
        n = len(obs)
        chance = self._rng.random((3, n))
        ends = chance[0] < np.where(self._scripted, 1 / _SCRIPTED_STEPS, 1 / _RANDOM_STEPS)
        self._scripted ^= ends
        renew = (chance[1] < 1 / _HELD_STEPS) | ends | first
        self._held = np.where(renew, (chance[2] * self._num_actions).astype(np.int64), self._held)
        before = obs if self._before is None else np.where(first[:, None, None, None], obs, self._before)
        self._before = obs.copy()
        return np.where(self._scripted, self._player(obs, before), self._held)
