"""What small budgets look at most: segments drawn around events, and pixels near what moves.

A ball that flies on is most of what a fitting sees, and a ball that turns round is where dreams lose it. Rewards do not
point at such steps, nor does anything that appears; the denoiser's own error does, whatever the game. What no one can
foresee is among them for good, so they should not be all of a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import Batch, cut, to_tensors
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.trainers.scheduled_sampling import predicted

_Events = npt.NDArray[np.int64]


class Sampler(Protocol):
    """What draws batches of segments."""

    @property
    def store(self) -> EpisodeStore:
        """Where the segments are cut from."""
        ...

    @property
    def length(self) -> int:
        """Steps per segment."""
        ...

    @property
    def across_lives(self) -> bool:
        """Whether earlier lives stand where a segment reaches over its episode's beginning."""
        ...

    def sample(self) -> Batch:
        """Draws one batch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state of chance, as plain data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state."""
        ...


class FocusedSampler:
    """Draws part of each batch around events, the rest as another sampler does.

    The rare outcomes are then over-represented and the model's probabilities of them somewhat too high: the
    price of seeing them at all in a short fitting.

    Args:
        base: Draws the unfocused rows, whose number is its own; a focused sampler itself where there are two kinds of
            event.
        num_focused: Rows per batch around an event.
        rng: Source of chance for the focused rows.
        places: First and last place of the event in its segment. A place beyond the segment's end means that the
            segment stops so many steps before the event: what leads to it is what a denoiser has to learn.
            Default: anywhere but in the last slot, whose successor the segment would not hold.
        find: Finds the events of a store, (episode, step), int64 (N, 2). Default: rewards and ends.
    """

    def __init__(
        self,
        base: Sampler,
        num_focused: int,
        rng: np.random.Generator,
        places: tuple[int, int] | None = None,
        find: Callable[[EpisodeStore], _Events] | None = None,
    ) -> None:
        self.base, self.num_focused, self._rng = base, num_focused, rng
        self.places = places or (0, base.length - 2)
        self._find = find or find_events
        self._events, self._version = np.zeros((0, 2), np.int64), -1

    @property
    def store(self) -> EpisodeStore:
        """Where the segments are cut from."""
        return self.base.store

    @property
    def length(self) -> int:
        """Steps per segment."""
        return self.base.length

    @property
    def across_lives(self) -> bool:
        """Whether earlier lives stand where a segment reaches over its episode's beginning."""
        return self.base.across_lives

    def sample(self) -> Batch:
        """Draws one batch, focused rows last."""
        batch = self.base.sample()
        size = len(batch.rew)
        if self.num_focused and self._version != self.store.version:  # the store has grown
            self._events, self._version = self._find(self.store), self.store.version
        if not len(self._events):  # then these rows are like the others, for a batch keeps its size
            while len(batch.rew) < size + self.num_focused:
                batch = concatenate(batch, self.base.sample())
            return first(batch, size + self.num_focused)
        chosen = self._events[self._rng.integers(len(self._events), size=self.num_focused)]
        offset = self._rng.integers(self.places[0], self.places[1] + 1, size=self.num_focused)
        around = cut(self.store, chosen[:, 0], chosen[:, 1] - offset, self.length, self.across_lives)
        return concatenate(batch, around)

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


def find_events(store: EpisodeStore) -> _Events:
    """All steps with a reward or an end: (episode, step), int64 (N, 2)."""
    events = []
    for number, length in enumerate(store.lengths):
        t = np.arange(length)
        steps = store.steps(np.full(length, number), t)
        hits = t[(steps["rew"] != 0) | (steps["end"] != 0)]
        events.append(np.stack((np.full(len(hits), number), hits), axis=1))
    return np.concatenate(events) if events else np.zeros((0, 2), np.int64)


def concatenate(first: Batch, second: Batch) -> Batch:
    """Two batches as one."""
    return Batch(*(np.concatenate((getattr(first, f.name), getattr(second, f.name))) for f in fields(Batch)))


def first(batch: Batch, rows: int) -> Batch:
    """The first rows of a batch."""
    return Batch(*(getattr(batch, f.name)[:rows] for f in fields(Batch)))


def motion(window: Tensor, extra: float) -> Tensor:
    """Weights (B, 1, H, W) of the denoiser's error: 1, and `extra` more near what moved in frames (B, T, C, H, W)."""
    moved = (window[:, 1:] - window[:, :-1]).abs().amax(dim=(1, 2)) > 0.05  # (B, H, W)
    return 1 + extra * near(moved[:, None].float())


def near(values: Tensor) -> Tensor:
    """The greatest of values (B, 1, H, W) within four pixels: of a moving thing's neighbourhood, where it goes next."""
    rows = F.max_pool2d(values, kernel_size=(1, 9), stride=1, padding=(0, 4))
    return F.max_pool2d(rows, kernel_size=(9, 1), stride=1, padding=(4, 0))  # in turn: half the time


def split(batch_size: int, *parts: float) -> tuple[int, ...]:
    """Unfocused rows of a batch, at least one, and those of each kind of focus."""
    rows, left = [], batch_size - 1
    for part in parts:
        rows.append(min(left, round(batch_size * part)))
        left -= rows[-1]
    return left + 1, *rows


_Int = npt.NDArray[np.int64]

EXAMINED = 6000  # steps that are looked at: on a CPU core about as long as a hundred updates
_DRAWN = 20_000  # as many steps are listed, the worst ones again and again
_ROWS = 64  # predicted at once
_CELL = 8  # pixels: an error counts by its worst cell, however still the rest of the frame


class PrioritisedSteps:
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
    result = predicted(denoiser, batch.obs[:, :t], batch.act[:, :t], torch.randn_like(target))
    squared = (result - target).square().mean(dim=1, keepdim=True)
    cell = min(_CELL, *squared.shape[-2:])
    return F.avg_pool2d(squared, cell, stride=max(1, cell // 2)).amax(dim=(1, 2, 3))
