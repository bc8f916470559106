"""DQN's replay buffer as it is stored: every frame once.

Stable-Baselines3 keeps a frame in each stack that shows it, and each stack as what was seen before a step and after
another one: with four frames to a stack, eight times. Here the stacks are taken apart, and put together again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.buffers import ReplayBuffer

_Frames = npt.NDArray[np.uint8]
_SMALL = ("actions", "rewards", "dones", "timeouts")


def replay_state(buffer: ReplayBuffer, channels: int) -> dict[str, Any]:
    """All that is in a buffer, as tensors and plain data.

    Args:
        buffer: Of stacks of frames, uint8 (S, B, channels × frames, H, W), the newest frame last, black before the
            first of an episode.
        channels: Of a single frame, C.

    Returns:
        Of the N steps that are in it, from the oldest on: `frames`, the newest of each step's stack, (N, B, C, H, W);
        `oldest`, the whole of the first one; and `finals` (K, C, H, W), the frames after steps that no other step
        begins with, those that ended an episode and the latest.
    """
    order = _by_age(buffer)
    over = _over(buffer)[order]
    over[-1:] = True
    step, row = np.nonzero(over)
    arrays = {name: getattr(buffer, name)[order] for name in _SMALL} | {
        "oldest": buffer.observations[order[:1]],
        "frames": buffer.observations[order, :, -channels:],
        "finals": buffer.next_observations[order[step], row, -channels:],
    }
    return {"pos": buffer.pos, "full": buffer.full, **{name: torch.from_numpy(part) for name, part in arrays.items()}}


def load_replay_state(buffer: ReplayBuffer, state: Mapping[str, Any]) -> None:
    """Fills a new buffer of the same size and number of rows with what `replay_state` returned."""
    buffer.pos, buffer.full = state["pos"], state["full"]
    order = _by_age(buffer)
    for name in _SMALL:
        getattr(buffer, name)[order] = state[name].numpy()
    if not len(order):
        return
    over, frames = _over(buffer)[order], state["frames"].numpy()
    ended = over.copy()
    ended[-1] = True
    following = np.concatenate((frames[1:], frames[-1:]))
    following[ended] = state["finals"].numpy()
    channels = frames.shape[2]
    stack = state["oldest"].numpy()[0]
    for step, at in enumerate(order):
        if step > 0:
            stack = _pushed(stack, frames[step])
            stack[over[step - 1], :-channels] = 0
        buffer.observations[at] = stack
        buffer.next_observations[at] = _pushed(stack, following[step])


def cut_replay(buffer: ReplayBuffer) -> None:
    """Cuts the episodes in hand short, as a limit of steps would, so that what comes next is no part of them."""
    if buffer.size():
        latest = buffer.pos - 1
        buffer.timeouts[latest] = np.maximum(buffer.timeouts[latest], 1 - buffer.dones[latest])


def _by_age(buffer: ReplayBuffer) -> npt.NDArray[np.int64]:
    """Where the steps are, the oldest first."""
    places = np.arange(buffer.size())
    return np.roll(places, -buffer.pos) if buffer.full else places


def _over(buffer: ReplayBuffer) -> npt.NDArray[np.bool_]:
    """After which steps an episode begins anew, (S, B)."""
    return (buffer.dones > 0) | (buffer.timeouts > 0)


def _pushed(stack: _Frames, frame: _Frames) -> _Frames:
    """Stacks (B, channels × frames, H, W) with a new frame (B, C, H, W) at their ends, in place of their first ones."""
    return np.concatenate((stack[:, frame.shape[1] :], frame), axis=1)
