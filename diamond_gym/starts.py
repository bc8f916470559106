"""Starts: the real frames that dreams begin from. A model carries its own: a dream needs no ROM."""

import math
import zipfile
from dataclasses import MISSING, dataclass, fields
from os import PathLike

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import DamagedModel, DiamondGymError
from diamond_gym.files import atomic_path

_LARGEST = 4 << 30  # bytes; the largest known, of CS:GO, have a hundredth of it


@dataclass(frozen=True)
class Starts:
    """N short pieces of real play, of T frames each with the T - 1 actions between them.

    Attributes:
        obs: Frames, uint8 (N, T, H, W, C), oldest first.
        act: Actions, int64 (N, T - 1), or multi-hot (N, T - 1, A).
        first: bool (N,), whether the piece begins a game.
        full_res: For models of two stages, the last frames at full size that the second stage sees, uint8
            (N, T', H', W', C).
        next_act: What the player of the piece did next, int8 (N, K, A), to be replayed; rows of -1 follow
            where a piece has fewer than K.

    Raises:
        DiamondGymError: There is no start, or the three do not fit each other.
    """

    obs: npt.NDArray[np.uint8]
    act: npt.NDArray[np.int64]
    first: npt.NDArray[np.bool_]
    full_res: npt.NDArray[np.uint8] | None = None
    next_act: npt.NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        if self.obs.ndim != 5 or self.obs.dtype != np.uint8 or len(self.obs) == 0:
            raise DiamondGymError(
                f"starts need at least one piece of uint8 frames (N, T, H, W, C), "
                f"got {self.obs.dtype} {self.obs.shape}."
            )
        n, t = self.obs.shape[:2]
        if self.act.dtype != np.int64 or self.act.ndim not in (2, 3):
            raise DiamondGymError(
                f"actions of starts are int64 ({n}, {t - 1}) or ({n}, {t - 1}, A), "
                f"got {self.act.dtype} {self.act.shape}."
            )
        if self.act.shape[:2] != (n, t - 1) or self.first.shape != (n,) or self.first.dtype != np.bool_:
            raise DiamondGymError(
                f"starts of {n} pieces of {t} frames need actions ({n}, {t - 1}) and bool flags ({n},), "
                f"got {self.act.shape} and {self.first.dtype} {self.first.shape}."
            )
        full, following = self.full_res, self.next_act
        if full is not None and (full.ndim != 5 or full.dtype != np.uint8 or len(full) != n):
            raise DiamondGymError(
                f"full-size frames of {n} pieces are uint8 ({n}, T', H', W', C), got {full.dtype} {full.shape}."
            )
        if following is not None and (
            following.dtype != np.int8
            or following.ndim != self.act.ndim
            or (len(following), *following.shape[2:]) != (n, *self.act.shape[2:])
        ):
            raise DiamondGymError(
                f"actions that follow {n} pieces are int8 ({n}, K, A), got {following.dtype} {following.shape}."
            )

    def __len__(self) -> int:
        return len(self.obs)

    def pool(self, choice: str | int = "any") -> npt.NDArray[np.int64]:
        """The indices a dream may begin from.

        Args:
            choice: "any" for all of them, "first" for the beginnings of games, or one index.

        Raises:
            DiamondGymError: There is no such start.
        """
        if isinstance(choice, str):
            if choice == "any":
                return np.arange(len(self))
            if choice == "first":
                if not self.first.any():
                    raise DiamondGymError('none of the starts begins a game: use starts="any" or an index.')
                return np.flatnonzero(self.first)
            raise DiamondGymError(f'starts must be "any", "first" or an index, got {choice!r}.')
        if not 0 <= int(choice) < len(self):
            raise DiamondGymError(f"start {choice} does not exist: there are {len(self)}, counted from 0.")
        return np.array([int(choice)])


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
        said = " ".join(str(error).split())[:200]
        raise DamagedModel(f"{path} is not a readable file of starts: {said or type(error).__name__}") from error


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
