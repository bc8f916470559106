"""The real games, with exactly the dream's spaces: ALE behind the preprocessing of Atari 100k.

Frame skip 4, maximum of the last two frames, up to 30 no-ops at reset, RGB by area interpolation to 64×64, no
sticky actions, the game's minimal set of actions (Alonso et al. 2024), as in Gymnasium's `AtariPreprocessing`.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from diamond_gym.envs import arguments
from diamond_gym.envs.atari_game import RealState
from diamond_gym.envs.atari_vector import INFO, Array, Info, RealVectorEnv
from diamond_gym.envs.batch_env import ObsDtype
from diamond_gym.registry.games import keys_to_action

__all__ = ["RealEnv", "RealVectorEnv"]


class RealEnv(gym.Env[Array, Any]):
    """A real Atari game with the spaces of its dream: the batch with one row.

    Observations are uint8 (64, 64, 3), actions the game's minimal set, rewards the game's own (a dream's are
    their signs). `info` tells `lives`, `episode_frame_number` and `frame_number`, in the game's frames.
    Rendering gives the game's own screen, uint8 (210, 160, 3) for most games. It can be pickled and deep-copied at
    any moment, and the copy plays on as the original does.

    Every game begins from power-on, so that all it shows follows from its no-ops and the actions since. A copy and
    `restore_state` play these again, at a millisecond a step.

    Example:
        >>> import gymnasium as gym, diamond_gym
        >>> env = gym.make("DiamondReal-Breakout-v0")  # doctest: +SKIP
        >>> obs, info = env.reset(seed=0)  # doctest: +SKIP
        >>> obs, reward, terminated, truncated, info = env.step(env.action_space.sample())  # doctest: +SKIP

    Args:
        game: One of the 26 games of Atari 100k.
        render_mode: None or "rgb_array".
        terminal_on_life_loss: Whether the loss of a life ends the episode; the next begins a new game.
        noop_max: At most so many no-ops before an episode begins, in the game's frames.
        obs_dtype: "uint8", or "float32" for observations from 0 to 1.
        channels_first: Whether observations are (3, 64, 64).
    """

    metadata: dict[str, Any] = {k: v for k, v in RealVectorEnv.metadata.items() if k != "autoreset_mode"}  # noqa: RUF012

    def __init__(
        self,
        *,
        game: str,
        render_mode: str | None = None,
        terminal_on_life_loss: bool = False,
        noop_max: int = 30,
        obs_dtype: ObsDtype = "uint8",
        channels_first: bool = False,
    ) -> None:
        self._batch = RealVectorEnv(
            game=game,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
            terminal_on_life_loss=terminal_on_life_loss,
            noop_max=noop_max,
            obs_dtype=obs_dtype,
            channels_first=channels_first,
        )
        self.render_mode = render_mode
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """Begins a new game; `seed` fixes the no-ops of this and all later ones."""
        seed, batch = arguments.check_seed(seed), self._batch
        batch._np_random, batch._np_random_seed = self._np_random, self._np_random_seed
        obs, info = batch.reset(seed=seed, options=options)
        self._np_random, self._np_random_seed = batch._np_random, batch._np_random_seed
        return obs[0], _single(info)

    def step(self, action: Any) -> tuple[Array, float, bool, bool, Info]:
        """Plays four of the game's frames."""
        if self._batch.ended.any():
            raise gym.error.ResetNeeded("the game has ended: call reset() before step().")
        obs, rewards, terminated, truncated, info = self._batch.step(np.asarray(action)[None])
        return obs[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _single(info)

    @property
    def ale(self) -> Any:
        """ALE's own interface to the game, an `ale_py.ALEInterface`: what Atari wrappers ask for `lives()`.

        It is for reading. What is done to the game through it (`act`, `reset_game`, `restoreState`) is not part of
        the environment's state: copies and cloned states made later are wrong.
        """
        return self._batch.games[0].ale

    def get_action_meanings(self) -> list[str]:
        """ALE's word for each action, such as "NOOP" or "RIGHTFIRE"."""
        return self._batch.get_action_meanings()

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """The keys of `gymnasium.utils.play`: w a s d to move, the space bar to fire."""
        return keys_to_action(self.get_action_meanings())

    def render(self) -> Any:
        """The game's screen, uint8 (height, width, 3); None without a render mode."""
        return None if self._batch.render() is None else self._batch.games[0].screen()

    def clone_state(self, include_rng: bool = False) -> RealState:
        """The game's state, with the random stream of its no-ops if asked (ALE's words). It can be pickled."""
        return self._batch.clone_state(include_rng)

    def restore_state(self, state: RealState) -> None:
        """Goes back to a cloned state of the same game; see `RealVectorEnv.restore_state`."""
        self._batch.restore_state(state)

    def close(self) -> None:
        """Ends the game."""
        self._batch.close()


def _single(info: Info) -> Info:
    """The info of the one row."""
    return {name: int(info[name][0]) for name in INFO}
