"""Experience on the device, and where segments of it may begin."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.play import Play


class Places:
    """Frames at which a segment of `length` frames of one game may begin; tensors that stay in place.

    Args:
        capacity: Frames there may be.
        length: Frames of a segment.
        event_at: The steps of a segment, first and last, one of which has the reward or end of a focused segment.
        device: Where they are.
    """

    def __init__(self, capacity: int, length: int, event_at: tuple[int, int], device: torch.device) -> None:
        self.length, self._event_at = length, event_at
        self.all = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.events = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.is_event = torch.zeros(capacity, dtype=torch.bool, device=device)
        self.count, self.num_events = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self.offsets = torch.arange(length, device=device)

    def find(self, goes_on: np.ndarray, event: np.ndarray) -> None:
        """Finds them anew: whether frame i + 1 follows frame i (N,), and whether step i has a reward or an end (N,)."""
        n = max(0, len(goes_on) - self.length + 1)
        steps = np.concatenate(([0], np.cumsum(goes_on)))
        whole = steps[self.length - 1 : self.length - 1 + n] - steps[:n] == self.length - 1
        hits, (first, last) = np.concatenate(([0], np.cumsum(event))), self._event_at
        near = whole & (hits[last + 1 : last + 1 + n] - hits[first : first + n] > 0)
        for tensor, values in ((self.all, np.flatnonzero(whole)), (self.events, np.flatnonzero(near))):
            tensor[: len(values)] = torch.from_numpy(values).to(tensor.device)
        self.is_event[:n] = torch.from_numpy(near).to(self.is_event.device)
        self.count.fill_(int(whole.sum()))
        self.num_events.fill_(int(near.sum()))

    def draw(self, chance: Tensor, focus: float) -> tuple[Tensor, Tensor]:
        """Beginnings (n,), the part `focus` of them near events, and the weights (n,) that make up for it.

        Args:
            chance: Uniform numbers, (3, n).
            focus: That part.
        """
        focus_now = focus * (self.num_events > 0)
        anywhere = self.all[(chance[0] * self.count).long().clamp(max=self.all.numel() - 1)]
        eventful = self.events[(chance[1] * self.num_events).long().clamp(max=self.all.numel() - 1)]
        chosen = torch.where(chance[2] < focus_now, eventful, anywhere)
        odds = self.count / self.num_events.clamp(min=1) * self.is_event[chosen]
        return chosen, 1 / (1 - focus_now + focus_now * odds)


class Experience:
    """Frames, actions and outcomes of one game, uint8 on the device.

    Args:
        capacity: Frames there may be; what comes later replaces nothing and is refused.
        shape: (C, H, W).
        device: Where they are.
    """

    def __init__(self, capacity: int, shape: tuple[int, int, int], device: torch.device) -> None:
        self.frames = torch.zeros(capacity, *shape, dtype=torch.uint8, device=device)
        self.act = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.rew = torch.zeros(capacity, dtype=torch.int64, device=device)  # its sign
        self.end = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.places: list[Places] = []
        self.goes_on, self.event = np.zeros(0, np.bool_), np.zeros(0, np.bool_)

    def __len__(self) -> int:
        return len(self.goes_on)

    def segments(self, length: int, event_at: tuple[int, int]) -> Places:
        """Places for segments of so many frames, kept up to date by `add`."""
        places = Places(len(self.frames), length, event_at, self.frames.device)
        self.places.append(places)
        return places

    def add(self, play: Play) -> int:
        """Adds what fits of a play; returns how many frames that was."""
        first = len(self)
        n = min(len(play.act), len(self.frames) - first)
        if n < 2:
            return 0
        where = slice(first, first + n)
        frames = torch.from_numpy(np.ascontiguousarray(play.frames[:n])).to(self.frames.device)
        self.frames[where] = frames.permute(0, 3, 1, 2)
        for mine, theirs in ((self.act, play.act), (self.rew, np.sign(play.rew)), (self.end, play.end)):
            mine[where] = torch.from_numpy(theirs[:n].astype(np.int64)).to(mine.device)
        goes_on = play.goes_on[:n].copy()
        goes_on[-1] = False
        self.goes_on = np.concatenate((self.goes_on, goes_on))
        self.event = np.concatenate((self.event, ((play.rew != 0) | play.end)[:n]))
        self.find()
        return n

    def find(self) -> None:
        """Finds all places anew."""
        for places in self.places:
            places.find(self.goes_on, self.event)

    def segment(self, first: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of steps first + offsets: the frames, as `images` gives them, actions, rewards and ends, int64 (B, L)."""
        act, rew, end = (part[first[:, None] + offsets] for part in (self.act, self.rew, self.end))
        return self.images(first, offsets), act, rew, end

    def images(self, first: Tensor, offsets: Tensor) -> Tensor:
        """Frames first + offsets as float32 (B, L, C, H, W) in [-1, 1]."""
        return self.frames[first[:, None] + offsets].float().div_(127.5).sub_(1)
