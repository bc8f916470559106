"""Steps that the denoiser foresees worst, to be drawn more often: a bounce at a wall, a collision, whatever is rare.

A ball that flies on is most of what a fitting sees, and a ball that turns round is where dreams lose it. Rewards do not
point at such steps, nor does anything that appears; the denoiser's own error does, whatever the game. What no one can
foresee is among them for good, so they should not be all of a batch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import cut, to_tensors
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.trainers.predicted_frames import predicted

_Int = npt.NDArray[np.int64]

EXAMINED = 6000  # steps that are looked at: on a CPU core about as long as a hundred updates
_DRAWN = 20_000  # as many steps are listed, the worst ones again and again
_ROWS = 64  # predicted at once
_CELL = 8  # pixels: an error counts by its worst cell, however still the rest of the frame


class Surprises:
    """Finds the steps of a store whose next frames were predicted worst when `examine` was last called.

    Args:
        rng: Draws what is examined, and how often each of it is listed.
        across_lives: Whether the denoiser sees earlier lives where an episode has too few frames.
    """

    def __init__(self, rng: np.random.Generator, across_lives: bool = False) -> None:
        self._rng, self._across_lives = rng, across_lives
        self._table: _Int = np.zeros((0, 2), np.int64)

    def __call__(self, store: EpisodeStore) -> _Int:
        """(episode, step), int64 (N, 2): each as often as its error has it."""
        return self._table

    def examine(self, store: EpisodeStore, denoiser: Denoiser, device: torch.device | str = "cpu") -> None:
        """Predicts the next frames of steps drawn evenly, and lists them in proportion to the errors.

        Args:
            store: The experience; an episode's last step is not looked at.
            denoiser: Predicts in one denoising step, from torch's own noise.
            device: Where it is.
        """
        ends = np.cumsum(np.maximum(store.lengths - 1, 0))
        if not len(ends) or not ends[-1]:
            return
        flat = self._rng.choice(ends[-1], size=min(EXAMINED, int(ends[-1])), replace=False)
        episode = np.searchsorted(ends, flat, side="right")
        step = flat - np.concatenate(([0], ends))[episode]
        worst = np.concatenate(
            [
                errors(store, denoiser, episode[rows], step[rows], device, self._across_lives).float().cpu().numpy()
                for rows in (slice(i, i + _ROWS) for i in range(0, len(flat), _ROWS))
            ]
        ).astype(np.float64)
        total = worst.sum()
        if total > 0:  # a perfect denoiser has no surprises left
            chosen = self._rng.choice(len(flat), size=_DRAWN, p=worst / total)
            self._table = np.column_stack((episode, step))[chosen]

    def state_dict(self) -> dict[str, Any]:
        """What was found, and the state of chance, as plain data."""
        return {"table": torch.from_numpy(self._table.copy()), "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state."""
        self._table = state["table"].numpy().copy()
        self._rng.bit_generator.state = state["rng"]


@torch.no_grad()
def errors(
    store: EpisodeStore,
    denoiser: Denoiser,
    episode: _Int,
    step: _Int,
    device: torch.device | str = "cpu",
    across_lives: bool = False,
) -> Tensor:
    """How badly the frames after the given steps are predicted, by the worst cell of each.

    Args:
        store: The experience.
        denoiser: Sees T frames.
        episode: Numbers of episodes, (N,).
        step: Steps in them, none of them the last, (N,).
        device: Where the denoiser is.
        across_lives: Whether it sees earlier lives where an episode has too few frames.

    Returns:
        The largest of the mean squared errors over cells of 8×8 pixels that overlap by half, (N,).
    """
    t = denoiser.num_steps_conditioning
    batch = to_tensors(cut(store, episode, step - (t - 1), t + 1, across_lives), device)
    target = batch.obs[:, t]
    found = predicted(denoiser, batch.obs[:, :t], batch.act[:, :t], torch.randn_like(target))
    squared = (found - target).square().mean(dim=1, keepdim=True)
    cell = min(_CELL, *squared.shape[-2:])
    return F.avg_pool2d(squared, cell, stride=max(1, cell // 2)).amax(dim=(1, 2, 3))
