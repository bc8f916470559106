"""The real game beside a dream: both go on from the same frames and get the same actions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diamond_gym.envs.atari import RealEnv
from diamond_gym.envs.atari_game import RealState

Frame = npt.NDArray[np.uint8]

_LONGEST_WARM_UP = 120  # steps of random play before a dream may begin
_HELD = 4  # steps for which random play holds an action


@dataclass(frozen=True)
class RealStep:
    """A step of the real game.

    Attributes:
        frame: The frame after it, uint8 (H, W, C).
        reward: The game's own reward, not clipped; 0 once the game has ended.
        divergence: Mean absolute difference between the dreamed and the real frame, in levels from 0 to 255.
        terminated: Whether the game is over.
        truncated: Whether ALE's time limit has cut it off.
        life_lost: Whether it cost a life, though the game was not over by that.
    """

    frame: Frame
    reward: float = 0.0
    divergence: float = 0.0
    terminated: bool = False
    truncated: bool = False
    life_lost: bool = False

    @property
    def ended(self) -> bool:
        """Whether the game has ended, either way; its last frame then stays."""
        return self.terminated or self.truncated


class Reality:
    """A real game that follows a dream.

    A dream's state holds frames and no console, so a game cannot be put into the state of a dream. It is done the
    other way round: `begin` plays the game to some moment, and the dream goes on from its last frames.

    Args:
        game: One of the 26 games of Atari 100k.
        num_frames: Frames that a dream begins from, T.

    Raises:
        DiamondGymError: There is no such game, or ale-py is not installed.
    """

    def __init__(self, game: str, num_frames: int) -> None:
        self._env, self._num_frames = RealEnv(game=game), num_frames
        self._frame: Frame | None = None
        self._terminated, self._truncated, self._lives = False, False, 0

    def begin(self, seed: int | None = None) -> tuple[Frame, npt.NDArray[np.int64]]:
        """Plays a new game at random to some moment.

        Args:
            seed: Fixes the game and the moment.

        Returns:
            The last T frames, uint8 (T, H, W, C), and the T - 1 actions between them, int64.
        """
        rng = np.random.default_rng(seed)
        wanted = self._num_frames + int(rng.integers(_LONGEST_WARM_UP))
        frame, info = self._env.reset(seed=int(rng.integers(2**31)))
        frames, actions = [frame], list[int]()
        while len(frames) < wanted:
            if len(actions) % _HELD == 0:
                action = int(rng.integers(self._env.action_space.n))  # type: ignore[attr-defined]
            frame, _, ended, cut, info = self._env.step(action)
            frames.append(frame)
            actions.append(action)
            if ended or cut:
                frame, info = self._env.reset()
                frames, actions = [frame], []
        self._frame, self._lives = frames[-1], int(info["lives"])
        self._terminated = self._truncated = False
        n = self._num_frames
        return np.stack(frames[-n:]), np.array(actions[len(actions) - n + 1 :], np.int64)

    def step(self, action: int, dreamed: Frame) -> RealStep:
        """Plays the action that led to a dreamed frame.

        Args:
            action: The dream's action.
            dreamed: The frame that the dream came to, uint8 (H, W, C).
        """
        reward, life_lost = 0.0, False
        if not (self._terminated or self._truncated):
            self._frame, reward, self._terminated, self._truncated, info = self._env.step(action)
            lives = int(info["lives"])
            life_lost, self._lives = lives < self._lives and not self._terminated, lives
        error = float(np.abs(self.frame.astype(np.int16) - dreamed.astype(np.int16)).mean())
        return RealStep(self.frame, reward, error, self._terminated, self._truncated, life_lost)

    @property
    def frame(self) -> Frame:
        """The game's frame now, uint8 (H, W, C)."""
        assert self._frame is not None, "begin() comes first"
        return self._frame

    def clone_state(self) -> tuple[RealState, Frame, bool, bool, int]:
        """The game at this moment; small, as it holds the game's actions and not its memory."""
        return self._env.clone_state(), self.frame, self._terminated, self._truncated, self._lives

    def restore_state(self, state: tuple[RealState, Frame, bool, bool, int]) -> None:
        """Goes back to a moment of the same game by playing it again, at a millisecond a step."""
        game, self._frame, self._terminated, self._truncated, self._lives = state
        self._env.restore_state(game)

    def close(self) -> None:
        """Ends the game."""
        self._env.close()


def difference(real: Frame, dreamed: Frame, gain: float = 3.0) -> Frame:
    """The absolute differences of a dreamed frame from the real one times `gain`, uint8 (H, W, C)."""
    apart = np.abs(real.astype(np.float32) - dreamed.astype(np.float32)) * gain
    return apart.clip(0, 255).astype(np.uint8)
