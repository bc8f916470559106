"""Starts, the real frames that dreams begin from: their file, and the same on the device with their LSTM states."""

import math
import zipfile
from dataclasses import MISSING, dataclass, fields
from itertools import starmap
from os import PathLike
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.dream_state import Predictor, without_gradient
from diamond_gym.errors import BadArgument, DamagedModel, DiamondGymError, one_line
from diamond_gym.files import atomic_path
from diamond_gym.frames import to_frames
from diamond_gym.networks.reward_end import LstmState

PADDING = 128  # every level of the frames before a game's beginning, where a piece reaches over it: mid-grey
_LARGEST = 4 << 30  # bytes; the largest known, of CS:GO, have a hundredth of it


@dataclass(frozen=True)
class Starts:
    """N short pieces of real play, of T frames each with the T - 1 actions between them.

    Attributes:
        obs: Frames, uint8 (N, T, H, W, C), oldest first; `PADDING` where the game had not begun.
        act: Actions as the networks take them (`diamond_gym.actions`): int64 (N, T - 1), or vectors (N, T - 1, A),
            int64 or float32.
        first: bool (N,), whether the piece begins a game.
        full_res: For models of two stages, the last frames at full size that the second stage sees, uint8
            (N, T', H', W', C).
        next_act: What the player of the piece did next, int8 (N, K, A), to be replayed; rows of -1 follow
            where a piece has fewer than K.

    Raises:
        DiamondGymError: There is no start, or the three do not fit each other.
    """

    obs: npt.NDArray[np.uint8]
    act: npt.NDArray[Any]
    first: npt.NDArray[np.bool_]
    full_res: npt.NDArray[np.uint8] | None = None
    next_act: npt.NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        if self.obs.ndim != 5 or self.obs.dtype != np.uint8 or len(self.obs) == 0:
            _refuse("at least one piece of uint8 frames (N, T, H, W, C)", self.obs)
        n, t = self.obs.shape[:2]
        whole, vectors = self.act.dtype == np.int64, self.act.ndim == 3 and self.act.dtype == np.float32
        if self.act.ndim not in (2, 3) or not (whole or vectors) or self.act.shape[:2] != (n, t - 1):
            _refuse(f"actions int64 ({n}, {t - 1}), or int64 or float32 ({n}, {t - 1}, A)", self.act)
        if self.first.shape != (n,) or self.first.dtype != np.bool_:
            _refuse(f"bool flags ({n},)", self.first)
        full, following = self.full_res, self.next_act
        if full is not None and (full.ndim != 5 or full.dtype != np.uint8 or len(full) != n):
            _refuse(f"full-size frames uint8 ({n}, T', H', W', C)", full)
        if following is not None and (
            following.dtype != np.int8
            or following.ndim != self.act.ndim
            or (len(following), *following.shape[2:]) != (n, *self.act.shape[2:])
        ):
            _refuse(f"following actions int8 ({n}, K, A)", following)

    def __len__(self) -> int:
        return len(self.obs)

    def pool(self, choice: str | int = "any") -> npt.NDArray[np.int64]:
        """The indices a dream may begin from.

        Args:
            choice: "any" for all of them, "first" for the beginnings of games, or one index.

        Raises:
            DiamondGymError: There is no such start.
        """
        if isinstance(choice, int | np.integer) and not isinstance(choice, bool):
            if not 0 <= choice < len(self):
                raise DiamondGymError(f"start {choice} does not exist: there are {len(self)}, counted from 0.")
            return np.array([int(choice)])
        if choice not in ("any", "first"):
            raise DiamondGymError(f'starts must be "any", "first" or an index, got {choice!r}.')
        if choice == "any":
            return np.arange(len(self))
        if not self.first.any():
            raise DiamondGymError('none of the starts begins a game: use starts="any" or an index.')
        return np.flatnonzero(self.first)


def _refuse(wanted: str, got: npt.NDArray[Any]) -> NoReturn:
    raise DiamondGymError(f"starts need {wanted}, got {got.dtype} {got.shape}.")


def save_starts(path: str | PathLike[str], starts: Starts) -> None:
    """Writes starts as one compressed .npz file, whole or not at all."""
    with atomic_path(path) as temporary:
        arrays = {field.name: getattr(starts, field.name) for field in fields(starts)}
        np.savez_compressed(temporary, **{name: array for name, array in arrays.items() if array is not None})


def load_starts(path: str | PathLike[str]) -> Starts:
    """Reads what `save_starts` wrote.

    Raises:
        DamagedModel: The file is missing, truncated, or not a file of starts.
    """
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            names = [field.name for field in fields(Starts) if field.default is MISSING or field.name in file.files]
            return Starts(**{name: file[name] for name in names})
    except FileNotFoundError:
        raise DamagedModel(f"there is no file of starts at {path}.") from None
    except Exception as error:  # zipfile, zlib and NumPy meet damaged bytes with exceptions of many kinds
        raise DamagedModel(f"{path} is not a readable file of starts: {one_line(error)}") from error


def _check_sizes(path: str | PathLike[str]) -> None:
    """Refuses arrays that are too large for starts, or not as large as they say, before memory is taken for them."""
    total = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    raise ValueError(f"{member.filename} is not as large as it says")
            total += member.file_size
    if total > _LARGEST:
        raise ValueError(f"{total:,} bytes are out of all proportion")


_CPU_BLOCK, _DEVICE_BLOCK = 1, 32
_EAGER_UP_TO = 1024


class StartBank:
    """The starts a dream may draw, as uint8 on the device, with the LSTM state each of them leaves behind.

    Burning in the LSTM at a restart would cost T - 1 calls of the reward/end model, for every row if the host
    is not to ask which rows restart. So each start's state is computed once and kept. Starts are burnt in in
    fixed blocks, which makes the state a function of the start alone, and not of who else restarts at the
    moment: one at a time when first needed on a CPU, all at once beforehand on other devices (up to 1024 starts).

    The states belong to the weights they were computed with: `forget` them after training these further.
    """

    def __init__(self, starts: Starts, choice: str | int, predict: Predictor, device: torch.device) -> None:
        self.pool = torch.from_numpy(starts.pool(choice)).to(device)
        self.obs = torch.from_numpy(np.ascontiguousarray(starts.obs)).to(device)  # (N, T, H, W, C)
        act = torch.from_numpy(np.ascontiguousarray(starts.act))
        slot = torch.zeros_like(act[:, :1]) if act.shape[1] else act.new_zeros(len(act), 1, *act.shape[2:])
        self.act = torch.cat((act, slot), dim=1).to(device)  # (N, T[, A]), the last slot waits for an action
        self._predict = predict
        self._block = _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK
        self._hx: Tensor | None = None  # (N, D), filled block by block
        self._cx: Tensor | None = None
        self._unknown = set[int]()
        self.forget()
        self.eager = device.type != "cpu" and len(starts) <= _EAGER_UP_TO

    @without_gradient()
    def replace(self, starts: Starts) -> None:
        """Takes other starts from the next restart on, in place, as a CUDA graph may read there.

        Raises:
            ValueError: There are more or fewer than before, or their shapes differ.
        """
        obs, act = (torch.from_numpy(np.ascontiguousarray(part)) for part in (starts.obs, starts.act))
        known = self.act[:, : act.shape[1]]  # the last slot waits for an action
        if obs.shape != self.obs.shape or act.shape != known.shape or act.dtype != known.dtype:
            raise ValueError(f"these starts are {tuple(obs.shape)}, not {tuple(self.obs.shape)} as those before.")
        self.obs.copy_(obs)
        known.copy_(act)
        self.forget()

    def forget(self) -> None:
        """Has all starts burnt in anew when they are needed."""
        if self._predict.outcome is not None:
            self._unknown = set(range(-(-len(self.obs) // self._block)))

    def prepare(self, index: Tensor | None = None) -> None:
        """Burns in the starts of `index` (K,), or all of them; the host waits unless all are known."""
        if index is None:
            blocks = set(self._unknown)
        else:
            blocks = self._unknown.intersection(index.div(self._block, rounding_mode="floor").tolist())
        for block in sorted(blocks):
            first = block * self._block
            rows = torch.arange(first, first + self._block, device=self.obs.device).clamp_(max=len(self.obs) - 1)
            hx, cx = self._predict.burn_in(to_frames(self.obs[rows]), self.act[rows])
            if self._hx is None or self._cx is None:
                self._hx, self._cx = (hx.new_zeros(len(self.obs), hx.shape[2]) for _ in range(2))
            self._hx[rows], self._cx[rows] = hx[0], cx[0]
            self._unknown.discard(block)

    def window(self, index: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor, LstmState | None]:
        """Frames (B, T, C, H, W), actions (B, T) and LSTM state ((1, B, D) twice) of starts `index` (B,).

        Those of `rows`, bool (B,), are burnt in first if they have not been; by default all.
        """
        if self._unknown:
            self.prepare(None if self.eager else index if rows is None else index[rows])
        memory = None
        if self._hx is not None and self._cx is not None:
            memory = (self._hx[index][None], self._cx[index][None])
        return to_frames(self.obs[index]), self.act[index], memory

    def given(self, obs: Tensor, act: Tensor | None, batch: int) -> tuple[Tensor, Tensor, LstmState | None]:
        """The same of frames and actions from outside, for `batch` rows.

        Args:
            obs: Frames, uint8 (T, H, W, C) for all rows, or (B, T, H, W, C).
            act: The actions between them, (T - 1[, A]) or (B, T - 1[, A]).
            batch: B.

        Raises:
            ValueError: They have the wrong shape or dtype, or there are no actions.
        """
        if act is None:
            raise ValueError("frames to dream on from need the actions between them: act.")
        check_pixels(obs, tuple(self.obs.shape[1:]), batch)
        actions = (*obs.shape[:-4], self.obs.shape[1] - 1, *self.act.shape[2:])
        if tuple(act.shape) != actions or act.is_floating_point() != self.act.is_floating_point():
            wanted, got = (str(a.dtype).removeprefix("torch.") for a in (self.act, act))
            raise ValueError(
                f"act must be the {wanted} actions between the frames, of shape {actions}, "
                f"got {got} of shape {tuple(act.shape)}."
            )
        window = to_frames(obs.to(self.obs.device)).view(-1, *to_frames(self.obs[:1]).shape[1:])
        act = act.to(self.act.device, self.act.dtype).view(len(window), *actions[obs.ndim - 4 :])
        act = torch.cat((act, self.act.new_zeros(len(act), 1, *act.shape[2:])), dim=1)
        memory = None
        if self._predict.outcome is not None:
            blocks = zip(window.split(self._block), act.split(self._block), strict=True)
            hx, cx = (torch.cat(parts, dim=1) for parts in zip(*starmap(self._predict.burn_in, blocks), strict=True))
            memory = hx.expand(-1, batch, -1), cx.expand(-1, batch, -1)
        return window.expand(batch, *window.shape[1:]), act.expand(batch, *act.shape[1:]), memory


def check_pixels(obs: Tensor, shape: tuple[int, ...], batch: int) -> None:
    """Checks (ValueError) that frames are uint8 of a shape (T, H, W, C), for all rows or for each of a batch."""
    if obs.dtype != torch.uint8 or tuple(obs.shape) not in (shape, (batch, *shape)):
        raise ValueError(
            f"obs must be uint8 frames of shape {shape} or {(batch, *shape)}, "
            f"got {str(obs.dtype).removeprefix('torch.')} of shape {tuple(obs.shape)}."
        )


class Replay:
    """The recorded actions that follow each start.

    Which one is due follows from the start that a row dreams from and its steps since: there is nothing to remember.
    """

    def __init__(self, starts: Starts | None, device: torch.device) -> None:
        """Takes the recordings of the starts.

        Raises:
            BadArgument: They have none.
        """
        if starts is None or starts.next_act is None or starts.next_act.shape[1] == 0:
            raise BadArgument("replay=True needs starts that include their players' actions; this model's do not.")
        self._next_act = torch.from_numpy(starts.next_act).to(device)  # (N, K[, A])

    def __call__(self, act: Tensor, start: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the recorded actions in the place of others.

        Args:
            act: int64 (B,) or (B, A), taken where there is no recorded action (any more).
            start: int64 (B,), the starts of the rows; -1 for frames from elsewhere.
            steps: int64 (B,), the steps since.

        Returns:
            The actions, and a mask (B,) of the rows whose action is a recorded one.
        """
        last = self._next_act.shape[1] - 1
        recorded = self._next_act[start.clamp(min=0), steps.clamp(max=last)].to(act.dtype)  # (B[, A])
        rows = (start >= 0) & (steps <= last) & (recorded.view(len(start), -1)[:, 0] >= 0)
        return torch.where(rows.view(-1, *[1] * (act.ndim - 1)), recorded, act), rows
