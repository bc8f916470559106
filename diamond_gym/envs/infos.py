"""What the environments give out besides frames: infos with their masks, their state, and recorded players' actions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.dream import DreamState, DreamStep
from diamond_gym.envs.batch_env import ObsFormat
from diamond_gym.errors import BadArgument
from diamond_gym.frames import to_pixels
from diamond_gym.starts import Starts

Array = npt.NDArray[Any]
Info = dict[str, Any]


@dataclass(frozen=True)
class EnvState:
    """A dream environment at one moment: the dream, and which rows have ended."""

    dream: DreamState
    ended: npt.NDArray[np.bool_]

    def check_ended(self, num_envs: int) -> None:
        """Refuses rows that cannot have ended.

        Raises:
            ValueError: It is no array of bool (B,).
        """
        if not isinstance(self.ended, np.ndarray) or self.ended.dtype != np.bool_ or self.ended.shape != (num_envs,):
            raise ValueError(f"this state is damaged: which rows have ended is no bool ({num_envs},).")


@dataclass(frozen=True)
class Extras:
    """What a step has to tell besides, on demand.

    Attributes:
        trajectory: The sampler's images, n + 1 of (B, C, H, W).
        replayed: The actions of a recorded player, (B,) or (B, A), and a mask of the rows that took theirs.
    """

    trajectory: list[Tensor] | None = None
    replayed: tuple[Tensor, Tensor] | None = None

    def info(self, rows: Array) -> Info:
        """For the rows in the mask `denoising_trajectory` uint8 (B, n + 1, H, W, C), and `replayed` (B[, A])."""
        info: Info = {}
        if self.trajectory is not None:
            images = to_pixels(torch.stack(self.trajectory, dim=1)).cpu().numpy()
            info |= _masked("denoising_trajectory", rows, images)
        if self.replayed is not None:
            act, replayed = (tensor.cpu().numpy() for tensor in self.replayed)
            info |= _masked("replayed", rows & replayed, act)
        return info


def start_info(rows: Array, start: Tensor) -> Info:
    """`start` (B,) for the rows in the mask, 0 elsewhere."""
    return _masked("start", rows, start.cpu().numpy())


def _masked(name: str, rows: Array, values: Array) -> Info:
    """Values (B, ...) for the rows in the mask and 0 elsewhere, and the mask; nothing for no row."""
    if not rows.any():
        return {}
    which = rows.reshape(-1, *[1] * (values.ndim - 1))
    return {name: np.where(which, values, np.zeros((), values.dtype)), f"_{name}": rows.copy()}


def final_info(rows: Array, step: DreamStep, extras: Extras, form: ObsFormat) -> Info:
    """`final_obs` and `final_info` of rows that ended and have restarted within the step."""
    frames = form(to_pixels(step.final_obs).cpu().numpy())
    final_obs = np.full(len(rows), None, dtype=object)
    for row in np.flatnonzero(rows):
        final_obs[row] = frames[row].copy()
    info = start_info(rows, step.final_start) | extras.info(rows)
    return {"final_obs": final_obs, "_final_obs": rows.copy(), "final_info": info, "_final_info": rows.copy()}


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
            raise BadArgument("replay=True needs starts that bring the actions of their players; this model's do not.")
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
