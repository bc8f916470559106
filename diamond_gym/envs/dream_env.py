"""A dream as a single Gymnasium environment."""

from itertools import combinations
from typing import Any, Unpack

from gymnasium.vector import AutoresetMode

from diamond_gym.envs.arguments import Array, Info, check_render_mode
from diamond_gym.envs.checks import DreamArguments
from diamond_gym.envs.single_env import SingleEnv
from diamond_gym.envs.vector_env import DreamVectorEnv, EnvState
from diamond_gym.errors import BadArgument
from diamond_gym.registry.games import keys_to_action
from diamond_gym.world_model import WorldModel

DEFAULT_HORIZON = 50


class DreamEnv(SingleEnv):
    """A dream as a single environment: the batch with one row.

    Observations are uint8 (H, W, C), actions the game's minimal set, rewards -1, 0 or 1; `terminated` is the
    model's end and `truncated` the horizon. `reset(seed=...)` fixes everything random; its options are those of
    `DreamVectorEnv` for one row. It can be pickled and deep-copied at any moment, and the copy dreams on as the
    original does.

    In an environment made by `gym.make`, Gymnasium's `TimeLimit` wrapper sets the horizon. The wrapper keeps its own
    count: after `restore_state` it still counts the steps made, not those of the restored dream. To branch freely, make
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
            max_episode_steps: Steps after which the dream is truncated, -1 for no limit. None: 50, or for an
                environment made by `gym.make`, what its `TimeLimit` says.
            **arguments: Those of `DreamVectorEnv`, except `num_envs` and `autoreset_mode`.
        """
        for name in ("num_envs", "autoreset_mode"):
            if name in arguments:
                raise BadArgument(f"{name} is for batches: leave it out, or use gym.make_vec.")
        check_render_mode(render_mode, type(self).metadata["render_modes"])
        self._own_horizon = max_episode_steps is not None
        self.metadata = {**type(self).metadata, "render_modes": ["rgb_array"]}
        self._set_batch(
            DreamVectorEnv(
                num_envs=1,
                autoreset_mode=AutoresetMode.DISABLED,
                render_mode=render_mode,
                max_episode_steps=DEFAULT_HORIZON if max_episode_steps is None else max_episode_steps,
                **arguments,
            )
        )

    @property
    def world_model(self) -> WorldModel:
        """The model that dreams."""
        model: WorldModel = self._batch.world_model
        return model

    @property
    def precision(self) -> str:
        """The arithmetic of the networks, "float32" or "bfloat16"; also what "auto" has chosen."""
        return str(self._batch.precision)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """Begins a dream; see `DreamVectorEnv` for the options."""
        self._settle_horizon()
        return super().reset(seed=seed, options=options)

    def restore_state(self, state: EnvState) -> None:
        """Goes back to a cloned state of the same model; see `DreamVectorEnv.restore_state`."""
        self._settle_horizon()
        super().restore_state(state)

    def _settle_horizon(self) -> None:
        """Leaves truncation to the `TimeLimit` of `gym.make`, which sets `spec`, unless a horizon was given."""
        if not self._own_horizon and self.spec is not None:
            self._batch.horizon = None

    def get_keys_to_action(self) -> dict[tuple[str, ...], Any]:
        """The keys of `gymnasium.utils.play`: w a s d to move, the space bar to fire.

        Actions that are vectors have the keys of `ActionCodec.keys`, up to three at once; CS:GO's have those keys that
        are a single character, and the space bar, and `play` needs `noop=csgo.action()`.
        """
        codec = self.world_model.codec
        if not codec.is_vector:
            return dict(keys_to_action(self.get_action_meanings()))
        names = {" " if name == "space" else name: name for name in codec.keys}
        single = [key for key in names if len(key) == 1]
        chords = (chord for size in (1, 2, 3) for chord in combinations(single, size))
        return {chord: codec.held([names[key] for key in chord]) for chord in chords}
