"""A batch of dreams as Stable-Baselines3's `VecEnv`, since SB3 does not take Gymnasium's vector environments."""

import inspect
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

import diamond_gym
from diamond_gym.envs.arguments import check_count, check_options
from diamond_gym.envs.vector_env import DreamVectorEnv
from diamond_gym.errors import BadArgument

Indices = int | Iterable[int] | None
Info = dict[str, Any]


def make_dream_vec_env(id: str, n_envs: int = 1, **kwargs: Any) -> "DreamVecEnv":
    """Makes a batch of dreams by its id, for the algorithms of Stable-Baselines3.

    Example:
        >>> from stable_baselines3 import PPO  # doctest: +SKIP
        >>> from stable_baselines3.common.vec_env import VecMonitor  # doctest: +SKIP
        >>> envs = VecMonitor(make_dream_vec_env("DiamondDream-Pong-v0", n_envs=16))  # doctest: +SKIP
        >>> PPO("CnnPolicy", envs).learn(100_000)  # doctest: +SKIP

    Args:
        id: A registered id, such as "DiamondDream-Pong-v0", or "DiamondDream-v0" with `model=`.
        n_envs: Rows of the batch.
        **kwargs: Those of `diamond_gym.envs.DreamVectorEnv`, besides `num_envs` and `autoreset_mode`.

    Raises:
        DiamondGymError: The model or an argument cannot be used, or the id is not a dream's.
    """
    check_count("n_envs", n_envs)
    for name in ("num_envs", "autoreset_mode", "vectorization_mode"):
        if name in kwargs:
            raise BadArgument(f"make_dream_vec_env sets {name} itself: leave it out (n_envs is the number of rows).")
    if kwargs.get("render_mode") == "rgb_array_tiled":
        raise BadArgument('SB3 tiles the rows itself, in render("rgb_array"): use render_mode="rgb_array".')
    diamond_gym.register_ids()  # a model saved since the package was imported has its id, too
    spec = gym.spec(id)
    if spec.vector_entry_point != "diamond_gym.envs:DreamVectorEnv":
        raise BadArgument(f"{id} is not a dream: for other environments, use SB3's make_vec_env.")
    envs = gym.make_vec(id, num_envs=int(n_envs), autoreset_mode=AutoresetMode.SAME_STEP, **kwargs)
    assert isinstance(envs, DreamVectorEnv)
    return DreamVecEnv(envs)


class DreamVecEnv(VecEnv):
    """A `DreamVectorEnv` in mode SAME_STEP as a `VecEnv`.

    It follows SB3's conventions: a finished row returns the first frame of its next dream, and the last frame of the
    dream that ended in `info["terminal_observation"]`; `info["TimeLimit.truncated"]` says that the horizon ended it,
    not the model, so that algorithms bootstrap; `info` belongs to the dream that ended, `reset_infos` to the new one.

    All rows are one batch under one model. Attributes and methods are therefore those of the batch: they are
    read for any rows, but set and called for all rows at once.
    """

    actions: npt.NDArray[Any]

    def __init__(self, envs: DreamVectorEnv) -> None:
        if envs.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise BadArgument('SB3 needs rows that reset within the step: make the dream with "SameStep".')
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = dict(envs.metadata)

    def reset(self) -> npt.NDArray[np.uint8]:
        """Restarts all dreams, with the seeds and options that were set for it; they are used up, also if it fails."""
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        try:
            obs, info = self.envs.reset(seed=seeds, options=_batched(self._options))
        finally:  # what the batch refuses must not stand in the way of the next reset
            self._reset_seeds()
            self._reset_options()
        self.reset_infos = _rows(info, self.num_envs)
        return obs

    def set_options(self, options: list[Info] | Info | None = None) -> None:
        """Sets the options of the next reset, one dictionary for all rows or one for each.

        Raises:
            TypeError: They are no dictionaries.
            ValueError: There are not as many as rows, or they are not of the same kind and shape.
        """
        given = options if isinstance(options, list | tuple) else [options] * self.num_envs
        if len(given) != self.num_envs:
            raise ValueError(f"{self.num_envs} rows need {self.num_envs} dictionaries of options, got {len(given)}.")
        each = [check_options(one) for one in given]
        _batched(each)
        super().set_options(each)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Stores the actions for `step_wait`."""
        self.actions = actions

    def step_wait(
        self,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.bool_], list[Info]]:
        """Dreams the step."""
        obs, rewards, terminated, truncated, info = self.envs.step(self.actions)
        dones = terminated | truncated
        final_obs, final_info = info.pop("final_obs", None), info.pop("final_info", {})
        infos, finals = _rows(info, self.num_envs), _rows(final_info, self.num_envs)
        for row in np.flatnonzero(dones):
            self.reset_infos[row], infos[row] = infos[row], finals[row]
            infos[row]["terminal_observation"] = final_obs[row]
        for info, timed_out in zip(infos, truncated & ~terminated, strict=True):
            info["TimeLimit.truncated"] = bool(timed_out)
        return obs, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Releases the model."""
        self.envs.close()

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """The current frame of each row; needs `render_mode="rgb_array"`."""
        if self.render_mode != "rgb_array":
            warnings.warn('get_images needs a dream made with render_mode="rgb_array".', stacklevel=2)
            return [None] * self.num_envs
        return list(self.envs.render())

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute as each row's single environment would have it; most belong to the whole batch."""
        rows = self._get_indices(indices)
        if inspect.ismethod(method := getattr(self.envs, attr_name, None)):  # which Gymnasium's own would call
            return [method for _ in rows]
        each = self.envs.get_attr(attr_name)
        return [each[row] for row in rows]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of the batch, as `DreamVectorEnv.set_attr` does; raises as that does."""
        self._for_all_rows(indices)
        self.envs.set_attr(attr_name, [value] * self.num_envs)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of the batch once; what it returned, for every row (`render`: each its own)."""
        self._for_all_rows(indices)
        result = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        if method_name == "render" and isinstance(result, tuple):
            return list(result)
        return [result] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Whether the rows are wrapped; they never are, wrap the whole `VecEnv`."""
        return [False for _ in self._get_indices(indices)]

    def _get_indices(self, indices: Indices) -> list[int]:
        """Rows as numbers from 0 on; IndexError for those that there are not."""
        rows = [int(row) for row in super()._get_indices(indices)]
        for row in rows:
            if not -self.num_envs <= row < self.num_envs:
                raise IndexError(f"there is no row {row}: {self.num_envs} rows are numbered from 0 on.")
        return [row % self.num_envs for row in rows]

    def _for_all_rows(self, indices: Indices) -> None:
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError("the rows of a dream share one model: leave out indices, or name all rows.")


def _batched(options: Sequence[Info]) -> Info:
    """The rows' options as those of the batch; ValueError where they do not go together."""
    names = {name for each in options for name in each}
    if any(each.keys() != names for each in options):
        raise ValueError("options must be of the same kind for every row: all have a start, or all frames.")
    return {name: np.stack([np.asarray(each[name]) for each in options]) for name in names}


def _rows(info: Info, num_envs: int) -> list[Info]:
    """An info of arrays and masks as one dictionary per row."""
    names = [name for name in info if not name.startswith("_")]
    rows = [{name: info[name][i] for name in names if info[f"_{name}"][i]} for i in range(num_envs)]
    return [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]
