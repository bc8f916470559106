"""The batches of a world model's training: segments from anywhere and around rare events, and pixels near what moves.

The events are rewards and ends; things that appear where nothing moved, as a ball that is served or a digit that
changes; and steps that the denoiser predicts worst (`trainers.predictions`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.on_device import FramesOnDevice
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.data.segments import Batch, cut, take
from diamond_gym.trainers.loop import Processes, own_rows
from diamond_gym.trainers.predictions import PrioritizedSteps
from diamond_gym.trainers.world_model_config import WorldModelConfig

_Int = npt.NDArray[np.int64]

LEAD = 10  # how many steps before a reward or an end a focused denoiser segment may stop
_PAST = 4  # frames in which nothing may have moved near the place
_CHANGE, _MOTION = 48, 24  # levels of 255: of what appears, and of what counts as motion before it
_REACH = 6  # pixels around what moved: further than a ball flies in a step
_CELL = 8  # pixels: the side of a place
_COMMON = 0.1  # of all steps: the part from which on motion at a place is nothing special
_MOST = 1000  # of one place's appearances


@dataclass(frozen=True)
class Focus:
    """Rows of a batch that are drawn around events.

    Attributes:
        rows: How many.
        places: First and last place of the event in its segment. A place beyond the segment's end means that the
            segment stops so many steps before the event: what leads to it is what a denoiser has to learn.
        find: Finds the events of a store, (episode, step), int64 (N, 2).
        target: Place of the first frame that the network predicts: a segment in which that would be padding is moved.
    """

    rows: int
    places: tuple[int, int]
    find: Callable[[EpisodeStore], _Int]
    target: int | None = None


class FocusedSampler:
    """Draws batches of which some rows lie around events.

    An event is drawn as often as `base` draws its step. The rare outcomes are then over-represented, and the model's
    probabilities of them too high, unless rows count as `weights` says.

    Args:
        base: Draws the other rows, whose number is its own.
        focuses: What the rest is drawn around; where there is no such event yet, its rows are like the others.
        rng: Source of chance for the focused rows.
    """

    def __init__(self, base: SegmentSampler, focuses: Sequence[Focus], rng: np.random.Generator) -> None:
        self.base, self.focuses, self._rng = base, [focus for focus in focuses if focus.rows], rng
        self._events: list[_Int] = []
        self._chances: list[npt.NDArray[np.float64]] = []
        self._version = -1

    @property
    def store(self) -> EpisodeStore:
        """Where the segments are cut from."""
        return self.base.store

    def sample(self) -> Batch:
        """Draws one batch, focused rows last."""
        if self._version != self.store.version:  # the store has grown
            self._events, self._version = [focus.find(self.store) for focus in self.focuses], self.store.version
            self._chances = [self.base.chances(*events.T) for events in self._events]
        parts = [self.base.sample()]
        for focus, events, chances in zip(self.focuses, self._events, self._chances, strict=True):
            missing = 0 if chances.any() else focus.rows  # a batch keeps its size
            while missing > 0:
                parts.append(take(self.base.sample(), slice(missing)))
                missing -= len(parts[-1])
            if chances.any():
                cumulative = np.cumsum(chances)
                drawn = self._rng.random(focus.rows) * cumulative[-1]
                chosen = events[np.searchsorted(cumulative, drawn, side="right")]
                start = chosen[:, 1] - self._rng.integers(focus.places[0], focus.places[1] + 1, size=focus.rows)
                if focus.target is not None:
                    start = np.clip(start + focus.target, 0, self.base.frames_of(chosen[:, 0]) - 1) - focus.target
                parts.append(self.base.cut(chosen[:, 0], start))
        return Batch(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Batch)))

    def weights(self, batch: Batch) -> npt.NDArray[np.float32]:
        """What each step of a batch counts, so that on average events are as frequent as in the game.

        By importance sampling: where a is the share of `base`'s rows, p a row's chance as one of those and q as one
        around an event, its steps count 1 / (a * p + (1 - a) * q), as if every place where a segment can begin were as
        likely; each step but the row's last is then as often among them. (`base` alone is not enough: a row that
        reaches over an end is rarer by the steps that are not the episode's, so that ends are half as frequent.)
        Steps of earlier lives are seen, and count 0. It holds where `base` reaches beyond an episode's end, there is
        one kind of focus, on any step but the last, and all steps of a row have the same chance.

        Returns:
            float32 (B, L); 0 where padded.
        """
        length = self.base.length
        own = batch.mask_padding & (batch.start[:, None] + np.arange(length) >= 0)
        chance = own.sum(axis=1) / length
        if self.focuses and self._chances[0].any():
            events = own & ((batch.rew != 0) | batch.end)
            around = events[:, :-1].sum(axis=1) / (length - 1) / self._chances[0].sum()
            share = self.base.batch_size / (self.base.batch_size + self.focuses[0].rows)
            chance = share * chance + (1 - share) * around
        return np.asarray(own / chance[:, None], np.float32)

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
        steps = store.steps(number, t)
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


class Appearances:
    """Finds the appearances of a store; episodes that are known are not searched again.

    Args:
        across_lives: Whether to look at what was seen before an episode in earlier lives of its game, too.
    """

    def __init__(self, across_lives: bool = False) -> None:
        self._before = _PAST if across_lives else 0
        self._known: dict[int, tuple[int, _Int, _Int]] = {}

    def __call__(self, store: EpisodeStore) -> _Int:
        """All (episode, step), int64 (N, 2), with whose next frame something appears.

        Places where something moves in a tenth of all steps are left out: a paddle that starts to move appears a
        hundred times as often as a ball, and is easily learned. Each other place makes up about the same part, some
        of its appearances being listed again and again.
        """
        for number, length in enumerate(store.lengths.tolist()):
            if number not in self._known or self._known[number][0] != length:
                begin, steps = np.array([-self._before]), length + self._before
                segment = cut(store, np.array([number]), begin, steps, across_lives=True)
                unknown = int(np.argmax(segment.mask_padding[0]))
                result, moves = appearances(np.concatenate((segment.obs[0, unknown:], segment.final_obs)))
                result = result + np.array([unknown - self._before, 0])
                self._known[number] = (length, np.column_stack((np.full(len(result), number), result)), moves)
        if not self._known:
            return np.zeros((0, 2), np.int64)
        _, tables, moving = zip(*(self._known[number] for number in range(len(store))), strict=True)
        table = np.concatenate(tables)
        still = np.sum(moving, axis=0) < _COMMON * store.num_steps
        table = table[still[table[:, 2]]]
        places = [table[table[:, 2] == place, :2] for place in np.unique(table[:, 2])]
        each = min(_MOST, max(map(len, places), default=0))
        return np.concatenate([np.resize(events, (each, 2)) for events in places] or [np.zeros((0, 2), np.int64)])


def appearances(frames: npt.NDArray[np.uint8]) -> tuple[_Int, _Int]:
    """The steps of an episode with which something appears, and where things move at all.

    Args:
        frames: uint8 (L + 1, C, H, W).

    Returns:
        Steps t and cells, int64 (N, 2): frame t + 1 changes in the cell, where frames t - 3 to t stood still all
        around. And in how many steps something moves in each cell of 8×8 pixels, int64 (cells,), row by row.
    """
    changed = np.zeros((2, max(0, len(frames) - 1), *frames.shape[2:]), np.bool_)
    for t in range(changed.shape[1]):  # frame by frame: an episode may hold thousands
        step = np.abs(frames[t + 1].astype(np.int16) - frames[t]).max(axis=0)
        changed[:, t] = step > _CHANGE, step > _MOTION
    near = _spread(_spread(changed[1], 1), 2)
    busy = np.zeros_like(near)
    for back in range(1, _PAST):
        busy[back:] |= near[:-back]
    new = _cells(changed[0] & ~busy)
    new[: _PAST - 1] = False  # too little is known of what moved before
    at, cell = np.nonzero(new)
    at, first = np.unique(at, return_index=True)
    return np.column_stack((at, cell[first])).astype(np.int64), _cells(changed[1]).sum(axis=0)


def _cells(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which cells of masks (L, H, W) hold anything true, (L, cells)."""
    rows, columns = (np.arange(0, size, _CELL) for size in mask.shape[1:])
    result = np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, axis=1), columns, axis=2)
    return result.reshape(len(mask), len(rows) * len(columns))


def _spread(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    """What is true within `_REACH` pixels along an axis."""
    ends = [(0, 0)] * mask.ndim
    ends[axis] = (_REACH, _REACH)
    padded = np.moveaxis(np.pad(mask, ends), axis, 0)
    size = mask.shape[axis]
    spread = padded[:size].copy()
    for shift in range(1, 2 * _REACH + 1):
        spread |= padded[shift : shift + size]
    return np.moveaxis(spread, 0, axis)


def denoiser_batches(
    config: WorldModelConfig,
    store: EpisodeStore,
    fabric: Processes,
    rngs: Sequence[np.random.Generator],
    prioritized: PrioritizedSteps | None,
    frames_of: FramesOnDevice | None = None,
) -> FocusedSampler:
    """Draws the denoiser's batches, this process's rows of them.

    Args:
        config: Of the training.
        store: The experience.
        fabric: The processes that train together.
        rngs: Two sources of chance: of segments from anywhere, and of those around events.
        prioritized: Finds the steps that are predicted worst, if they are wanted.
        frames_of: Copies of the frames on a device, if there are any: batches then hold their numbers.
    """
    t = config.denoiser.inner_model.num_steps_conditioning
    length = t + 1 + config.num_autoregressive_steps
    # from the step that brings the event back to those that lead to it, each as a predicted frame
    leading, predicted = (t - 1, length - 2 + LEAD), (t - 1, t - 1)
    batch = own_rows(fabric, config.denoiser_optimizer.batch_size)
    parts = config.denoiser_focus, config.appearance_focus, config.prioritized
    batch, around, appearing, worst = split(batch, *parts)
    focuses = [
        Focus(around, leading, find_events, t),
        Focus(appearing, predicted, Appearances(config.across_lives), t),
        Focus(worst, predicted, prioritized or find_events, t),
    ]
    how = sampling_of(config)
    base = SegmentSampler(store, length, batch, False, rngs[0], final=True, frames_of=frames_of, **how)
    return FocusedSampler(base, focuses, rngs[1])


def reward_end_batches(
    config: WorldModelConfig,
    store: EpisodeStore,
    fabric: Processes,
    rngs: Sequence[np.random.Generator],
    frames_of: FramesOnDevice | None = None,
) -> FocusedSampler:
    """Draws the reward and end model's batches; arguments as those of `denoiser_batches`."""
    length = config.reward_end_length
    batch, around = split(own_rows(fabric, config.reward_end_optimizer.batch_size), config.focus)
    base = SegmentSampler(store, length, batch, True, rngs[0], frames_of=frames_of, **sampling_of(config))
    return FocusedSampler(base, [Focus(around, (0, length - 2), find_events)], rngs[1])


def sampling_of(config: WorldModelConfig) -> dict[str, Any]:
    """How a `SegmentSampler` draws by a training's configuration: its keywords."""
    how: dict[str, Any] = {"across_lives": config.across_lives, "by_step": config.age_of == "steps"}
    return how if config.age_weights is None else how | {"weights": config.age_weights}
