"""Arguments that dreams and real games share, checked before anything changes; and the form of observations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from diamond_gym.errors import BadArgument

Array = npt.NDArray[Any]
Info = dict[str, Any]
ObsDtype = Literal["uint8", "float32"]
Autoreset = Literal["NextStep", "SameStep", "Disabled"] | AutoresetMode

Seeds = int | Sequence[int | None] | npt.NDArray[np.integer[Any]] | None
SEEDS = 2**64
"""Seeds are 64-bit integers, so that a row has one of its own."""


def check_seed(seed: Any, rows: int = 1) -> int | None:
    """A seed as Python's integer; None for none.

    Args:
        seed: An integer of Python or NumPy.
        rows: How many consecutive integers, from it on, have to be seeds.

    Raises:
        ValueError: It is anything else, or out of range.
    """
    if seed is None:
        return None
    if not is_whole(seed) or not 0 <= int(seed) <= SEEDS - rows:
        raise ValueError(f"a seed must be an integer from 0 to {SEEDS - rows}, got {_brief(seed)}.")
    return int(seed)


def check_seeds(seed: Any, num_envs: int) -> int | list[int | None] | None:
    """The seed of a batch, or a list of one per row, None for a row without; None for none at all.

    Raises:
        ValueError: It is neither an integer nor a sequence of `num_envs` of them.
    """
    if isinstance(seed, str | bytes | bytearray) or not isinstance(seed, Sequence | np.ndarray):
        return check_seed(seed, num_envs)
    if isinstance(seed, np.ndarray) and (seed.ndim != 1 or seed.dtype.kind not in "iuO"):
        raise ValueError(f"seeds are {num_envs} integers, got {seed.dtype} of shape {seed.shape}.")
    if len(seed) != num_envs:
        raise ValueError(f"{num_envs} rows need {num_envs} seeds, got {len(seed)}.")
    return [check_seed(each) for each in seed]


def check_options(options: Any) -> dict[str, Any]:
    """The options of a reset; an empty dictionary for none.

    Raises:
        TypeError: They are no dictionary.
    """
    if options is not None and not isinstance(options, dict):
        raise TypeError(f"options must be a dictionary, got {type(options).__name__}.")
    return dict(options or {})


def known_options(options: dict[str, Any], *known: str) -> dict[str, Any]:
    """Returns the options, checked.

    Raises:
        ValueError: One of them is not known.
    """
    for name in options:
        if name not in known:
            raise ValueError(f"options may hold {', '.join(known) or 'nothing'}, not {name!r}.")
    return options


def check_mask(mask: Any, num_envs: int) -> npt.NDArray[np.bool_]:
    """The rows to reset; all of them without a mask.

    Raises:
        TypeError: It is not a numpy array of bool.
        ValueError: It has the wrong length or names no row.
    """
    if mask is None:
        return np.ones(num_envs, dtype=np.bool_)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError("options['reset_mask'] must be a numpy array of bool.")
    if mask.shape != (num_envs,):
        raise ValueError(f"options['reset_mask'] must have shape ({num_envs},), got {mask.shape}.")
    if not mask.any():
        raise ValueError("options['reset_mask'] must name at least one row.")
    return mask.copy()


def is_whole(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_count(name: str, value: Any) -> int:
    """A number of at least 1, such as that of rows, as Python's integer; BadArgument for anything else."""
    if not is_whole(value) or value < 1:
        raise BadArgument(f"{name} must be a whole number of at least 1, got {value!r}.")
    return int(value)


def check_flags(**flags: Any) -> None:
    """Checks keywords that are True or False (BadArgument)."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise BadArgument(f"{name} must be True or False, got {value!r}.")


def check_render_mode(render_mode: Any, render_modes: Sequence[str]) -> None:
    """Checks a render mode (BadArgument)."""
    if render_mode is not None and render_mode not in render_modes:
        raise BadArgument(f"render_mode must be None or one of {', '.join(render_modes)}, got {render_mode!r}.")


def autoreset(mode: str | AutoresetMode) -> AutoresetMode:
    """The autoreset mode of a word: "NextStep", "next_step" and "NEXT_STEP" are the same."""
    if isinstance(mode, AutoresetMode):
        return mode
    for candidate in AutoresetMode:
        if str(mode).lower().replace("_", "") == candidate.value.lower():
            return candidate
    modes = ", ".join(f'"{candidate.value}"' for candidate in AutoresetMode)
    raise BadArgument(f"autoreset_mode must be one of {modes}, got {mode!r}.")


def horizon_of(max_episode_steps: int) -> int | None:
    """The horizon from Gymnasium's `max_episode_steps`, where -1 means none."""
    if not is_whole(max_episode_steps) or (max_episode_steps < 1 and max_episode_steps != -1):
        raise BadArgument(
            f"max_episode_steps must be a whole number of at least 1, or -1 to go on, got {max_episode_steps!r}."
        )
    return None if max_episode_steps == -1 else int(max_episode_steps)


@dataclass(frozen=True)
class ObsFormat:
    """The form in which observations are returned.

    Attributes:
        dtype: "uint8" for levels from 0 to 255, "float32" for the same divided by 255.
        channels_first: Whether they are (C, H, W), as torch's convolutions take them, instead of (H, W, C).
    """

    dtype: ObsDtype = "uint8"
    channels_first: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ("uint8", "float32"):
            raise BadArgument(f'obs_dtype must be "uint8" or "float32", got {self.dtype!r}.')
        check_flags(channels_first=self.channels_first)

    def space(self, height: int, width: int, channels: int) -> gym.spaces.Box:
        """The space of one observation."""
        shape = (channels, height, width) if self.channels_first else (height, width, channels)
        return gym.spaces.Box(0, 255 if self.dtype == "uint8" else 1, shape, np.dtype(self.dtype).type)

    def __call__(self, pixels: Array) -> Array:
        """Frames uint8 (..., H, W, C) as observations, in memory of their own."""
        moved = np.moveaxis(pixels, -1, -3) if self.channels_first else pixels
        obs = np.array(moved, self.dtype, order="C")
        return obs if self.dtype == "uint8" else np.divide(obs, np.float32(255), out=obs)


def masked(name: str, rows: Array, values: Array) -> Info:
    """An info of values (B, ...) in the rows of a mask and 0 elsewhere, with the mask; nothing for no row."""
    if not rows.any():
        return {}
    which = rows.reshape(-1, *[1] * (values.ndim - 1))
    return {name: np.where(which, values, np.zeros((), values.dtype)), f"_{name}": rows.copy()}


def _brief(value: object) -> str:
    """A value on one line of at most 60 characters."""
    if isinstance(value, int) and abs(value) >= SEEDS:
        return "a larger one" if value > 0 else "a negative one"
    line = " ".join(repr(value).split())
    return line if len(line) <= 60 else f"{line[:60]}..."
