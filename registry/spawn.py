"""Spawn folders: where the dreams of a two-stage model begin, in the released format.

A folder `<n>` per start holds `low_res.npy` (T, C, h, w) and `full_res.npy` (T, C, H, W), uint8, `act.npy` (T, A), of
which the last is what the player did at the last frame, and `next_act.npy` (K, A), what he did after it. More than T
frames may be there; the last count.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import DamagedModel, one_line
from diamond_gym.registry.card import Card
from diamond_gym.starts import Starts

Array = npt.NDArray[Any]
_FRAMES = "low_res.npy"


def is_spawn(folder: Path) -> bool:
    """Whether a folder is one of spawns, by its looks."""
    return any(True for _ in folder.glob(f"*/{_FRAMES}"))


def read_spawn(folder: Path, card: Card) -> Starts:
    """Reads all spawns of a folder, in the order of their numbers, for dreams of a model of two stages.

    Raises:
        DamagedModel: There is none, or an array is missing, damaged or of another shape.
    """
    assert card.upsampler is not None
    full_frames = card.upsampler["inner_model"]["num_steps_conditioning"]
    frames, num_actions = card.num_steps_conditioning, card.num_actions
    result = sorted((path.parent for path in folder.glob(f"*/{_FRAMES}")), key=_number)
    if not result:
        raise DamagedModel(f"{folder}: no spawns in it (folders with {_FRAMES})")
    obs, full_res, act, following = [], [], [], []
    for spawn in result:
        obs.append(_frames(spawn / _FRAMES, frames, card.frame_shape))
        full_res.append(_frames(spawn / "full_res.npy", full_frames, card.obs_shape))
        acts = _actions(spawn / "act.npy", frames - 1, num_actions)[-frames:]
        act.append(acts[: frames - 1])
        # The authors' own replay begins with the action of the last frame, too.
        following.append(np.concatenate((acts[frames - 1 :], _actions(spawn / "next_act.npy", 0, num_actions))))
    longest = max(len(piece) for piece in following)
    next_act = np.full((len(result), longest, num_actions), -1, np.int8)
    for row, piece in zip(next_act, following, strict=True):
        row[: len(piece)] = piece
    return Starts(
        np.stack(obs), np.stack(act).astype(np.int64), np.zeros(len(result), np.bool_), np.stack(full_res), next_act
    )


def _frames(path: Path, count: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """The last `count` frames, channels last."""
    array = _load(path)
    h, w, c = shape
    if array.dtype == np.uint8 and array.ndim == 4 and len(array) >= count:
        if array.shape[1:] == (c, h, w):
            return np.ascontiguousarray(array[-count:].transpose(0, 2, 3, 1))
        if array.shape[1:] == shape:
            return np.array(array[-count:])
    raise DamagedModel(f"{path}: {array.dtype} {array.shape} where uint8 ({count}, {c}, {h}, {w}) is wanted")


def _actions(path: Path, least: int, width: int) -> Array:
    array = _load(path)
    if array.ndim != 2 or array.shape[1] != width or len(array) < least or array.dtype.kind not in "biuf":
        raise DamagedModel(f"{path}: {array.dtype} {array.shape} where at least ({least}, {width}) is wanted")
    if not np.isin(array, (0, 1)).all():
        raise DamagedModel(f"{path}: an action is made of 0 and 1 only")
    return np.array(array, np.int8)


def _load(path: Path) -> Array:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DamagedModel(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as error:
        raise DamagedModel(f"{path}: not readable as an array ({one_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise DamagedModel(f"{path}: not a single array")
    return array


def _number(spawn: Path) -> tuple[bool, int, str]:
    number = spawn.name if spawn.name.isascii() and spawn.name.isdigit() and len(spawn.name) < 10 else ""
    return (not number, int(number or 0), spawn.name)
