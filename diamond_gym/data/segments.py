"""Segments of stored episodes: cut, and turned into the networks' tensors."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import DiamondGymError

_Int = npt.NDArray[np.int64]
_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """B segments of L steps.

    Padding is 0 in every array. For uint8 frames that is black, while the method pads *normalised* frames
    with 0.0, mid-grey: `diamond_gym.data.segments.to_tensors` puts that there by the masks.

    Attributes:
        obs: Frames, uint8 (B, L, C, H, W); or their numbers, int64 (B, L, 1, 1, 1), in place of which a device has
            the frames (`diamond_gym.data.on_device`). So have `final_obs` and `next_obs`.
        act: Actions as the networks take them (`diamond_gym.actions`): int64 (B, L) where they are numbered, else
            vectors (B, L, A), int64 or float32.
        rew: Rewards, float32 (B, L), unclipped.
        end: bool (B, L).
        mask_padding: bool (B, L), true where the step, or the frame that follows the last one, is real.
        final_obs: The frame after the episode's last step, uint8 (B, C, H, W), in rows that hold that step.
        final_index: Where in the row the episode's last step is, int64 (B,); -1 in the rows without it.
        episode: The episodes' numbers, int64 (B,).
        start: The step of its episode with which each segment begins, int64 (B,); negative before the first.
    """

    obs: npt.NDArray[Any]
    act: npt.NDArray[Any]
    rew: npt.NDArray[np.float32]
    end: _Bool
    mask_padding: _Bool
    final_obs: npt.NDArray[Any]
    final_index: _Int
    episode: _Int
    start: _Int

    def __len__(self) -> int:
        return len(self.act)

    def next_obs(self) -> npt.NDArray[Any]:
        """The frame after every step, uint8 (B, L-1, C, H, W): the next of the row, or the true final one.

        The row's last step has no next frame in it, so the result is one shorter.
        """
        following = self.obs[:, 1:].copy()
        rows = self._rows_with_final()
        following[rows, self.final_index[rows]] = self.final_obs[rows]
        return following

    def next_mask(self) -> _Bool:
        """Where `next_obs` holds a frame, bool (B, L-1).

        True also for the padded step right before an episode's first frame, as in the method.
        """
        mask = self.mask_padding[:, 1:].copy()
        rows = self._rows_with_final()
        mask[rows, self.final_index[rows]] = True
        return mask

    def _rows_with_final(self) -> _Int:
        return np.flatnonzero((self.final_index >= 0) & (self.final_index < self.obs.shape[1] - 1))


def cut(
    store: EpisodeStore,
    episode: _Int,
    start: _Int,
    length: int,
    across_lives: bool = False,
    final: bool = False,
    frames_of: Callable[[_Int, _Int], npt.NDArray[Any]] | None = None,
) -> Batch:
    """Takes the steps `start[i]` to `start[i] + length` of `episode[i]`, padded where there are none.

    With `across_lives`, what lies before an episode's first step comes from the lives before in the same game, where
    the store knows them (`EpisodeStore.before`). With `final`, the frame after an episode's last step follows in the
    row, as real as the others, though no step begins with it. `frames_of` stands in for the store's `frames`.
    """
    t = np.arange(length)
    rows, inside = episode[:, None] + t * 0, start[:, None] + t  # (B, L)
    if across_lives:
        rows, inside = _into_earlier_lives(store, rows, inside)
    steps_of = store.lengths[rows]
    mask = (inside >= 0) & (inside < steps_of)
    inside = np.minimum(np.maximum(inside, 0), steps_of - 1)
    steps_of = store.lengths[episode]
    last = steps_of - 1 - start
    has_last = (last >= 0) & (last < length)
    frames = (frames_of or store.frames)(
        np.concatenate((rows.ravel(), episode[has_last])), np.concatenate((inside.ravel(), steps_of[has_last]))
    )
    obs, steps = frames[: rows.size].reshape(*rows.shape, *frames.shape[1:]), store.steps(rows, inside)
    act = np.ascontiguousarray(steps["act"] if store.codec is None else store.codec.encode(steps["act"]))
    obs[~mask], act[~mask] = 0, 0
    steps[~mask] = 0
    final_obs = np.zeros((len(start), *frames.shape[1:]), frames.dtype)
    final_obs[has_last] = frames[rows.size :]
    if final:
        followed = np.flatnonzero(has_last & (last < length - 1))
        obs[followed, last[followed] + 1], mask[followed, last[followed] + 1] = final_obs[followed], True
    rew, end = (np.ascontiguousarray(steps[name]) for name in ("rew", "end"))
    return Batch(obs, act, rew, end, mask, final_obs, np.where(has_last, last, -1), episode, start)


def _into_earlier_lives(store: EpisodeStore, episode: _Int, t: _Int) -> tuple[_Int, _Int]:
    """Where steps t < 0 of episodes really were, as far as is known: episodes and steps of the lives before."""
    while (earlier := (t < 0) & (store.before[episode] >= 0)).any():
        episode = np.where(earlier, store.before[episode], episode)
        t = np.where(earlier, t + store.lengths[episode], t)
    return episode, t


def windows(store: EpisodeStore, n: int, length: int, seed: int, past: int = 0) -> Batch:
    """Draws `n` windows of `length` real steps, never padded, uniformly over all there are: for evaluation.

    They differ from each other as long as there are enough; two may overlap.

    Args:
        store: Where from.
        n: Windows.
        length: Steps of each.
        seed: Seeds the choice.
        past: So many of the first steps may lie in earlier lives of the same game.

    Raises:
        DiamondGymError: No episode is that long.
    """
    before = _steps_before(store, past)
    per_episode = np.maximum(store.lengths + before - length + 1, 0)
    total = int(per_episode.sum())
    if total == 0:
        longest = int(store.lengths.max(initial=0))
        raise DiamondGymError(f"no episode in {store.folder} has {length} steps (the longest has {longest})")
    place = np.random.default_rng(seed).choice(total, n, replace=n > total)
    cumulative = np.cumsum(per_episode)
    episode = np.searchsorted(cumulative, place, side="right")
    start = place - (cumulative - per_episode)[episode] - before[episode]
    return cut(store, episode, start, length, across_lives=past > 0)


def _steps_before(store: EpisodeStore, most: int) -> _Int:
    """How many steps each episode's game is known to have had before it, up to `most`."""
    steps = np.zeros(len(store.lengths), np.int64)
    for number, before in enumerate(store.before.tolist()):
        if before >= 0:  # an earlier number, and so known already
            steps[number] = min(most, store.lengths[before] + steps[before])
    return steps


@dataclass(frozen=True)
class TensorBatch:
    """B segments of L steps on a device.

    Attributes:
        obs: Frames in [-1, 1], float32 (B, L, C, H, W); 0 where padded.
        next_obs: The frames that followed, float32 (B, L - 1, C, H, W), true final frames included, or None.
        act: (B, L, ...), as in the batch.
        rew: float32 (B, L), unclipped.
        end: bool (B, L).
        mask_padding: bool (B, L), True where the step is real.
    """

    obs: Tensor
    next_obs: Tensor | None
    act: Tensor
    rew: Tensor
    end: Tensor
    mask_padding: Tensor


def take(batch: Batch, rows: slice) -> Batch:
    """Some of a batch's rows, as views."""
    return Batch(*(getattr(batch, f.name)[rows] for f in fields(Batch)))


def to_tensors(batch: Batch, device: torch.device | str = "cpu", next_obs: bool = False) -> TensorBatch:
    """Moves a batch to a device as uint8 and makes the floats there.

    Args:
        batch: From a sampler.
        device: Where to.
        next_obs: Whether to include the frames that followed each step.
    """
    device = torch.device(device)

    def move(array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    mask = move(batch.mask_padding)
    following = None
    if next_obs:
        following = normalised(move(batch.next_obs()), move(batch.next_mask()))
    return TensorBatch(
        normalised(move(batch.obs), mask), following, move(batch.act), move(batch.rew), move(batch.end), mask
    )


def normalised(pixels: Tensor, mask: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]; padding becomes 0.0, mid-grey."""
    return (pixels.float() / 255 * 2 - 1) * mask[:, :, None, None, None]
