"""What the denoiser predicts while it is trained: the steps it predicts worst, and frames for the reward/end model.

The first is prioritized replay (Schaul et al. 2016, arXiv 1511.05952), the second scheduled sampling (Bengio et al.
2015, arXiv 1506.03099). A game's score on the screen tells every reward, and a reward/end model that is fitted to real
frames reads nothing else. In a dream the digits hardly ever change, being small and hard to foresee; there such a model
gives no reward at all.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import TensorBatch, cut, to_tensors
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.sampler import SamplerConfig, objective_of, sample

_Int = npt.NDArray[np.int64]

ONE_STEP = SamplerConfig(num_denoising_steps=1)
EXAMINED = 6000  # steps that are looked at: on a CPU core about as long as a hundred updates
_DRAWN = 20_000  # as many steps are listed, the worst ones again and again
_ROWS = 64  # predicted at once
_CELL = 8  # pixels: an error counts by its worst cell, however still the rest of the frame


@torch.no_grad()
def predicted(denoiser: Denoiser | FoldedDenoiser, obs: Tensor, act: Tensor, noise: Tensor) -> Tensor:
    """The next frames in one denoising step, float32 (B, C, H, W), of obs (B, T, C, H, W), act (B, T) and noise."""
    frames, _ = sample(denoiser.condition, obs, act, noise, ONE_STEP, objective=objective_of(denoiser))
    return frames.float()


@torch.no_grad()
def dreamed(
    denoiser: Denoiser | FoldedDenoiser, batch: TensorBatch, t: int, noise: Tensor, length: int = 1
) -> tuple[Tensor, Tensor]:
    """Segments whose steps are dreamed in one denoising step each, with the actions that were really taken.

    After `length` dreamed steps in a row the next begin from real frames again: with 1 every frame is predicted from
    real ones, with L - T the segment is one dream, as evaluation in closed loop has it.

    Args:
        denoiser: Sees T frames; in its folded form it is faster.
        batch: Segments of L steps with `next_obs`.
        t: T.
        noise: Standard normal, (B, L - T, C, H, W).
        length: Dreamed steps in a row, at least 1.

    Returns:
        `batch.obs` without its last frame and `batch.next_obs`, both float32 (B, L - 1, C, H, W), with dreamed frames
        in them. The first T - 1 steps stay real, and so do the `length` that would begin from padding.
    """
    assert batch.next_obs is not None
    obs, next_obs = batch.obs[:, :-1].clone(), batch.next_obs.clone()
    count = noise.shape[1]
    length = min(length, count)
    begins = list(range(0, count, length))
    window = torch.stack([batch.obs[:, s : s + t] for s in begins], dim=1)  # (B, dreams, T, C, H, W)
    whole = torch.stack([batch.mask_padding[:, s : s + t].all(dim=1) for s in begins], dim=1)  # (B, dreams)
    for i in range(length):
        begins = [s for s in begins if s + i < count]  # the last dream may be shorter
        window, whole = window[:, : len(begins)], whole[:, : len(begins)]
        act = torch.stack([batch.act[:, s + i : s + i + t] for s in begins], dim=1)
        start = torch.stack([noise[:, s + i] for s in begins], dim=1).flatten(0, 1)
        frame = predicted(denoiser, window.flatten(0, 1), act.flatten(0, 1), start).unflatten(0, whole.shape)
        for j, s in enumerate(begins):
            kept = whole[:, j, None, None, None]
            place = s + i + t - 1
            next_obs[:, place] = torch.where(kept, frame[:, j], next_obs[:, place])
            if i + 1 < length and place + 1 < obs.shape[1]:
                obs[:, place + 1] = torch.where(kept, frame[:, j], obs[:, place + 1])
        window = torch.cat((window[:, :, 1:], frame[:, :, None]), dim=2)
    return obs, next_obs


class PrioritizedSteps:
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
            store: The experience.
            denoiser: Predicts in one denoising step, from torch's own noise.
            device: Where it is.
        """
        ends = np.cumsum(store.lengths)
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
        if total > 0:  # else the denoiser is perfect
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
        step: Steps in them, (N,).
        device: Where the denoiser is.
        across_lives: Whether it sees earlier lives where an episode has too few frames.

    Returns:
        The largest of `cell_errors`, (N,).
    """
    t = denoiser.num_steps_conditioning
    batch = to_tensors(cut(store, episode, step - (t - 1), t + 1, across_lives, final=True), device)
    target = batch.obs[:, t]
    result = predicted(denoiser, batch.obs[:, :t], batch.act[:, :t], torch.randn_like(target))
    return cell_errors(result, target).amax(dim=(1, 2, 3))


def cell_errors(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared differences of images (N, C, H, W), by cells of 8×8 pixels that overlap by half: (N, 1, h, w)."""
    squared = (a - b).square().mean(dim=1, keepdim=True)
    cell = min(_CELL, *squared.shape[-2:])
    return F.avg_pool2d(squared, cell, stride=max(1, cell // 2))
