"""Catch: a tiny game on which to try a world model and an agent, in minutes and without a ROM."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from diamond_gym.envs.arguments import check_options, check_seed, known_options
from diamond_gym.registry.games import keys_to_action

BOARD, CELL, PADDLE = 8, 2, 2  # cells a side, pixels a cell's side, cells the paddle is wide
SIZE = BOARD * CELL
_DARK, _BALL, _PADDLE = (16, 16, 48), (255, 255, 255), (80, 220, 120)
_MOVES = (0, -1, 1)


class Catch(gym.Env[npt.NDArray[np.uint8], np.int64]):
    """A ball falls from a random column of the top row; a paddle at the bottom has seven steps to be below it.

    Actions: 0 stays, 1 moves the paddle a cell to the left, 2 to the right. The ball falls a cell a step. Where
    it reaches the paddle's row, the game ends with reward 1 if it was caught and -1 if not; before, rewards are
    0. The paddle begins in the middle and can reach every column. Without looking, one catches one ball in four: a
    mean return of -0.5.

    Observations: uint8 (16, 16, 3), two pixels to a cell.

    Example:
        >>> import gymnasium as gym, diamond_gym
        >>> env = gym.make("DiamondGym/Catch-v0")
        >>> obs, info = env.reset(seed=0)
        >>> obs.shape
        (16, 16, 3)

    Args:
        render_mode: None, or "rgb_array" for the observation.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode must be None or "rgb_array", got {render_mode!r}.')
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(len(_MOVES))
        self._column, self._paddle, self._closed = 0, 0, False
        self._row: int | None = None  # of the ball; none while no game is on

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Begins a game; there are no options."""
        self._check_open()
        known_options(check_options(options))
        super().reset(seed=check_seed(seed))
        self._row, self._column = 0, int(self.np_random.integers(BOARD))
        self._paddle = (BOARD - PADDLE) // 2
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Moves the paddle, and the ball down."""
        self._check_open()
        if self._row is None:
            raise gym.error.ResetNeeded("no game is running: call reset() before step().")
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"an action must be an integer of {self.action_space}, got {action!r}.")
        self._paddle = min(max(self._paddle + _MOVES[int(action)], 0), BOARD - PADDLE)
        self._row += 1
        frame, over = self._frame(), self._row == BOARD - 1
        if not over:
            return frame, 0.0, False, False, {}
        self._row = None
        caught = self._paddle <= self._column < self._paddle + PADDLE
        return frame, 1.0 if caught else -1.0, True, False, {}

    def get_action_meanings(self) -> list[str]:
        """ALE's word for each action."""
        return ["NOOP", "LEFT", "RIGHT"]

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """The keys of `gymnasium.utils.play`: a and d move the paddle."""
        return keys_to_action(self.get_action_meanings())

    def render(self) -> Any:
        """The frame, uint8 (16, 16, 3); None without a render mode."""
        self._check_open()
        return None if self.render_mode is None else self._frame()

    def close(self) -> None:
        """Ends the game for good."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("this game is closed: make a new one.")

    def _frame(self) -> npt.NDArray[np.uint8]:
        board = np.full((BOARD, BOARD, 3), _DARK, np.uint8)
        board[-1, self._paddle : self._paddle + PADDLE] = _PADDLE
        # After the end the last frame stays on the screen.
        board[BOARD - 1 if self._row is None else self._row, self._column] = _BALL
        return board.repeat(CELL, axis=0).repeat(CELL, axis=1)
