"""The batch of environments, dreams or real games, under every autoreset mode."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from diamond_gym.actions import ActionCodec
from diamond_gym.envs import arguments
from diamond_gym.envs.arguments import Array, Autoreset, Info, ObsDtype, ObsFormat
from diamond_gym.errors import BadArgument

_SINGLE = {"observation_space": "single_observation_space", "action_space": "single_action_space"}
_SETTLED = (*_SINGLE, *_SINGLE.values(), "num_envs", "autoreset_mode", "precision", "closed", "noun")
_ROW_METHODS = ("get_action_meanings", "render")


class BatchEnv:
    """A vector environment that holds no single ones, with all autoreset modes and infos of `SyncVectorEnv`.

    It is a mixin: skrl looks for Gymnasium's `VectorEnv` among the direct bases of an environment's class. The class
    that takes it in says what is played: `_frames` gives all rows' frames, `_begin`, `_restart` and `_play` move rows,
    `_info` describes them.
    """

    noun: str  # of a row, in errors
    closed: bool
    num_envs: int
    render_mode: str | None
    metadata: dict[str, Any]
    single_observation_space: gym.Space[Any]
    single_action_space: gym.Space[Any]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    _arguments: dict[str, Any]
    _meanings: Sequence[str]

    def _set_up(
        self, num_envs: int, autoreset_mode: Autoreset, render_mode: str | None, max_episode_steps: int,
        obs_dtype: ObsDtype, channels_first: bool,
    ) -> None:  # fmt: skip
        """Checks and takes what all batches are given alike."""
        metadata: Info = copy.deepcopy(type(self).metadata)
        self.num_envs, self.render_mode = arguments.check_count("num_envs", num_envs), render_mode
        arguments.check_render_mode(render_mode, metadata["render_modes"])
        self._horizon = arguments.horizon_of(max_episode_steps)
        self.autoreset_mode = arguments.autoreset(autoreset_mode)
        self.metadata = {**metadata, "autoreset_mode": self.autoreset_mode}
        self._format = ObsFormat(obs_dtype, channels_first)
        self._begun, self._ended = False, np.zeros(self.num_envs, np.bool_)
        self._row_attributes: dict[str, list[Any]] = {}

    def _set_spaces(self, obs_shape: tuple[int, int, int], codec: ActionCodec) -> None:
        self._codec = codec
        self.single_observation_space, self.single_action_space = self._format.space(*obs_shape), codec.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _check_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError(f"this {self.noun} is closed: make a new one.")

    def _check_begun(self, call: str) -> None:
        self._check_open()
        if not self._begun:
            raise gym.error.ResetNeeded(f"the {self.noun} has not begun: call reset() before {call}().")

    @property
    def horizon(self) -> int | None:
        """Steps after which a row is truncated, None for no limit; may be set between steps, for the next one on."""
        return self._horizon

    @horizon.setter
    def horizon(self, horizon: int | None) -> None:
        if horizon is not None and not (arguments.is_whole(horizon) and horizon >= 1):
            raise BadArgument(f"horizon must be a whole number of at least 1, or None to go on, got {horizon!r}.")
        self._horizon = None if horizon is None else int(horizon)
        self._take_horizon()

    def _take_horizon(self) -> None:
        """Passes a new horizon on to whatever else cuts rows off by it."""

    @property
    def ended(self) -> Array:
        """Rows that have ended and wait for their reset, bool (B,)."""
        return self._ended.copy()

    def reset(self, *, seed: arguments.Seeds = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """Resets the rows.

        Args:
            seed: Row i gets seed + i, or the i-th of a sequence. Without a seed, the rows' streams go on.
            options: `reset_mask`, bool (B,), the rows to reset; for dreams also where they begin (`DreamVectorEnv`).

        Returns:
            The current observations of all rows, (B, H, W, C), and the info.
        """
        self._check_open()
        options = arguments.check_options(options)
        mask = arguments.check_mask(options.pop("reset_mask", None), self.num_envs)
        given = self._check_beginning(options)
        seeds = arguments.check_seeds(seed, self.num_envs)
        if not self._begun and not mask.all():
            raise gym.error.ResetNeeded("the first reset must be of all rows: leave out reset_mask.")
        env: Any = self
        before = None if self._begun or seeds is not None else env.np_random.bit_generator.state
        if before is not None:
            seeds = int(env.np_random.integers(2**62))
        try:
            self._begin(seeds, mask, given)
        except Exception:
            if before is not None:
                env.np_random.bit_generator.state = before
            raise
        if isinstance(seed, int | np.integer):
            VectorEnv.reset(env, seed=int(seed))
        self._begun, self._ended = True, self._ended & ~mask
        return self._format(self._frames()), self._info(mask, np.zeros_like(mask))

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, Info]:
        """Takes a step in every row; what happens at an end is up to the autoreset mode.

        Args:
            actions: From `action_space`: integers (B,), or for dreams also multi-hot (B, A), or CS:GO's (B, 15).

        Returns:
            Observations (B, H, W, C), rewards float64 (B,), terminated and truncated bool (B,), and the info.
        """
        self._check_begun("step")
        try:
            act = self._codec.encode(self._codec.check(actions, (self.num_envs,)))
        except ValueError as error:
            raise gym.error.InvalidAction(f"{error}.") from None
        mode, resting = self.autoreset_mode, self._ended
        if mode is AutoresetMode.DISABLED and resting.any():
            rows = np.flatnonzero(resting).tolist()
            raise gym.error.ResetNeeded(
                f"the {self.noun}s of rows {rows} have ended: reset them with options={{'reset_mask': mask}}."
            )
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        stepped = ~resting
        if stepped.any():
            rewards, terminated, truncated = self._play(act, stepped)
        if resting.any():  # only in mode NEXT_STEP
            self._restart(resting)
        self._ended, info = terminated | truncated, Info()
        if mode is AutoresetMode.SAME_STEP and self._ended.any():
            info = self._end_within_step(self._ended)
            stepped = ~self._ended  # what was seen on the way belongs to the final info
            self._ended = np.zeros_like(stepped)
        info |= self._info(np.ones_like(stepped), stepped)
        return self._format(self._frames()), rewards, terminated, truncated, info

    def _end_within_step(self, ended: Array) -> Info:
        """What the rows that have ended ended with, which then begin anew."""
        frames, info = self._format(self._frames()), self._info(ended, ended)
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final_obs[row] = frames[row].copy()
        self._restart(ended)
        return {"final_obs": final_obs, "_final_obs": ended.copy(), "final_info": info, "_final_info": ended.copy()}

    def _check_beginning(self, options: dict[str, Any]) -> dict[str, Any]:
        """Reads where the rows are to begin from the options besides the mask; only dreams have a choice."""
        return arguments.known_options(options, "reset_mask")

    def _begin(self, seeds: int | list[int | None] | None, rows: Array, given: dict[str, Any]) -> None:
        raise NotImplementedError

    def _restart(self, rows: Array) -> None:
        raise NotImplementedError

    def _play(self, act: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Steps the rows of a mask: rewards, terminated and truncated of all, 0 and False of the others."""
        raise NotImplementedError

    def _frames(self) -> Array:
        raise NotImplementedError

    def _info(self, rows: Array, stepped: Array) -> Info:
        """The infos of the rows of a mask, and of those among them that have stepped."""
        raise NotImplementedError

    def render(self) -> Any:
        """The rows' current pictures, a tuple of B uint8 frames (H, W, C), grey ones as RGB; None without a mode."""
        self._check_open()
        if self.render_mode is None:
            gym.logger.warn('render() shows nothing: make the environment with render_mode="rgb_array".')
            return None
        self._check_begun("render")
        frames = self._frames()
        return tuple(np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames.copy())

    def get_action_meanings(self) -> list[str]:
        """A word for each action, the same in all rows, as the single environment has them."""
        return list(self._meanings)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The answer of each row: an attribute, or what the method `get_action_meanings` or `render` returns.

        Raises:
            BadArgument: The method acts on all rows at once.
        """
        if name in self._row_attributes:
            return tuple(self._row_attributes[name])
        value = getattr(self, _SINGLE.get(name, name))
        if inspect.ismethod(value):
            if name not in _ROW_METHODS:
                raise BadArgument(f"{name} acts on all rows at once: use the batch's own {name}().")
            value = value(*args, **kwargs)
        by_row = name == "render" and isinstance(value, tuple)
        by_row |= isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,)
        return tuple(value) if by_row else (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each row; most belong to the whole batch and are the same in all."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every row: a list or tuple has one value each, anything else is for all.

        Raises:
            ValueError: There are not as many values as rows.
            BadArgument: The rows share the attribute, and the values differ; or it cannot be set.
        """
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"{self.num_envs} rows need {self.num_envs} values, got {len(each)}.")
        if not hasattr(self, name):
            self._row_attributes[name] = each
            return
        what = getattr(type(self), name, None)
        read_only = isinstance(what, property) and what.fset is None
        if name in _SETTLED or read_only or inspect.ismethod(getattr(self, name)):
            raise BadArgument(f"{name} cannot be set: make another batch.")
        if any(value is not each[0] and value != each[0] for value in each):
            raise BadArgument(f"the rows share {name}: give one value for all.")
        if name == "render_mode":
            arguments.check_render_mode(each[0], self.metadata["render_modes"])
        setattr(self, name, each[0])

    def __getstate__(self) -> dict[str, Any]:
        return self._pickled(self._arguments)

    def _pickled(self: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        """How to make the environment again, and the state that it was in."""
        state = self.clone_state(include_rng=True) if self._begun else None
        names = "horizon", "spec", "_np_random", "_np_random_seed", "_row_attributes"
        kept = {name: getattr(self, name) for name in names}
        return {"arguments": arguments, "state": state, "kept": kept}

    def __setstate__(self: Any, pickled: dict[str, Any]) -> None:
        self.__init__(**pickled["arguments"])
        for name, value in pickled["kept"].items():
            setattr(self, name, value)
        if pickled["state"] is not None:
            self._take_over(pickled["state"])

    def _take_over(self: Any, state: Any) -> None:
        """Restores the state of a pickled environment."""
        self.restore_state(state)
