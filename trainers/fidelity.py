"""How faithful a world model is: all that `diamond-gym evaluate-wm` measures, part by part."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.closed_loop import (
    RealPlay,
    Reliability,
    Rollout,
    closed_loop,
    detection,
    figures,
    judge,
    reliability,
)
from diamond_gym.trainers.image_figures import Course, Horizon, by_horizon, course, mse, spread
from diamond_gym.trainers.rollouts import Dreamed, MakePolicy, Rollouts, dream_rollout
from diamond_gym.world_model import WorldModel

Table = dict[str, Any]
Progress = Callable[[int], None]
_LEVEL, _RESAMPLES = 0.95, 10_000


@dataclass(frozen=True)
class ClosedLoop:
    """Held-out windows, dreamed over again with the actions that were really taken.

    Attributes:
        play: What really happened.
        rollout: What was dreamed.
        judged: What the reward/end model says of the real frames, see `calibration.judge`.
    """

    play: RealPlay
    rollout: Rollout
    judged: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None

    @classmethod
    def measure(
        cls, model: WorldModel, play: RealPlay, sampler: SamplerConfig, seed: int, progress: Progress | None = None
    ) -> "ClosedLoop":
        """Dreams."""
        return cls(play, closed_loop(model, play, sampler, seed=seed, progress=progress), judge(model, play))

    @cached_property
    def dream(self) -> Horizon:
        """The dream's errors."""
        return by_horizon(self.play.obs[:, self._t :], self.rollout.obs)

    @cached_property
    def copy(self) -> Horizon:
        """Those of repeating the last real frame."""
        return by_horizon(self.play.obs[:, self._t :], self.play.obs[:, self._t - 1 : self._t])

    @property
    def _t(self) -> int:
        return int(self.play.obs.shape[1] - self.rollout.obs.shape[1])

    def reliability(self) -> dict[str, Reliability]:
        """Of the chances of a reward (of either sign) and of an end, on the real frames; empty without a model."""
        if self.judged is None:
            return {}
        rew, end = self.judged
        return {
            "reward": reliability(1 - rew[..., 1], self.play.rew != 0),
            "end": reliability(end, self.play.end),
        }

    def table(self, horizons: Iterable[int]) -> Table:
        """The figures at some horizons, and of rewards and ends over all of them."""
        chosen = tuple(horizons)
        table: Table = dict(figures(self.play, self.rollout, chosen))
        for h in chosen:
            table[f"psnr_{h}"], table[f"psnr_copy_{h}"] = self.dream.psnr[h - 1], self.copy.psnr[h - 1]
            table[f"ssim_{h}"], table[f"ssim_copy_{h}"] = self.dream.ssim[h - 1], self.copy.ssim[h - 1]
        if self.judged is not None:
            table["reward_f1_on_real_frames"] = detection(self.play.rew, self.judged[0].argmax(-1) - 1).f1
            table["end_f1_on_real_frames"] = detection(self.play.end, self.judged[1] > 0.5).f1
        for name, result in self.reliability().items():
            table |= {f"{name}_ece": result.ece, f"{name}_brier": result.brier, f"{name}_brier_skill": result.skill}
        return table


@dataclass(frozen=True)
class UnderPolicy:
    """A policy in the game, and in dreams that begin from the same frames.

    Attributes:
        policy: Its name.
        game: The game's.
        real: What it did in the game.
        dreamed: What it did in dreams.
    """

    policy: str
    game: str
    real: Rollouts
    dreamed: Dreamed

    @classmethod
    def measure(
        cls,
        model: WorldModel,
        game: str,
        policy: str,
        real: Rollouts,
        make_policy: MakePolicy,
        sampler: SamplerConfig,
        seed: int,
        progress: Progress | None = None,
    ) -> "UnderPolicy":
        """Dreams."""
        return cls(policy, game, real, dream_rollout(model, real.play, make_policy, sampler, seed, progress))

    def returns(self) -> Table:
        """Mean returns over the pieces' steps (up to the first end) in dream and game, with bootstrap intervals.

        The difference is taken start by start: both begin from the same frame.
        """
        dream, real = self.dreamed.returns, self.real.returns
        return {
            "steps": self.dreamed.obs.shape[1],
            "starts": len(dream),
            "dream": float(dream.mean()),
            "dream_interval_95": interval(dream),
            "real": float(real.mean()),
            "real_interval_95": interval(real),
            "difference": float((dream - real).mean()),
            "difference_interval_95": interval(dream - real),
        }


@dataclass(frozen=True)
class Drift:
    """Simple statistics of frames, step by step, of free dreams and of the game under the same policy."""

    dreamed: Course
    real: Course

    @classmethod
    def measure(
        cls,
        model: WorldModel,
        real: Rollouts,
        make_policy: MakePolicy,
        sampler: SamplerConfig,
        seed: int,
        progress: Progress | None = None,
    ) -> "Drift":
        """Dreams as many steps as the pieces have, without a restart."""
        dreamed = dream_rollout(model, real.play, make_policy, sampler, seed, progress).obs
        steps = dreamed.shape[1]
        t = real.play.obs.shape[1] - steps
        last = real.play.obs[:, t - 1 : t]
        # where a new game begins the picture jumps, which is no movement
        cuts = np.diff(real.going, axis=1, prepend=True)
        return cls(course(np.concatenate((last, dreamed), axis=1)), course(real.play.obs[:, t - 1 :], cuts))

    def table(self) -> Table:
        """The statistics' means over the last quarter of the steps, in dreams and over the game's own."""
        steps = len(self.real.brightness)
        late = slice(steps - max(1, steps // 4), steps)
        table: Table = {"steps": steps}
        for name in vars(self.real):
            dreamed, real = (float(np.nanmean(getattr(side, name)[late])) for side in (self.dreamed, self.real))
            table |= {name: dreamed, f"{name}_over_real": dreamed / real if real else float("nan")}
        return table


@dataclass(frozen=True)
class Diversity:
    """Several dreams of one start with the same actions, beside the one thing that really followed.

    Attributes:
        real: uint8 (K, H, C, H, W): the game is deterministic, so that another try would show the same.
        dreamed: uint8 (K, N, H, C, H, W).
        before: uint8 (K, C, H, W), the last real frames before.
        act: int64 (K, H), the actions.
    """

    real: npt.NDArray[np.uint8]
    dreamed: npt.NDArray[np.uint8]
    before: npt.NDArray[np.uint8]
    act: npt.NDArray[np.int64]

    @classmethod
    def measure(
        cls,
        model: WorldModel,
        play: RealPlay,
        dreams: int,
        sampler: SamplerConfig,
        seed: int,
        progress: Progress | None = None,
    ) -> "Diversity":
        """Dreams each piece `dreams` times."""
        rows = np.repeat(np.arange(len(play.obs)), dreams)
        copies = RealPlay(play.obs[rows], play.act[rows], play.rew[rows], play.end[rows])
        rollout = closed_loop(model, copies, sampler, seed=seed, progress=progress)
        t = play.obs.shape[1] - rollout.obs.shape[1]
        shape = (len(play.obs), dreams, *rollout.obs.shape[1:])
        return cls(play.obs[:, t:], rollout.obs.reshape(shape), play.obs[:, t - 1], play.act[:, t - 1 :])

    @cached_property
    def spread(self) -> npt.NDArray[np.float64]:
        """Mean squared distance between two dreams of one start, (H,); the game's is 0."""
        return spread(self.dreamed)

    @cached_property
    def error(self) -> npt.NDArray[np.float64]:
        """Mean squared distance of a dream to what really followed, (H,)."""
        of_each = [
            mse(self.real[:, h], self.dreamed[:, k, h]).mean()
            for h in range(self.real.shape[1])
            for k in range(self.dreamed.shape[1])
        ]
        return np.asarray(np.array(of_each).reshape(self.real.shape[1], -1).mean(axis=1))

    def table(self, horizons: Iterable[int]) -> Table:
        """Distances at some horizons."""
        table: Table = {"starts": len(self.dreamed), "dreams": self.dreamed.shape[1]}
        for h in horizons:
            if h <= len(self.spread):
                table |= {f"between_dreams_{h}": self.spread[h - 1], f"to_reality_{h}": self.error[h - 1]}
        return table


def interval(values: npt.NDArray[np.floating]) -> list[float]:
    """A percentile bootstrap interval of the mean."""
    drawn = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return [float(low), float(high)]
