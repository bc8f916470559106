"""What dreams look like beside real play: artefacts, the distance to the nearest real frame, things that survive."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.frames import SeenColours
from diamond_gym.trainers.fidelity import Table
from diamond_gym.trainers.rollouts import Rollouts
from diamond_gym.trainers.things import Detector, things, wilson

AFTER = (10, 50, 200)
_MOST = 8192  # real frames to hold dreams against
_CHUNK = 256  # frames compared at once


def distances(frames: Tensor, real: Tensor) -> Tensor:
    """Root mean squared difference, in levels of 255, of frames (N, C, h, w) to the nearest of (M, C, h, w): (N,)."""
    x, best = frames.flatten(1).float(), torch.full((len(frames),), torch.inf)
    for part in real.split(_CHUNK):
        y = part.flatten(1).float()
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        best = torch.minimum(best, squares.amin(1))
    return (best.clamp(min=0) / x.shape[1]).sqrt()


class Looks:
    """Compares dreams with real play by what they look like.

    Args:
        world: The game's name: what is counted in it is what `things` says.
        held_out: Real frames, uint8 (M, C, h, w): colours, patches and near frames are theirs.
    """

    def __init__(self, world: str, held_out: npt.NDArray[np.uint8]) -> None:
        step = -(-len(held_out) // _MOST)
        self._real = torch.from_numpy(held_out)
        self._some = self._real[::step]
        self._seen = SeenColours(self._real) if held_out.shape[1] <= 3 else None
        # the table's places are those of Atari frames as the paper has them
        known = held_out.shape[1:] == (3, 64, 64) and things(world)
        self._detector = Detector(world, held_out) if known else None

    @classmethod
    def beside(cls, world: str, held_out: EpisodeStore) -> Self:
        """Compares with all frames of a store of held-out play."""
        return cls(world, np.concatenate([episode.obs.transpose(0, 3, 1, 2) for episode in held_out]))

    def table(self, pieces: Sequence[tuple[Rollouts, Rollouts]]) -> Table:
        """Figures after 10, 50 and 200 steps of all pairs of real and dreamed play that are so long.

        Each has the number of dreams; the share of `artefacts`; the distance to the `nearest` real frame, in levels of
        255; and of a game that `things` knows the share of dreams in which each thing is alive, and `all` of them with
        an interval. `real` has the same of the game's own frames.
        """
        lives = [[self._lives(side) for side in pair] for pair in pieces]
        table: Table = {}
        for h in AFTER:
            long = [i for i, (_, dreamed) in enumerate(pieces) if dreamed.rew.shape[1] >= h]
            if not long:
                continue
            sides: list[Table] = []
            for side in (0, 1):
                frames = torch.from_numpy(np.concatenate([pieces[i][side].after[:, h - 1] for i in long]))
                alive = {
                    name: np.concatenate([lives[i][side][name][:, h - 1] for i in long])
                    for name in lives[long[0]][side]
                }
                sides.append(self._figures(frames, alive))
            table[f"after_{h}"] = {"dreams": sum(len(pieces[i][1]) for i in long)} | sides[1] | {"real": sides[0]}
        return table

    def _lives(self, rollouts: Rollouts) -> dict[str, npt.NDArray[np.bool_]]:
        """Which things are alive after each step, (N, H) by name, and `all` of them."""
        if self._detector is None:
            return {}
        alive = self._detector.alive(rollouts.obs, rollouts.act)
        steps = {name: values[:, rollouts.num_start_frames :] for name, values in alive.items()}
        return steps | {"all": np.logical_and.reduce(list(steps.values()))}

    def _figures(self, frames: Tensor, alive: dict[str, npt.NDArray[np.bool_]]) -> Table:
        table: Table = {name: float(values.mean()) for name, values in alive.items()}
        if alive:
            table["all_interval_95"] = wilson(int(alive["all"].sum()), len(frames))
        if self._seen is not None:
            table["artefacts"] = float(self._seen.artefacts(frames).mean())
        return table | {"nearest": float(distances(frames, self._some).mean())}
