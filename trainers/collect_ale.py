"""Games for the collector: what it needs of them, and the Atari games in ALE's own batch."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diamond_gym.envs.atari_game import ale_vector

Step = tuple[
    npt.NDArray[np.uint8],
    npt.NDArray[np.float32],
    npt.NDArray[np.bool_],
    npt.NDArray[np.bool_],
    npt.NDArray[np.bool_],
]


class Games(Protocol):
    """B games side by side. One that is over begins anew with the next step, whose action is lost."""

    def reset(self, seed: int) -> npt.NDArray[np.uint8]:
        """Begins all of them: frames (B, H, W, C)."""
        ...

    def step(self, act: npt.NDArray[np.int64]) -> Step:
        """Frames (B, H, W, C), rewards, ends, truncations, and which rows have just begun anew, (B,) each."""
        ...

    def close(self) -> None:
        """Ends them."""
        ...

    def state_dict(self) -> dict[str, Any] | None:
        """What it takes to go on from here, as plain data; None where that cannot be had."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> npt.NDArray[np.uint8]:
        """Goes back to a state: frames (B, H, W, C)."""
        ...


class AleGames:
    """Atari games, where the loss of a life may end an episode though the game goes on.

    Args:
        game: One of the 26 games.
        num_envs: How many, B.
        size: (H, W) of the frames.
        noop_max: At most so many no-ops before a game begins.
        life_loss_ends: Whether a lost life ends an episode.
    """

    def __init__(self, game: str, num_envs: int, size: tuple[int, int], noop_max: int, life_loss_ends: bool) -> None:
        self._envs = ale_vector(game, num_envs, noop_max=noop_max, size=size, life_loss_info=life_loss_ends)
        self._over = np.zeros(num_envs, np.bool_)

    def reset(self, seed: int) -> npt.NDArray[np.uint8]:
        """See `Games`."""
        obs, info = self._envs.reset(seed=seed)
        self._frame = info["episode_frame_number"].copy()
        self._over[:] = False
        frames: npt.NDArray[np.uint8] = obs[:, 0]
        return frames

    def step(self, act: npt.NDArray[np.int64]) -> Step:
        """See `Games`."""
        obs, rew, end, trunc, info = self._envs.step(act)
        # After the loss of a life the game goes on. After its end, this was a restart and the action is lost.
        restarted = self._over & (info["episode_frame_number"] < self._frame)
        self._frame, self._over = info["episode_frame_number"].copy(), end | trunc
        return obs[:, 0], rew, end, trunc, restarted

    def close(self) -> None:
        """See `Games`."""
        self._envs.close()

    def state_dict(self) -> None:
        """None: ALE's batch gives its state to nobody."""

    def load_state_dict(self, state: dict[str, Any]) -> npt.NDArray[np.uint8]:
        """Never called, as there is no state."""
        raise NotImplementedError
