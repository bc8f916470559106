"""Atari's usual observations of a batch: grey, 84×84, the last four frames stacked (Mnih et al. 2015)."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from diamond_gym.envs.arguments import Array, check_count, check_options
from diamond_gym.errors import BadArgument, DiamondGymError


class AtariStack(VectorWrapper[Array, Array, Array, Array, Array]):
    """Gives a batch of dreams, real games or other RGB environments the observations of Mnih et al. 2015.

    Observations are uint8 (B, num_frames, size, size): the last frames, the newest at the end, each in OpenCV's grey
    and resized by area. An episode begins with its first frame repeated. In every autoreset mode observations and
    `info["final_obs"]` are those that the same wrappers around single environments would give.

    Example:
        >>> import gymnasium as gym, diamond_gym
        >>> from diamond_gym.wrappers import AtariStack
        >>> envs = AtariStack(gym.make_vec("DiamondDream-Breakout-v0", num_envs=8))  # doctest: +SKIP
        >>> envs.reset(seed=0)[0].shape  # doctest: +SKIP
        (8, 4, 84, 84)

    Args:
        env: A vector environment whose observations are uint8 (B, H, W, 3).
        size: Height and width of the observations.
        num_frames: How many frames are stacked.

    Raises:
        BadArgument: The observations have another form, or a number is none or below 1.
        DiamondGymError: OpenCV is not installed.
    """

    def __init__(self, env: VectorEnv[Array, Array, Array], size: int = 84, num_frames: int = 4) -> None:
        super().__init__(env)
        try:
            import cv2  # noqa: F401 - not kept: a module cannot be pickled
        except ModuleNotFoundError as error:
            raise DiamondGymError("AtariStack needs OpenCV: pip install 'diamond-gym[atari]'") from error
        single = env.single_observation_space
        if single.dtype != np.uint8 or len(single.shape or ()) != 3 or (single.shape or ())[2] != 3:
            raise BadArgument(f"AtariStack needs observations uint8 (H, W, 3), not {single}.")
        self._size = size = check_count("size", size)
        num_frames = check_count("num_frames", num_frames)
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.single_observation_space = gym.spaces.Box(0, 255, (num_frames, size, size), np.uint8)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._frames = np.zeros((self.num_envs, num_frames, size, size), np.uint8)
        self._ended = np.zeros(self.num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Resets the rows of `options["reset_mask"]`, or all; a row's stack is its first frame, repeated."""
        mask = check_options(options).get("reset_mask")
        mask = np.ones(self.num_envs, np.bool_) if mask is None else np.array(mask)  # a copy, before others pop it
        obs, info = self.env.reset(seed=seed, options=options)
        for row in np.flatnonzero(mask):
            self._frames[row] = self._grey(obs[row])
        self._ended &= ~mask
        return self._frames.copy(), info

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Steps the rows; each stack takes in its new frame, or restarts where an episode has begun."""
        obs, rewards, terminated, truncated, info = self.env.step(actions)
        ended, begun = terminated | truncated, self._ended  # in mode DISABLED none has ended: it was reset
        if self._mode is AutoresetMode.SAME_STEP:
            begun = ended
            if ended.any():
                info = {**info, "final_obs": self._final(info["final_obs"], ended)}
        for row, frame in enumerate(obs):
            self._frames[row] = self._grey(frame) if begun[row] else self._pushed(row, frame)
        self._ended = ended
        return self._frames.copy(), rewards, terminated, truncated, info

    def _final(self, frames: Array, ended: Array) -> Array:
        """The last stacks of rows that have ended and restarted within the step, None for others."""
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final[row] = self._pushed(int(row), frames[row])
        return final

    def _pushed(self, row: int, frame: Array) -> Array:
        return np.concatenate([self._frames[row, 1:], self._grey(frame)[None]])

    def _grey(self, frame: Array) -> Array:
        import cv2

        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        return np.asarray(cv2.resize(grey, (self._size, self._size), interpolation=cv2.INTER_AREA))
