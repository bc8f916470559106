"""A store's frames in the memory of a GPU, so that batches carry the numbers of frames instead of their pixels."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore

_Int = npt.NDArray[np.int64]
_SHARE = 0.25  # of the memory that is free: networks, optimizers and dreams need the rest


class FramesOnDevice:
    """Copies of all frames of a store on a device; what the store gains is copied when it is next asked for.

    It stands in for `EpisodeStore.frames`: called with episodes and steps it gives the numbers of frames, int64
    (..., 1, 1, 1), of which `pixels` makes frames on the device. Once the frames do not fit, it gives the frames
    themselves, uint8 (..., C, H, W), which `pixels` leaves as they are.

    Args:
        store: Whose frames.
        device: Where to keep them.
        before_move: Called before the copies move to another place or are dropped: what reads them there, as a CUDA
            graph does, has to stop.
    """

    def __init__(
        self, store: EpisodeStore, device: torch.device, before_move: Callable[[], None] = lambda: None
    ) -> None:
        self._store, self._device, self._before_move = store, device, before_move
        self._copies: Tensor | None = torch.empty(0, dtype=torch.uint8, device=device)
        self._first: dict[str, int] = {}  # the number of the first frame that was copied from each file
        self._used, self._version = 0, -1
        self._refresh()

    def __call__(self, episode: _Int, t: _Int) -> npt.NDArray[np.generic]:
        """Frames `t` (...) of `episode`, one or (...), as numbers or as pixels."""
        self._refresh()
        if self._copies is None:
            return self._store.frames(episode, t)
        return np.asarray(self._numbers[self._store.places(episode, t)][..., None, None, None])

    def pixels(self, frames: Tensor) -> Tensor:
        """Frames on the device, uint8 (..., C, H, W), of what a call gave, moved there. It waits for nothing."""
        if frames.dtype == torch.uint8:
            return frames
        assert self._copies is not None
        taken = torch.index_select(self._copies, 0, frames.flatten())
        return taken.view(*frames.shape[:-3], *taken.shape[1:])

    def _refresh(self) -> None:
        """Copies what the store has gained, and numbers the frames of all episodes."""
        if self._version == self._store.version or self._copies is None:
            return
        numbers = [np.zeros(0, np.int64)]
        for episode in range(len(self._store)):
            for file in self._store.pieces(episode):
                first = file.link.first_step
                t = np.arange(first + bool(first), file.stop + 1)  # the file before it has its first frame, too
                if file.path not in self._first:
                    self._copies = self._with(self._copies, self._store.frames(episode, t))
                    if self._copies is None:
                        return
                    self._first[file.path] = self._used - len(t)
                numbers.append(self._first[file.path] + np.arange(len(t)))
        self._numbers = np.concatenate(numbers)  # by place in the store's row of all frames
        self._version = self._store.version

    def _with(self, copies: Tensor, frames: npt.NDArray[np.uint8]) -> Tensor | None:
        """The copies and more frames; None without enough memory for twice as many as there was room for."""
        end = self._used + len(frames)
        if end > len(copies):
            self._before_move()
            size = max(end, 2 * len(copies), self._store.num_steps + len(self._store))
            if size * frames[0].size > _SHARE * free_memory(self._device):
                return None
            more = torch.empty((size, *frames.shape[1:]), dtype=torch.uint8, device=self._device)
            more[: self._used] = copies[: self._used].view(-1, *frames.shape[1:])
            copies = more
        copies[self._used : end] = torch.from_numpy(frames)
        self._used = end
        return copies


def copies_of(store: EpisodeStore, device: torch.device, before_move: Callable[[], None]) -> FramesOnDevice | None:
    """A store's frames on a GPU; None on a CPU, which reads them where they are."""
    return FramesOnDevice(store, device, before_move) if device.type == "cuda" else None


def free_memory(device: torch.device) -> float:
    """How many bytes of a GPU's memory are free; on a CPU, unlimited."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
