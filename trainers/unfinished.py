"""Episodes that are being played: what of them is not in the store yet."""

from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.episode_files import Episode


class Part:
    """The piece of an episode that is not stored yet.

    Attributes:
        number: The episode's, once part of it is stored.
        obs: Frames, from the last one that is stored on, or the first.
        act: Actions.
        rew: Rewards.
        first: Whether the episode begins a game.
        played_by: Who plays.
        game: The game's number in the store; None if it is not known.

    Args:
        obs: The first frame.
        first: See above, as the rest.
        played_by: See above.
        game: See above.
    """

    def __init__(self, obs: npt.NDArray[np.uint8], first: bool, played_by: str, game: int | None) -> None:
        self.number: int | None = None
        self.obs, self.act, self.rew = [obs], list[int](), list[float]()
        self.first, self.played_by, self.game = first, played_by, game

    @property
    def begins(self) -> bool:
        """Whether the episode has no step yet, stored or not."""
        return self.number is None and not self.act

    def add(self, act: int, rew: float, next_obs: npt.NDArray[np.uint8]) -> None:
        """Adds a step."""
        self.act.append(act)
        self.rew.append(rew)
        self.obs.append(next_obs)

    def episode(self, end: bool, trunc: bool) -> Episode:
        """The piece to be stored, whose last step may have ended the episode."""
        last = np.arange(len(self.act)) == len(self.act) - 1
        info: dict[str, Any] = {}
        if self.number is None:
            info = {"first": self.first, "policy": self.played_by}
            info |= {} if self.game is None else {"game": self.game}
        act, rew = np.array(self.act, np.int64), np.array(self.rew, np.float32)
        return Episode(np.stack(self.obs), act, rew, last & end, last & trunc, info)

    def go_on(self, number: int) -> None:
        """Forgets what has been stored under a number."""
        self.number, self.obs, self.act, self.rew = number, self.obs[-1:], [], []
