"""A batch of dreams as one Gymnasium vector environment: one model, not one a row."""

import copy
from os import PathLike
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from diamond_gym.device import settle_threads
from diamond_gym.dream import Dream
from diamond_gym.envs import arguments, checks
from diamond_gym.envs.batch_env import Autoreset, ObsDtype, ObsFormat, Rows
from diamond_gym.envs.checks import action_meanings, action_space, check_actions, check_beginning
from diamond_gym.envs.copies import CopiedDream
from diamond_gym.envs.infos import Array, EnvState, Extras, Info, Replay, final_info, start_info
from diamond_gym.frames import tile, to_pixels
from diamond_gym.registry.loading import Precision
from diamond_gym.registry.models import Entry
from diamond_gym.world_model import WorldModel, versions


class DreamVectorEnv(Rows, CopiedDream, VectorEnv[Array, Array, Array]):
    """A batch of dreams, stepped by one batched world model.

    Observations are uint8 (B, H, W, C), unless `obs_dtype` or `channels_first` says otherwise, rewards -1, 0 or 1
    as float64; `terminated` is the model's end, `truncated` the horizon. Row i of a batch seeded with s dreams what a
    single `DreamEnv` seeded with s + i dreams. All autoreset modes are as `gymnasium.vector.SyncVectorEnv` has them,
    with the same keys in `info`, besides `info["start"]`: the index of the start a row dreams from, -1 for frames
    given to `reset`.

    Example:
        >>> import gymnasium as gym, diamond_gym
        >>> envs = gym.make_vec("DiamondDream-Breakout-v0", num_envs=8)  # doctest: +SKIP
        >>> obs, info = envs.reset(seed=0)  # doctest: +SKIP
        >>> obs, reward, end, trunc, info = envs.step(envs.action_space.sample())  # doctest: +SKIP
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's own type; every instance has its own copy)
        "render_modes": ["rgb_array", "rgb_array_tiled"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        *,
        game: str | None = None,
        model: str | PathLike[str] | WorldModel | Entry | None = None,
        num_envs: int = 1,
        device: str = "auto",
        precision: Precision = "auto",
        compile: bool = False,
        quality: checks.Quality | None = None,
        autoreset_mode: Autoreset = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int = 50,
        starts: str | int = "any",
        denoising_trajectory: bool = False,
        replay: bool = False,
        obs_dtype: ObsDtype = "uint8",
        channels_first: bool = False,
        **sampler: Unpack[checks.SamplerFields],
    ) -> None:
        """Opens a model and sets up a batch of dreams.

        Args:
            game: A game's name: its newest model of the local registry, else the bundled one.
            model: A model's name or folder, instead; or a `WorldModel` in memory, used where and as precise as it is.
            num_envs: Rows of the batch, B.
            device: "auto" (CUDA, else MPS, else CPU) or a device of torch.
            precision: "float32", "bfloat16" or "auto": the faster one, measured once for a machine, in `precision`.
            compile: Compile the networks, for faster steps after a slow first one: on CPUs with AVX2 (in bfloat16 with
                AVX512-BF16) kernels of our own (seconds; needs g++, clang++ or CXX), else `torch.compile` (minutes).
            quality: "fast" (one denoising step), "paper" (three) or "fine" (Heun); of two stages "fast" or "quality";
                None for the model's own.
            autoreset_mode: "NextStep", "SameStep" or "Disabled", or Gymnasium's enum.
            render_mode: "rgb_array" (a frame per row), "rgb_array_tiled" (one image of all rows) or None.
            max_episode_steps: Steps after which a dream is truncated; -1 dreams on.
            starts: Dreams begin from "any" stored start, from those that are the "first" of a game, or from
                the one of that index.
            denoising_trajectory: Whether `info["denoising_trajectory"]` brings the images from noise to
                frame, uint8 (B, num_denoising_steps + 1, H, W, C).
            replay: Whether the actions that a start's player went on with take the place of those given to `step`,
                as long as they last; `info["replayed"]` tells them, as the model takes them.
            obs_dtype: "uint8", or "float32" for observations from 0 to 1, which are the same levels divided by 255.
            channels_first: Whether observations are (C, H, W); frames that are rendered, traced or given never are.
            **sampler: Single fields of `SamplerConfig`, such as `num_denoising_steps=2`; `upsampler={...}` for those
                of the second of two stages.

        Raises:
            DiamondGymError: The model or an argument cannot be used.
        """
        given = {k: v for k, v in locals().items() if k not in ("self", "sampler", "__class__")}
        self._arguments = {**given, **sampler}
        arguments.check_batch(num_envs, render_mode, self.metadata["render_modes"])
        self.horizon = arguments.horizon_of(max_episode_steps)
        self.num_envs, self.render_mode = int(num_envs), render_mode
        self.autoreset_mode = arguments.autoreset(autoreset_mode)
        self.metadata = {**copy.deepcopy(type(self).metadata), "autoreset_mode": self.autoreset_mode}
        self._trajectory = denoising_trajectory
        self._format = ObsFormat(obs_dtype, channels_first)
        self._spec: EnvSpec | None = None

        self._model: WorldModel | None
        self._model, self._entry = checks.open_model(game, model, device, precision, compile)
        self._loaded = versions(self._model)
        self._dream: Dream | None = self._model.dream(
            self.num_envs,
            sampler=checks.choose_sampler(self._model, quality, sampler),
            horizon=self.horizon,
            starts=starts,
        )
        self.single_observation_space = self._format.space(*self._model.obs_shape)
        self.single_action_space = action_space(self._model, self._dream.multi_hot)
        self._meanings = action_meanings(self._model, self.single_action_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._replay = Replay(self._model.starts, self._dream.device) if replay else None
        self.precision = self._model.precision  # what "auto" came to
        self._begun, self._ended = False, np.zeros(self.num_envs, dtype=np.bool_)

    @property
    def spec(self) -> EnvSpec | None:
        """How the environment was made; always plain data, so that it survives JSON."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec.kwargs = {key: checks.plain(value) for key, value in spec.kwargs.items()}
        self._spec = spec

    @property
    def world_model(self) -> WorldModel:
        """The model that dreams."""
        self._open()
        assert self._model is not None
        return self._model

    @property
    def dream(self) -> Dream:
        """The dream on the device that this environment shows."""
        return self._open()

    @property
    def ended(self) -> Array:
        """Which rows have ended and wait for their reset, bool (B,)."""
        return self._ended.copy()

    def _open(self) -> Dream:
        if self._dream is None:
            raise gym.error.ClosedEnvironmentError("this dream is closed: make a new one.")
        return self._dream

    def reset(
        self,
        *,
        seed: arguments.Seeds = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, Info]:
        """Begins the dreams anew.

        Args:
            seed: Row i gets seed + i, or its own of a sequence. Without one, the rows' streams go on.
            options: Any of

                - `reset_mask`: bool (B,), the rows to reset;
                - `obs` and `act`: real frames to dream on from, uint8 (T, H, W, C) for all of those rows or
                  (B, T, H, W, C), and the actions between them, integers (T - 1,) or (B, T - 1);
                - `start`: the index of a stored start, or one per row (B,).

        Returns:
            The current frames, uint8 (B, H, W, C), and the info.
        """
        settle_threads()  # here too, for an environment that was made before the fork
        dream, options = self._open(), arguments.check_options(options)
        mask = arguments.check_mask(options.get("reset_mask"), self.num_envs)
        given = check_beginning(options, self.action_space, dream.num_starts)
        seeds = arguments.check_seeds(seed, self.num_envs)
        if not self._begun and not mask.all():
            raise gym.error.ResetNeeded("the first reset has to be of all rows: leave out reset_mask.")
        before = None if self._begun or seeds is not None else self.np_random.bit_generator.state
        if before is not None:
            seeds = int(self.np_random.integers(2**62))
        dream.horizon = self.horizon
        try:
            dream.reset(seeds, mask=None if mask.all() else self._tensor(mask), **given)
        except Exception:
            if before is not None:
                self.np_random.bit_generator.state = before
            raise
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
        self._begun = True
        self._ended = self._ended & ~mask
        return self._format(self._frames()), start_info(mask, dream.start)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Info]:
        """Dreams a step in every row; what happens at an end is up to the autoreset mode.

        Args:
            actions: Integers (B,), multi-hot (B, A), or CS:GO's (B, 15).

        Returns:
            Frames uint8 (B, H, W, C), rewards float64 (B,), terminated and truncated bool (B,), and the info.
        """
        dream = self._open()
        if not self._begun:
            raise gym.error.ResetNeeded("the dream has not begun: call reset() before step().")
        act = self._tensor(check_actions(actions, self.action_space))
        mode, resting = self.autoreset_mode, self._ended
        if mode is AutoresetMode.DISABLED and resting.any():
            rows = np.flatnonzero(resting).tolist()
            raise gym.error.ResetNeeded(
                f"the dreams of rows {rows} have ended: reset them with options={{'reset_mask': mask}}."
            )
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=np.bool_)
        stepped, step, extras = ~resting, None, Extras()
        if stepped.any():
            mask = None if stepped.all() else self._tensor(stepped)
            replayed = None if self._replay is None else self._replay(act, dream.start, dream.steps)
            act = act if replayed is None else replayed[0]
            step = dream.step(act, restart=mode is AutoresetMode.SAME_STEP, mask=mask)
            extras = Extras(step.trajectory if self._trajectory else None, replayed)
            rewards = step.rew.cpu().numpy().astype(np.float64)
            terminated, truncated = (flag.cpu().numpy() for flag in (step.end, step.trunc))
        if resting.any():  # only in mode NEXT_STEP
            dream.reset(mask=self._tensor(resting))
        ended = terminated | truncated
        info: Info = {}
        if mode is AutoresetMode.SAME_STEP and ended.any() and step is not None:
            info = final_info(ended, step, extras, self._format)
            stepped = ~ended  # what was seen on the way belongs to the final info
            ended = np.zeros_like(ended)
        self._ended = ended
        info |= start_info(np.ones_like(ended), dream.start) | extras.info(stepped)
        return self._format(self._frames()), rewards, terminated, truncated, info

    def _frames(self) -> Array:
        return to_pixels(self._open().obs).cpu().numpy()

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._open().device)

    def render(self) -> Any:
        """What the dreams look like now.

        Returns:
            A tuple of B uint8 frames (H, W, C) in mode "rgb_array"; one image of all rows, tiled from left to
            right and top to bottom, in mode "rgb_array_tiled"; None without a render mode.
        """
        self._open()
        if self.render_mode is None:
            gym.logger.warn('render() shows nothing: make the environment with render_mode="rgb_array".')
            return None
        if not self._begun:
            raise gym.error.ResetNeeded("the dream has not begun: call reset() before render().")
        frames = self._frames()
        return tile(frames) if self.render_mode == "rgb_array_tiled" else tuple(map(np.copy, frames))

    def clone_state(self, include_rng: bool = False) -> EnvState:
        """Copies the state of all rows, with their random streams if asked; it can be pickled."""
        dream = self._open()
        if not self._begun:
            raise gym.error.ResetNeeded("the dream has not begun: call reset() before clone_state().")
        return EnvState(dream.clone_state(include_rng), self._ended.copy())

    def restore_state(self, state: EnvState) -> None:
        """Goes back to a cloned state of the same model and batch size.

        A state without random streams leaves the rows' own where they are: the branch meets other chances.

        Raises:
            ValueError: The state is of another model, batch size or frame size, or damaged; nothing has changed then.
        """
        if not isinstance(state, EnvState):
            raise ValueError(f"restore_state needs what clone_state returned, got {type(state).__name__}.")
        dream = self._open()
        dream.check_state(state.dream, self.world_model.num_actions)
        state.check_ended(self.num_envs)
        dream.restore_state(state.dream)
        dream.horizon = self.horizon
        self._begun, self._ended = True, state.ended.copy()

    def close_extras(self, **kwargs: Any) -> None:
        """Lets go of the model."""
        self._model = self._dream = None
        self._arguments = {}
