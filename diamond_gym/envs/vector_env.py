"""A batch of dreams as one Gymnasium vector environment: one model, not one for each row."""

import copy
import dataclasses
from os import PathLike
from typing import Any, Unpack

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from diamond_gym.device import settle_threads
from diamond_gym.dream import Dream
from diamond_gym.dream_state import DreamState
from diamond_gym.envs import checks
from diamond_gym.envs.arguments import Array, Autoreset, Info, ObsDtype, check_flags, masked
from diamond_gym.envs.batch_env import BatchEnv
from diamond_gym.errors import DiamondGymError
from diamond_gym.frames import tile, to_pixels
from diamond_gym.registry.loading import Precision
from diamond_gym.registry.models import Entry
from diamond_gym.schema import SamplerFields
from diamond_gym.starts import Replay
from diamond_gym.world_model import WorldModel


def versions(module: nn.Module) -> tuple[int, ...]:
    """A record of a module's weights that differs after they have been written to, replaced or moved."""
    tensors = (*module.parameters(), *module.buffers())
    return tuple(n for x in tensors for n in (x.data_ptr(), 0 if x.is_inference() else x._version))


@dataclasses.dataclass(frozen=True)
class EnvState:
    """A dream environment at one moment: the dream, and which rows have ended, bool (B,)."""

    dream: DreamState
    ended: Array


class DreamVectorEnv(BatchEnv, VectorEnv[Array, Array, Array]):
    """A batch of dreams, stepped by one batched world model.

    Observations are uint8 (B, H, W, C), unless `obs_dtype` or `channels_first` says otherwise, rewards -1, 0 or 1
    as float64; `terminated` is the model's end, `truncated` the horizon. Row i of a batch seeded with s dreams what a
    single `DreamEnv` seeded with s + i dreams. All autoreset modes work as in `gymnasium.vector.SyncVectorEnv`,
    with the same keys in `info`, besides `info["start"]`: the index of the start a row dreams from, -1 for frames
    given to `reset`.

    Besides `reset_mask`, `reset` takes the options `start`, the index of a stored start or one per row (B,); or `obs`
    and `act`, real frames to dream on from, uint8 (T, H, W, C) for all rows or (B, T, H, W, C), and the actions between
    them, integers (T - 1,) or (B, T - 1).

    A dream of a model from the registry is pickled with the model's card, and the model is found again by the weights
    and starts that the card names; a deep copy shares the same model in memory. A model that was passed from memory is
    pickled along with the dream.

    Example:
        >>> import gymnasium as gym, diamond_gym
        >>> envs = gym.make_vec("DiamondDream-Breakout-v0", num_envs=8)  # doctest: +SKIP
        >>> obs, info = envs.reset(seed=0)  # doctest: +SKIP
        >>> obs, reward, end, trunc, info = envs.step(envs.action_space.sample())  # doctest: +SKIP
    """

    noun = "dream"
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
        hallucination: bool = False,
        replay: bool = False,
        obs_dtype: ObsDtype = "uint8",
        channels_first: bool = False,
        **sampler: Unpack[SamplerFields],
    ) -> None:
        """Opens a model and sets up a batch of dreams.

        Args:
            game: A game's name; takes its newest model in the local registry, else the bundled one.
            model: A model's name or folder, instead; or a `WorldModel` in memory, with its device and precision.
            num_envs: Rows of the batch, B.
            device: "auto" (CUDA, else MPS, else CPU) or a device of torch.
            precision: "float32", "bfloat16" or "auto": the faster one, which on a CPU is measured once for each
                machine, model and batch; the attribute `precision` says which.
            compile: Compile the networks, for faster steps after a slow first one: on CPUs with AVX2 (in bfloat16 with
                AVX512-BF16) kernels of our own (seconds; needs g++, clang++ or CXX), else `torch.compile` (minutes).
            quality: "fast" (one denoising step), "paper" (three) or "fine" (Heun); for two stages "fast" or "quality";
                None for the model's own.
            autoreset_mode: "NextStep", "SameStep" or "Disabled", or Gymnasium's enum.
            render_mode: "rgb_array" (a frame per row), "rgb_array_tiled" (one image of all rows) or None.
            max_episode_steps: Steps after which a dream is truncated; -1 for no limit.
            starts: Where dreams begin: "any" stored start, "first" (only at beginnings of games), or the index of one
                start.
            denoising_trajectory: Whether `info["denoising_trajectory"]` holds the images from noise to
                frame, uint8 (B, num_denoising_steps + 1, H, W, C).
            hallucination: Whether `info["hallucination"]` holds the share of a frame's pixels, 0 to 1, whose colour
                none of the model's start frames shows within two pixels of that place: a sign that the dream has left
                the game. docs/models.md says how reliable it is.
            replay: Whether the actions that a start's player went on with take the place of those given to `step`,
                as long as they last; `info["replayed"]` holds them, as the model takes them.
            obs_dtype: "uint8", or "float32" for observations from 0 to 1, which are the same levels divided by 255.
            channels_first: Whether observations are (C, H, W); frames that are rendered, traced or given never are.
            **sampler: Single fields of `SamplerConfig`, such as `num_denoising_steps=2`; with two stages,
                `upsampler={...}` for those of the second.

        Raises:
            DiamondGymError: The model or an argument cannot be used.
        """
        given = {k: v for k, v in locals().items() if k not in ("self", "sampler", "__class__")}
        self._arguments = {**given, **sampler}
        check_flags(**{name: given[name] for name in ("compile", "denoising_trajectory", "hallucination", "replay")})
        self._set_up(num_envs, autoreset_mode, render_mode, max_episode_steps, obs_dtype, channels_first)
        self._spec: EnvSpec | None = None
        self._model: WorldModel | None
        self._model, self._entry = checks.open_model(game, model, device, precision, compile)
        if precision == "auto" and self._entry is not None:
            self._model.settle_precision(self.num_envs)
        self._loaded = versions(self._model)
        chosen = checks.choose_sampler(self._model, quality, sampler)
        dream = self._model.dream(self.num_envs, sampler=chosen, horizon=self.horizon, starts=starts)
        self._dream: Dream | None = dream
        self.precision = self._model.precision  # what "auto" came to
        self._meanings = self._model.action_meanings
        self._set_spaces(self._model.obs_shape, self._model.codec)
        self._replay = Replay(self._model.starts, dream.device) if replay else None
        self._traced = denoising_trajectory
        self._seen = checks.start_colours(self._model) if hallucination else None
        self._extras: dict[str, tuple[Array, Array]] = {}  # infos of the last step: values, and the rows that have them

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
        self._check_open()
        assert self._model is not None
        return self._model

    @property
    def dream(self) -> Dream:
        """The dream on the device that this environment shows."""
        self._check_open()
        assert self._dream is not None
        return self._dream

    def _take_horizon(self) -> None:
        if self._dream is not None:  # as it is once closed
            self._dream.horizon = self.horizon

    def _check_beginning(self, options: dict[str, Any]) -> dict[str, Tensor]:
        return checks.check_beginning(options, self._codec, self.num_envs, self.dream.num_starts)

    def _begin(self, seeds: int | list[int | None] | None, rows: Array, given: dict[str, Tensor]) -> None:
        settle_threads()  # here too, for an environment that was made before the fork
        self.dream.reset(seeds, mask=self._mask(rows), **given)

    def _restart(self, rows: Array) -> None:
        self.dream.reset(mask=self._mask(rows))

    def _play(self, act: Array, rows: Array) -> tuple[Array, Array, Array]:
        dream = self.dream
        chosen = torch.from_numpy(act).to(dream.device)
        self._extras = {}
        if self._replay is not None:
            chosen, replayed = self._replay(chosen, dream.start, dream.steps)
            self._extras["replayed"] = chosen.cpu().numpy(), replayed.cpu().numpy()
        step = dream.step(chosen, restart=False, mask=self._mask(rows))
        if self._traced:
            images = to_pixels(torch.stack(step.trajectory, dim=1)).cpu().numpy()
            self._extras["denoising_trajectory"] = images, rows
        rewards = step.rew.cpu().numpy().astype(np.float64)
        return rewards, step.end.cpu().numpy(), step.trunc.cpu().numpy()

    def _frames(self) -> Array:
        return to_pixels(self.dream.obs).cpu().numpy()

    def _info(self, rows: Array, stepped: Array) -> Info:
        info = masked("start", rows, self.dream.start.cpu().numpy())
        if self._seen is not None:
            shares = self._seen.artefacts(to_pixels(self.dream.obs).movedim(-1, 1))
            info |= masked("hallucination", rows, shares.cpu().numpy())
        for name, (values, which) in self._extras.items():
            info |= masked(name, stepped & which, values)
        return info

    def _mask(self, rows: Array) -> Tensor | None:
        return None if rows.all() else torch.from_numpy(rows).to(self.dream.device)

    def render(self) -> Any:
        """Renders the dreams' current frames.

        Returns:
            A tuple of B uint8 frames (H, W, C) in mode "rgb_array"; one image of all rows, tiled from left to
            right and top to bottom, in mode "rgb_array_tiled"; None without a render mode.
        """
        frames = super().render()
        return tile(np.stack(frames)) if self.render_mode == "rgb_array_tiled" else frames

    def clone_state(self, include_rng: bool = False) -> EnvState:
        """Copies the state of all rows, with their random streams if asked; it can be pickled."""
        self._check_begun("clone_state")
        return EnvState(self.dream.clone_state(include_rng), self._ended.copy())

    def restore_state(self, state: EnvState) -> None:
        """Goes back to a cloned state of the same model and batch size.

        A state without random streams leaves the rows' own where they are, so that the branch draws other numbers.

        Raises:
            ValueError: The state is of another model, batch size or frame size, or damaged; nothing has changed then.
        """
        if not isinstance(state, EnvState):
            raise ValueError(f"restore_state needs what clone_state returned, got {type(state).__name__}.")
        dream, ended = self.dream, state.ended
        dream.check_state(state.dream, self.world_model.num_actions)
        if not isinstance(ended, np.ndarray) or ended.dtype != np.bool_ or ended.shape != (self.num_envs,):
            raise ValueError(f"this state is damaged: which rows have ended must be bool ({self.num_envs},).")
        dream.restore_state(state.dream)
        self._begun, self._ended = True, ended.copy()

    def __getstate__(self) -> dict[str, Any]:
        model, arguments = self.world_model, dict(self._arguments)
        if self._entry is not None:
            if versions(model) != self._loaded:
                raise DiamondGymError(
                    "this dream's networks were changed after they had been loaded, so it cannot be pickled: save "
                    "them as a model, and make the dream from that"
                )
            arguments |= {"game": None, "model": self._entry, "precision": model.precision}
        return self._pickled(arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> "DreamVectorEnv":
        model, arguments = self.world_model, dict(self._arguments)
        twin = object.__new__(type(self))
        if self._entry is not None:
            memo[id(model)] = model
            arguments |= {"game": None, "model": model, "compile": False}
        twin.__setstate__(copy.deepcopy(self._pickled(arguments), memo))
        if self._entry is not None:
            twin._arguments, twin._entry, twin._loaded = dict(self._arguments), self._entry, self._loaded
        return twin

    def _take_over(self, state: EnvState) -> None:
        """Restores the state of a pickled environment, whose model was pickled with it or is the very same.

        A model in memory that was never registered has another fingerprint in each process: none is compared.
        """
        dream = dataclasses.replace(state.dream, fingerprint=self.dream.fingerprint)
        self.restore_state(dataclasses.replace(state, dream=dream))

    def close_extras(self, **kwargs: Any) -> None:
        """Releases the model."""
        self._model = self._dream = None
        self._arguments = {}
