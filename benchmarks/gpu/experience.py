"""Experience on the device, and where segments of it may begin."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.play import Play
from diamond_gym.trainers.appearances import evenly

_MOST_APPEARING = 200_000  # entries, those of rare places several times


class Places:
    """Frames at which a segment of `length` frames of one game may begin; tensors that stay in place.

    Args:
        capacity: Frames there may be.
        length: Frames of a segment.
        event_at: The steps of a segment, first and last, one of which has the reward or end of a focused segment.
        device: Where they are.
        appears_at: The step of a segment with whose next frame something appears, where some are drawn for that.
    """

    def __init__(
        self, capacity: int, length: int, event_at: tuple[int, int], device: torch.device, appears_at: int = 0
    ) -> None:
        self.length, self._event_at, self._appears_at = length, event_at, appears_at
        self.all = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.events = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.appearing = torch.zeros(_MOST_APPEARING, dtype=torch.int64, device=device)
        self.is_event = torch.zeros(capacity, dtype=torch.bool, device=device)
        numbers = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(3))
        self.count, self.num_events, self.num_appearing = numbers
        self.offsets = torch.arange(length, device=device)

    def find(self, goes_on: np.ndarray, event: np.ndarray, appears: np.ndarray | None = None) -> None:
        """Finds them anew.

        Args:
            goes_on: Whether frame i + 1 follows frame i, bool (N,).
            event: Whether step i has a reward or an end, bool (N,).
            appears: Steps with whose next frame something appears, each as often as it is to be drawn.
        """
        n = max(0, len(goes_on) - self.length + 1)
        steps = np.concatenate(([0], np.cumsum(goes_on)))
        whole = steps[self.length - 1 : self.length - 1 + n] - steps[:n] == self.length - 1
        hits, (first, last) = np.concatenate(([0], np.cumsum(event))), self._event_at
        near = whole & (hits[last + 1 : last + 1 + n] - hits[first : first + n] > 0)
        first_of = np.zeros(0, np.int64) if appears is None else appears - self._appears_at
        first_of = first_of[(first_of >= 0) & (first_of < n)]
        first_of = first_of[whole[first_of]][:_MOST_APPEARING]
        lists = (self.all, np.flatnonzero(whole)), (self.events, np.flatnonzero(near)), (self.appearing, first_of)
        for tensor, values in lists:
            tensor[: len(values)] = torch.from_numpy(values).to(tensor.device)
        self.is_event[:n] = torch.from_numpy(near).to(self.is_event.device)
        self.count.fill_(int(whole.sum()))
        self.num_events.fill_(int(near.sum()))
        self.num_appearing.fill_(len(first_of))

    def draw(self, chance: Tensor, focus: float, appearing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Beginnings (n,), the part `focus` of them near events, and the weights (n,) that make up for it.

        Args:
            chance: Uniform numbers, (3, n).
            focus: That part.
            appearing: The part in which something appears; no weights make up for it.
        """
        focus_now = focus * (self.num_events > 0)
        anywhere = self.all[(chance[0] * self.count).long().clamp(max=self.all.numel() - 1)]
        eventful = self.events[(chance[1] * self.num_events).long().clamp(max=self.all.numel() - 1)]
        chosen = torch.where(chance[2] < focus_now, eventful, anywhere)
        if appearing:
            new = self.appearing[(chance[1] * self.num_appearing).long().clamp(max=_MOST_APPEARING - 1)]
            chosen = torch.where(chance[2] > 1 - appearing * (self.num_appearing > 0), new, chosen)
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
        self.forget()

    def forget(self) -> None:
        """Forgets all play; the tensors stay in place."""
        self.goes_on, self.event = np.zeros(0, np.bool_), np.zeros(0, np.bool_)
        self.appears, self.moves = np.zeros(0, np.int64), np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self.goes_on)

    def segments(self, length: int, event_at: tuple[int, int], appears_at: int = 0) -> Places:
        """Places for segments of so many frames, kept up to date by `add`."""
        places = Places(len(self.frames), length, event_at, self.frames.device, appears_at)
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
        self.appears, self.moves = np.concatenate((self.appears, play.appears[:n])), self.moves + play.moves
        self.find()
        return n

    def find(self) -> None:
        """Finds all places anew."""
        steps = np.flatnonzero(self.appears >= 0)
        appears = steps[evenly(self.appears[steps], self.moves, len(self))]
        for places in self.places:
            places.find(self.goes_on, self.event, appears)

    def segment(self, first: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of steps first + offsets: the frames, as `images` gives them, actions, rewards and ends, int64 (B, L)."""
        act, rew, end = (part[first[:, None] + offsets] for part in (self.act, self.rew, self.end))
        return self.images(first, offsets), act, rew, end

    def images(self, first: Tensor, offsets: Tensor) -> Tensor:
        """Frames first + offsets as float32 (B, L, C, H, W) in [-1, 1]."""
        return self.frames[first[:, None] + offsets].float().div_(127.5).sub_(1)
