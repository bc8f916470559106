"""Real games, each of which begins anew where it ends, and goes back to any state by playing it again."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

_Frames = npt.NDArray[np.uint8]
_Rows = npt.NDArray[np.bool_]
Step = tuple[_Frames, npt.NDArray[np.float32], _Rows, _Rows, _Rows]


class Games:
    """The rows of a vector environment as games, each of which begins anew, from a seed of its own, where it ends.

    Their state is the seed of each game and its actions since then. Going back to it plays them again, which is exact
    where the environment does the same from the same seed.

    Args:
        envs: B environments of uint8 frames (H, W, C), in autoreset mode DISABLED.
        life_loss_ends: Whether the loss of a life (`info["lives"]`) ends an episode, though the game goes on.

    Attributes:
        num_envs: How many there are, B.
        obs: The frames to act on, uint8 (B, H, W, C).
    """

    obs: _Frames

    def __init__(self, envs: VectorEnv[Any, Any, Any], life_loss_ends: bool = True) -> None:
        if envs.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
            raise ValueError("games are made of a vector environment in autoreset mode DISABLED")
        self._envs, self._life_loss_ends, self.num_envs = envs, life_loss_ends, envs.num_envs
        self._seeds = [0] * envs.num_envs
        self._acts: list[list[Any]] = [[] for _ in range(envs.num_envs)]  # numbers, or lists of them
        self._lives = np.zeros(envs.num_envs, np.int64)

    def reset(self, seed: int) -> _Frames:
        """Begins all of them: the frames to act on."""
        self._rng = np.random.default_rng(seed)
        self._begin(np.ones(self.num_envs, np.bool_))
        return self.obs

    def step(self, act: npt.NDArray[Any]) -> Step:
        """Plays a step.

        Returns:
            The frames that it led to, (B, H, W, C), rewards, ends, truncations, and which games are over, (B,) each.
            Where a game is over, `obs` shows the first frame of the next one.
        """
        for acts, one in zip(self._acts, act, strict=True):
            acts.append(np.asarray(one).tolist())
        self.obs, rew, end, trunc, info = self._envs.step(act)
        obs, over, before = self.obs, end | trunc, self._lives
        self._take_lives(info)
        if self._life_loss_ends:
            end = end | (self._lives < before)
        if over.any():
            self._begin(over)
        return obs, rew.astype(np.float32), end, trunc, over

    def close(self) -> None:
        """Ends them."""
        self._envs.close()

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on from here, as plain data."""
        acts = [list(acts) for acts in self._acts]
        return {"rng": self._rng.bit_generator.state, "seeds": list(self._seeds), "acts": acts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state by playing it again; rows with fewer actions wait, so that all arrive together."""
        self._rng = np.random.default_rng()
        self._rng.bit_generator.state = state["rng"]
        self._seeds, self._acts = list(state["seeds"]), [list(acts) for acts in state["acts"]]
        longest = max(map(len, self._acts))
        wait = np.array([longest - len(acts) for acts in self._acts])
        over: _Rows = np.ones(self.num_envs, np.bool_)
        filling = next((acts[0] for acts in self._acts if acts), 0)
        for t in range(longest + 1):
            if (begins := over | (wait == t)).any():
                self._reset(begins)
            if t == longest:
                break
            # the rows that have not begun yet take any action
            act = [acts[t - late] if t >= late else filling for acts, late in zip(self._acts, wait, strict=True)]
            self.obs, _, end, trunc, info = self._envs.step(np.array(act, self._envs.single_action_space.dtype))
            self._take_lives(info)
            over = end | trunc

    def _begin(self, rows: _Rows) -> None:
        for i in np.flatnonzero(rows):
            self._seeds[i], self._acts[i] = int(self._rng.integers(2**31)), []
        self._reset(rows)

    def _reset(self, rows: _Rows) -> None:
        seeds: Any = list(self._seeds)  # Gymnasium's annotation leaves out a seed for each row
        self.obs, info = self._envs.reset(seed=seeds, options={"reset_mask": rows.copy()})
        self._take_lives(info)

    def _take_lives(self, info: dict[str, Any]) -> None:
        if "lives" in info:
            self._lives = np.where(info.get("_lives", True), info["lives"], self._lives)
