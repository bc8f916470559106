"""Pieces of real play under a policy, to dream on from: the game itself says what really followed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diamond_gym.trainers.collect import Policy
from diamond_gym.trainers.collect_ale import Games
from diamond_gym.trainers.evaluation import RealPlay

_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pieces:
    """N pieces of real play: T frames to begin from, and what the game showed in the H steps after them.

    Attributes:
        play: Frames uint8 (N, T + H, C, H, W), actions, the rewards' signs, and the ends (a lost life is one).
        going: bool (N, H), false from the step on in which a new game began.
    """

    play: RealPlay
    going: _Bool

    @property
    def returns(self) -> npt.NDArray[np.float32]:
        """The sum of the rewards' signs up to the first end, (N,)."""
        return returns(self.play.rew, self.play.end | ~self.going)


def returns(rew: npt.NDArray[np.float32], end: _Bool) -> npt.NDArray[np.float32]:
    """Sums of rewards (N, H) up to and with the step of the first end (N, H)."""
    after = np.cumsum(end, axis=1) - end > 0
    return np.asarray(np.where(after, 0, rew).sum(axis=1), np.float32)


def record(
    games: Games,
    policy: Policy,
    t: int,
    steps: int,
    warm_up: int,
    rng: np.random.Generator,
    progress: Callable[[int], None] | None = None,
) -> Pieces:
    """Plays each game for a random while, then on until T frames lie within one game, and records from there.

    They may be of several lives, as a dream's own past may be that goes on.

    Args:
        games: N games side by side.
        policy: Who plays all of it.
        t: Frames to begin from, T.
        steps: Steps to record after them, H.
        warm_up: Steps to play before, 0 to so many.
        rng: The source of chance.
        progress: Called with the steps of each game so far.
    """
    obs = games.reset(int(rng.integers(2**31 - 1024)))
    n = len(obs)
    wait = rng.integers(0, warm_up + 1, size=n)
    frames = np.zeros((n, t + steps, *obs.shape[1:]), np.uint8)
    act, rew = np.zeros((n, t + steps - 1), np.int64), np.zeros((n, steps), np.float32)
    end, restart = np.zeros((n, steps), np.bool_), np.zeros((n, steps), np.bool_)
    # At how many frames each row's record stands; a new game begins it anew until one more than T are of the same.
    length, first = np.ones(n, np.int64), np.ones(n, np.bool_)
    frames[:, 0] = obs
    for step in range(10**9):
        chosen = policy(obs, first)
        obs, reward, ended, truncated, restarted = games.step(chosen)
        first = ended | truncated | restarted
        for i in np.flatnonzero(length < t + steps):
            if (restarted[i] and length[i] <= t) or (step < wait[i] and length[i] < t):
                frames[i, 0], length[i] = obs[i], 1
                continue
            at = length[i]
            frames[i, at], act[i, at - 1] = obs[i], chosen[i]
            if at >= t:
                rew[i, at - t], end[i, at - t], restart[i, at - t] = np.sign(reward[i]), ended[i], restarted[i]
            length[i] += 1
        if progress is not None:
            progress(step + 1)
        if (length == t + steps).all():
            break
    going = ~np.logical_or.accumulate(restart, axis=1)
    rew[~going] = 0
    play = RealPlay(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3)), act, rew, end & going)
    return Pieces(play, going)
