"""Dreams as Gymnasium environments: `DreamEnv` is a single one, `DreamVectorEnv` a batch under one model."""

from itertools import combinations
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from diamond_gym import csgo
from diamond_gym.envs.arguments import check_seed
from diamond_gym.envs.checks import DreamArguments
from diamond_gym.envs.infos import Array, EnvState
from diamond_gym.envs.vector_env import DreamVectorEnv
from diamond_gym.registry.games import keys_to_action
from diamond_gym.world_model import WorldModel

__all__ = ["DreamEnv", "DreamVectorEnv", "EnvState"]

DEFAULT_HORIZON = 50


class DreamEnv(gym.Env[Array, Any]):
    """A dream as a single environment: the batch with one row.

    Observations are uint8 (H, W, C), actions the game's minimal set, rewards -1, 0 or 1; `terminated` is the
    model's end and `truncated` the horizon. `reset(seed=...)` fixes everything random. It can be pickled and
    deep-copied at any moment, and the copy dreams on as the original does.

    Made by `gym.make`, the horizon is that of Gymnasium's `TimeLimit` around it. That wrapper counts on its
    own: after `restore_state` it still counts the steps made, not those of the restored dream. To branch freely, make
    it with `max_episode_steps=-1` and count yourself, or use the class or `gym.make_vec`.

    Example:
        >>> import gymnasium as gym, diamond_gym
        >>> env = gym.make("DiamondDream-Breakout-v0")  # doctest: +SKIP
        >>> obs, info = env.reset(seed=0)  # doctest: +SKIP
        >>> before = env.unwrapped.clone_state(include_rng=True)  # doctest: +SKIP
        >>> obs, reward, terminated, truncated, info = env.step(env.action_space.sample())  # doctest: +SKIP
        >>> env.unwrapped.restore_state(before)  # doctest: +SKIP
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's own type; every instance has its own copy)
        "render_modes": ["rgb_array"],
        "render_fps": 15,
    }

    def __init__(
        self,
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **arguments: Unpack[DreamArguments],
    ) -> None:
        """Opens a model and sets up a dream.

        Args:
            render_mode: None or "rgb_array".
            max_episode_steps: Steps after which the dream is truncated, -1 to dream on. None: 50, or for an
                environment made by `gym.make`, what its `TimeLimit` says.
            **arguments: Those of `DreamVectorEnv` but for `num_envs` and `autoreset_mode`.
        """
        self._own_horizon = max_episode_steps is not None
        self._batch = DreamVectorEnv(
            num_envs=1,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
            max_episode_steps=DEFAULT_HORIZON if max_episode_steps is None else max_episode_steps,
            **arguments,
        )
        self.metadata = {**type(self).metadata, "render_modes": ["rgb_array"]}
        self.render_mode = render_mode
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space
        self._begun = False

    @property
    def world_model(self) -> WorldModel:
        """The model that dreams."""
        return self._batch.world_model

    @property
    def precision(self) -> str:
        """The arithmetic of the networks, "float32" or "bfloat16"; what "auto" came to."""
        return self._batch.precision

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begins a dream.

        Args:
            seed: Fixes everything random from here on. Without one, the random stream goes on.
            options: `start`, the index of a stored start; or `obs` uint8 (T, H, W, C) and `act` (T - 1,),
                real frames to dream on from.

        Returns:
            The current frame, uint8 (H, W, C), and the info.
        """
        seed, batch = check_seed(seed), self._batch
        self._settle_horizon()
        batch._np_random, batch._np_random_seed = self._np_random, self._np_random_seed
        obs, info = batch.reset(seed=seed, options=options)
        self._np_random, self._np_random_seed = batch._np_random, batch._np_random_seed
        self._begun = True
        return obs[0], _single(info)

    def _settle_horizon(self) -> None:
        """Leaves truncation to the `TimeLimit` of `gym.make`, who sets `spec`, unless told otherwise."""
        if not self._own_horizon and self.spec is not None:
            self._batch.horizon = None

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Dreams a step."""
        if self._batch.ended.any():
            raise gym.error.ResetNeeded("the dream has ended: call reset() before the next step().")
        obs, rewards, terminated, truncated, info = self._batch.step(np.asarray(action)[None])
        return obs[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _single(info)

    def render(self) -> Any:
        """The current frame, uint8 (H, W, C); None without a render mode."""
        frames = self._batch.render()
        return None if frames is None else frames[0]

    def clone_state(self, include_rng: bool = False) -> EnvState:
        """Copies the dream's state, with its random stream if asked (ALE's words). It can be pickled."""
        return self._batch.clone_state(include_rng)

    def restore_state(self, state: EnvState) -> None:
        """Goes back to a cloned state of the same model; see `DreamVectorEnv.restore_state`."""
        self._settle_horizon()
        self._batch.restore_state(state)
        self._begun = True

    def get_action_meanings(self) -> list[str]:
        """A word for each action, such as "NOOP" or "RIGHTFIRE"; empty if the model's card has none.

        Of CS:GO the names of an action's 15 parts.
        """
        return self._batch.get_action_meanings()

    def get_keys_to_action(self) -> dict[tuple[str, ...], Any]:
        """The keys of `gymnasium.utils.play`: w a s d to move, the space bar to fire.

        Of CS:GO its keys but ctrl and shift, up to three at once; hand `noop=csgo.action()` to `play`.
        """
        if isinstance(self.action_space, gym.spaces.MultiDiscrete):
            names = {" " if name == "space" else name: name for name in csgo.KEYS if name not in ("ctrl", "shift")}
            chords = [chord for size in (1, 2, 3) for chord in combinations(names, size)]
            return {chord: csgo.action(*(names[key] for key in chord)) for chord in chords}
        return dict(keys_to_action(self.get_action_meanings()))

    def close(self) -> None:
        """Lets go of the model."""
        self._batch.close()


def _single(info: dict[str, Any]) -> dict[str, Any]:
    """The info of the one row."""
    single = {key: value[0] for key, value in info.items() if not key.startswith("_") and info[f"_{key}"][0]}
    return {**single, "start": int(single["start"])}
