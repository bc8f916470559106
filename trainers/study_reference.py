"""What the fits of a design study are measured against: held-out play, short and long, and the recorded frames."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.trainers.rollouts import Rollouts

_Frames = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]

SHOWN = (0, 10, 100, 1000)
"""Steps of dreams that are shown."""
_CURVE = 24  # points of a curve, evenly on a logarithmic scale
_REFERENCE = 4000  # recorded frames among which a dreamed one's nearest is looked for


class RecordedFrames:
    """The frames of a store, and how far others are from the nearest of them.

    A dream that takes another course than the game did is not wrong for that; its frames still look like the game's.

    Args:
        store: The experience that the models were fitted to.

    Attributes:
        limit: The largest distance of two of them, among pairs drawn at random. A frame has left the data that is
            farther than this from the nearest. As all distances here it is a mean absolute difference of pixels in
            [0, 1].
        digest: The SHA-256 of the frames.
    """

    def __init__(self, store: EpisodeStore) -> None:
        ends = np.cumsum(store.lengths + 1)  # an episode of N steps has N + 1 frames
        rng = np.random.default_rng(0)
        flat = rng.choice(ends[-1], min(_REFERENCE, int(ends[-1])), replace=False)
        episode = np.searchsorted(ends, flat, side="right")
        frames = store.frames(episode, flat - np.concatenate(([0], ends))[episode])
        self.digest = hashlib.sha256(np.ascontiguousarray(frames).tobytes()).digest()
        self._frames = flat_frames(frames)
        self._squares = self._frames.square().sum(1)
        others = self._frames[torch.from_numpy(rng.permutation(len(self._frames)))]
        self.limit = float((self._frames - others).abs().mean(1).max())

    def distances(self, frames: _Frames) -> _Floats:
        """Of frames uint8 (N, C, h, w) to the one that is nearest by squared differences, (N,)."""
        x = flat_frames(frames)
        nearest = (self._squares - 2 * x @ self._frames.T).argmin(1)
        return (x - self._frames[nearest]).abs().mean(1).double().numpy()


def flat_frames(frames: _Frames) -> Tensor:
    """Frames uint8 (N, C, h, w) as float32 (N, C * h * w) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).flatten(1).float() / 255


@dataclass(frozen=True)
class Reference:
    """What all fits are measured against.

    Attributes:
        windows: Short pieces of held-out play.
        long: Long ones.
        recorded: What the fits have seen.
    """

    windows: Rollouts
    long: Rollouts
    recorded: RecordedFrames

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What tells it from any other, as plain data: its sizes, and a SHA-256 of all that is in it."""
        digest = hashlib.sha256(self.recorded.digest)
        for array in (*vars(self.windows).values(), *vars(self.long).values()):
            if array is not None:
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return {"windows": len(self.windows), "long": list(self.long.rew.shape), "sha256": digest.hexdigest()}

    @property
    def curve(self) -> npt.NDArray[np.int64]:
        """The steps at which curves are taken, from 1 on, (K,); those that are shown are among them."""
        steps = self.long.rew.shape[1]
        spread = np.geomspace(1, steps, _CURVE).round().astype(np.int64)
        return np.unique([*spread, *(s for s in SHOWN if 0 < s <= steps)])

    @property
    def held_out_at_most(self) -> float:
        """How far the farthest frame of the short pieces of real play is from the nearest recorded one."""
        return float(self.recorded.distances(np.concatenate(list(self.windows.after))).max())
