"""A game's state as JSON and its pictures, in the form of docs/play-protocol.md."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.play.branches import Branches
from diamond_gym.play.protocol import Kind
from diamond_gym.play.reality import difference
from diamond_gym.play.timeline import PlayStep

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """The state and pictures of a game at one moment.

    Attributes:
        step: The step.
        seek: Its number if it is an earlier one, else None.
        first: The earliest step that one can go back to.
        last: The present one.
        small: The small frame of a model of two stages.
        denoising: The frame while it was denoised; empty if nobody wants to see that.
    """

    step: PlayStep
    seek: int | None
    first: int
    last: int
    small: Pixels | None
    denoising: Sequence[Pixels]

    def fields(self) -> dict[str, Any]:
        """The fields of the message `state` that belong to the step."""
        step, real, finite = self.step, self.step.real, math.isfinite
        action = step.action.tolist() if isinstance(step.action, np.ndarray) else step.action
        return {
            "step": step.step,
            "reward": step.reward,
            "return": step.total,
            "end": round(step.end_prob, 5) if finite(step.end_prob) else None,  # a broken model's may be anything
            "terminated": step.terminated,
            "truncated": step.truncated,
            "value": None if step.value is None or not finite(step.value) else round(step.value, 4),
            "probabilities": [round(chance, 4) if finite(chance) else 0.0 for chance in step.probabilities],
            "action": action,
            "acting": step.by,
            "seed": step.seed,
            "start": step.start,
            "episode": step.episode,
            "episode_step": step.episode_step,
            "quality": step.quality,
            "seek": self.seek,
            "timeline": {"first": self.first, "last": self.last},
            "real": None
            if real is None
            else {
                "reward": real.reward,
                "return": step.real_total,
                "ended": real.ended,
                "divergence": round(real.divergence, 3),
            },
        }

    def pictures(self) -> Iterator[tuple[Kind, int, Pixels]]:
        """Kind, index and pixels of each frame, the dream's own last: by then the others have arrived."""
        if self.step.real is not None:
            yield Kind.REAL, 0, self.step.real.frame
            yield Kind.DIFFERENCE, 0, difference(self.step.real.frame, self.step.obs)
        if self.small is not None:
            yield Kind.SMALL, 0, self.small
        for index, image in enumerate(self.denoising):
            yield Kind.DENOISING, index, image
        yield Kind.DREAM, 0, self.step.obs


def branches_message(branches: Branches) -> dict[str, Any]:
    """The message `branches`."""
    each = branches.branches
    return {
        "type": "branches",
        "kind": branches.kind,
        "count": len(each),
        "steps": branches.steps,
        "labels": [branch.label for branch in each],
        "at": branches.at,
        "shown": branches.shown,
        "rewards": [branch.reward for branch in each],
        "ended": [branch.ended for branch in each],
        "done": branches.done,
    }
