"""Which parts of the experience a training looks at most: segments around events, and pixels near what moves.

The events are rewards and ends, things that appear (`trainers/appearances.py`), and steps that the denoiser predicts
worst (prioritized replay, Schaul et al. 2016, arXiv 1511.05952, with the error of the worst cell as the priority).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import Batch, SegmentSampler, cut, take, to_tensors
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.trainers.scheduled_sampling import predicted

_Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Focus:
    """Rows of a batch that are drawn around events.

    Attributes:
        rows: How many.
        places: First and last place of the event in its segment. A place beyond the segment's end means that the
            segment stops so many steps before the event: what leads to it is what a denoiser has to learn.
        find: Finds the events of a store, (episode, step), int64 (N, 2).
    """

    rows: int
    places: tuple[int, int]
    find: Callable[[EpisodeStore], _Int]


class FocusedSampler:
    """Draws batches of which some rows lie around events.

    The rare outcomes are then over-represented and the model's probabilities of them somewhat too high: the
    price of seeing them at all in a short training.

    Args:
        base: Draws the other rows, whose number is its own.
        focuses: What the rest is drawn around; where there is no such event yet, its rows are like the others.
        rng: Source of chance for the focused rows.
    """

    def __init__(self, base: SegmentSampler, focuses: Sequence[Focus], rng: np.random.Generator) -> None:
        self.base, self.focuses, self._rng = base, [focus for focus in focuses if focus.rows], rng
        self._events: list[_Int] = []
        self._version = -1

    @property
    def store(self) -> EpisodeStore:
        """Where the segments are cut from."""
        return self.base.store

    def sample(self) -> Batch:
        """Draws one batch, focused rows last."""
        if self._version != self.store.version:  # the store has grown
            self._events, self._version = [focus.find(self.store) for focus in self.focuses], self.store.version
        parts = [self.base.sample()]
        for focus, events in zip(self.focuses, self._events, strict=True):
            missing = 0 if len(events) else focus.rows  # a batch keeps its size
            while missing > 0:
                parts.append(take(self.base.sample(), slice(missing)))
                missing -= len(parts[-1])
            if len(events):
                chosen = events[self._rng.integers(len(events), size=focus.rows)]
                start = chosen[:, 1] - self._rng.integers(focus.places[0], focus.places[1] + 1, size=focus.rows)
                parts.append(cut(self.store, chosen[:, 0], start, self.base.length, self.base.across_lives))
        return Batch(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Batch)))

    def forget(self) -> None:
        """Has the events found anew for the next batch."""
        self._version = -1

    def state_dict(self) -> dict[str, Any]:
        """The state of chance, as plain data."""
        return {"base": self.base.state_dict(), "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state."""
        self.base.load_state_dict(state["base"])
        self._rng.bit_generator.state = state["rng"]
        self.forget()


def find_events(store: EpisodeStore) -> _Int:
    """All steps with a reward or an end: (episode, step), int64 (N, 2)."""
    events = []
    for number, length in enumerate(store.lengths):
        t = np.arange(length)
        steps = store.steps(np.full(length, number), t)
        hits = t[(steps["rew"] != 0) | (steps["end"] != 0)]
        events.append(np.stack((np.full(len(hits), number), hits), axis=1))
    return np.concatenate(events) if events else np.zeros((0, 2), np.int64)


def split(batch_size: int, *parts: float) -> tuple[int, ...]:
    """Unfocused rows of a batch, at least one, and those of each kind of focus."""
    rows, left = [], batch_size - 1
    for part in parts:
        rows.append(min(left, round(batch_size * part)))
        left -= rows[-1]
    return left + 1, *rows


def motion_weight(window: Tensor, extra: float) -> Tensor:
    """Weights of the denoiser's error by place: `extra` more near what moves in the past frames.

    A function of the condition alone, so that the best prediction stays the same.

    Args:
        window: Past frames, float32 (B, T, C, H, W).
        extra: In units of the weight elsewhere.

    Returns:
        float32 (B, 1, H, W), of mean 1.
    """
    moved = ((window[:, 1:] - window[:, :-1]).abs().amax(dim=(1, 2)) > 0.05)[:, None].float()
    near = F.max_pool2d(moved, kernel_size=(1, 9), stride=1, padding=(0, 4))  # in turn: half the time
    weight = 1 + extra * F.max_pool2d(near, kernel_size=(9, 1), stride=1, padding=(4, 0))
    return weight / weight.mean()


EXAMINED = 6000  # steps that are looked at: on a CPU core about as long as a hundred updates
_DRAWN = 20_000  # as many steps are listed, the worst ones again and again
_ROWS = 64  # predicted at once
_CELL = 8  # pixels: an error counts by its worst cell, however still the rest of the frame


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
        step: Steps in them, none of them the last, (N,).
        device: Where the denoiser is.
        across_lives: Whether it sees earlier lives where an episode has too few frames.

    Returns:
        The largest of the mean squared errors over cells of 8×8 pixels that overlap by half, (N,).
    """
    t = denoiser.num_steps_conditioning
    batch = to_tensors(cut(store, episode, step - (t - 1), t + 1, across_lives), device)
    target = batch.obs[:, t]
    result = predicted(denoiser, batch.obs[:, :t], batch.act[:, :t], torch.randn_like(target))
    squared = (result - target).square().mean(dim=1, keepdim=True)
    cell = min(_CELL, *squared.shape[-2:])
    return F.avg_pool2d(squared, cell, stride=max(1, cell // 2)).amax(dim=(1, 2, 3))
