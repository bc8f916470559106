"""A single environment as the batch's case of one row."""

from typing import Any

import gymnasium as gym
import numpy as np

from diamond_gym.envs import arguments
from diamond_gym.envs.arguments import Array, Info


class SingleEnv(gym.Env[Array, Any]):
    """A single environment that is a batch with one row."""

    _batch: Any

    def _set_batch(self, batch: Any) -> None:
        """Takes a batch of one row in mode DISABLED, and its spaces."""
        self._batch, self.render_mode = batch, batch.render_mode
        self.observation_space, self.action_space = batch.single_observation_space, batch.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """Resets; `seed` fixes everything random from here on. Without one, the random stream goes on."""
        seed, batch = arguments.check_seed(seed), self._batch
        batch._np_random, batch._np_random_seed = self._np_random, self._np_random_seed
        obs, info = batch.reset(seed=seed, options=options)
        self._np_random, self._np_random_seed = batch._np_random, batch._np_random_seed
        return obs[0], _single(info)

    def step(self, action: Any) -> tuple[Array, float, bool, bool, Info]:
        """Takes a step."""
        if self._batch.ended.any():
            raise gym.error.ResetNeeded(f"the {self._batch.noun} has ended: call reset() before the next step().")
        obs, rewards, terminated, truncated, info = self._batch.step(np.asarray(action)[None])
        return obs[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _single(info)

    def render(self) -> Any:
        """The current frame, uint8 (H, W, C); None without a render mode."""
        frames = self._batch.render()
        return None if frames is None else frames[0]

    def get_action_meanings(self) -> list[str]:
        """A word for each action, such as "NOOP" or "RIGHTFIRE"; empty if the model's card has none."""
        meanings: list[str] = self._batch.get_action_meanings()
        return meanings

    def clone_state(self, include_rng: bool = False) -> Any:
        """Copies the state, with its random stream if asked (named as in ALE). It can be pickled."""
        return self._batch.clone_state(include_rng)

    def restore_state(self, state: Any) -> None:
        """Goes back to a cloned state of the same model or game; see the batch's `restore_state`."""
        self._batch.restore_state(state)

    def close(self) -> None:
        """Releases the model or game."""
        self._batch.close()


def _single(info: Info) -> Info:
    """The info of the one row, its numbers as Python's."""
    row = {name: value[0] for name, value in info.items() if not name.startswith("_") and info[f"_{name}"][0]}
    return {name: value.item() if isinstance(value, np.number) else value for name, value in row.items()}
