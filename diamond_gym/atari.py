"""The real games, with exactly the dream's spaces: ALE behind the preprocessing of Atari 100k.

Frame skip 4, maximum of the last two frames, up to 30 no-ops at reset, RGB by area interpolation to 64×64, no
sticky actions, the game's minimal set of actions (Alonso et al. 2024). Gymnasium's `AtariPreprocessing` and
ALE's native batch both do that, to the pixel; they only draw their no-ops differently.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from diamond_gym.batch_env import Autoreset, ObsDtype, ObsFormat, Rows
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry.games import game as find_game
from diamond_gym.registry.games import keys_to_action

SIZE, FRAME_SKIP = 64, 4
MAX_FRAMES = 108_000  # half an hour of play, after which ALE truncates
_INFO = ("lives", "episode_frame_number", "frame_number")
_MISSING = "the real games need ale_py and opencv: pip install 'diamond-gym[atari]'"
_NO_RENDER = 'render() shows nothing: make the environment with render_mode="rgb_array".'

Array = npt.NDArray[Any]
Info = dict[str, Any]


class RealEnv(gym.Env[Array, Any]):
    """A real Atari game with the spaces of its dream.

    Observations are uint8 (64, 64, 3), actions the game's minimal set, rewards the game's own (a dream's are
    their signs). `info` tells `lives`, `episode_frame_number` and `frame_number`, in the game's frames.
    Rendering gives the game's own screen, uint8 (210, 160, 3) for most games.

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

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 60 // FRAME_SKIP}  # noqa: RUF012

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
        ale_id = find_game(game).ale_id
        _check(render_mode, noop_max)
        try:
            import ale_py
            import cv2  # noqa: F401  (AtariPreprocessing needs it)
            from gymnasium.wrappers import AtariPreprocessing
        except ModuleNotFoundError as error:
            raise DiamondGymError(_MISSING) from error
        self._game = AtariPreprocessing(
            ale_py.AtariEnv(
                ale_id,
                frameskip=1,
                repeat_action_probability=0.0,
                full_action_space=False,
                max_num_frames_per_episode=MAX_FRAMES,
                render_mode=render_mode,
            ),
            noop_max=noop_max,
            frame_skip=FRAME_SKIP,
            screen_size=SIZE,
            terminal_on_life_loss=terminal_on_life_loss,
            grayscale_obs=False,
        )
        self.render_mode = render_mode
        self._format = ObsFormat(obs_dtype, channels_first)
        self.observation_space = self._format.space(SIZE, SIZE, 3)
        self._meanings = find_game(game).action_meanings
        self.action_space = gym.spaces.Discrete(len(self._meanings))
        self._over: bool | None = None  # not begun

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """Begins a new game; `seed` fixes the no-ops of this and all later ones."""
        super().reset(seed=seed)
        obs, info = self._game.reset(seed=seed)
        self._over = False
        return self._format(obs), {name: int(info[name]) for name in _INFO}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, Info]:
        """Plays four of the game's frames."""
        if self._over is not False:
            why = "has not begun" if self._over is None else "has ended"
            raise gym.error.ResetNeeded(f"the game {why}: call reset() before step().")
        if not self.action_space.contains(np.asarray(action)[()]):
            raise gym.error.InvalidAction(f"an action is an integer of {self.action_space}, got {action!r}.")
        obs, reward, terminated, truncated, info = self._game.step(int(action))
        self._over = terminated or truncated
        return self._format(obs), float(reward), terminated, truncated, {name: int(info[name]) for name in _INFO}

    @property
    def ale(self) -> Any:
        """ALE's own interface to the game, an `ale_py.ALEInterface`: what Atari wrappers ask for `lives()`."""
        return self._game.unwrapped.ale  # type: ignore[attr-defined]

    def get_action_meanings(self) -> list[str]:
        """ALE's word for each action, such as "NOOP" or "RIGHTFIRE"."""
        return list(self._meanings)

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """The keys of `gymnasium.utils.play`: w a s d to move, the space bar to fire."""
        return keys_to_action(self._meanings)

    def render(self) -> Any:
        """The game's screen, uint8 (height, width, 3); None without a render mode."""
        if self.render_mode is None:
            gym.logger.warn(_NO_RENDER)
            return None
        return self._game.render()

    def close(self) -> None:
        """Ends the game."""
        self._game.close()


class RealVectorEnv(Rows, VectorEnv[Array, Array, Array]):
    """A batch of real Atari games in ALE's native vector environment, with the spaces of their dreams.

    As `RealEnv`, with every autoreset mode of `gymnasium.vector.SyncVectorEnv` and its keys in `info`. The
    no-ops at reset come from ALE's own random streams: the same seed begins other games than in `RealEnv`.

    Example:
        >>> import gymnasium as gym, diamond_gym
        >>> envs = gym.make_vec("DiamondReal-Breakout-v0", num_envs=8)  # doctest: +SKIP
        >>> obs, info = envs.reset(seed=0)  # doctest: +SKIP
        >>> step = envs.step(envs.action_space.sample())  # doctest: +SKIP

    Args:
        game: As in `RealEnv`, like `terminal_on_life_loss` and `noop_max`.
        num_envs: How many, B.
        autoreset_mode: "NextStep", "SameStep" or "Disabled", or Gymnasium's enum.
        render_mode: None, or "rgb_array" for a tuple of B frames.
        max_episode_steps: Steps after which a game is truncated, -1 or None for no limit but ALE's own.
        obs_dtype: As in `RealEnv`, like `channels_first`.
    """

    metadata: dict[str, Any] = {**RealEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        *,
        game: str,
        num_envs: int = 1,
        autoreset_mode: Autoreset = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        terminal_on_life_loss: bool = False,
        noop_max: int = 30,
        obs_dtype: ObsDtype = "uint8",
        channels_first: bool = False,
    ) -> None:
        limit = -1 if max_episode_steps is None else max_episode_steps
        _check(render_mode, noop_max, num_envs, limit)
        self._limit = np.inf if limit == -1 else limit
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.num_envs, self.render_mode = num_envs, render_mode
        self._games = ale_vector(game, num_envs, noop_max=noop_max, episodic_life=terminal_on_life_loss)
        self._format = ObsFormat(obs_dtype, channels_first)
        self.single_observation_space = self._format.space(SIZE, SIZE, 3)
        self._meanings = find_game(game).action_meanings
        self.single_action_space = gym.spaces.Discrete(len(self._meanings))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._obs: Array | None = None  # none before the first reset
        self._steps = np.zeros(num_envs, np.int64)
        self._over, self._cut_short = np.zeros((2, num_envs), np.bool_)  # the latter by our limit, unknown to ALE

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Info]:
        """Begins new games, row i with seed + i or its own, in the rows of `options["reset_mask"]` or all."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_)))
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask'] must be bool ({self.num_envs},) with a row to reset.")
        if self._obs is None and not mask.all():
            raise gym.error.ResetNeeded("the first reset has to be of all rows: call it without reset_mask.")
        if seed is None or isinstance(seed, int | np.integer):
            super().reset(seed=None if seed is None else int(seed))
            if seed is None and self._obs is None:
                seed = int(self.np_random.integers(2**31 - self.num_envs))
            seed = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{self.num_envs} rows need {self.num_envs} seeds, got {len(seed)}.")
        # ALE's seeds are 32-bit integers; -1 lets a row's random stream go on.
        seeds = np.array([-1 if s is None else s % 2**31 for s in seed])
        info = self._restart(mask, seeds[mask])
        return self._frames(), _with_masks(info, mask)

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, Info]:
        """Plays four frames in every game; what happens at an end is up to the autoreset mode."""
        if self._obs is None:
            raise gym.error.ResetNeeded("the games have not begun: call reset() before step().")
        act, mode, resting = np.asarray(actions), self.autoreset_mode, self._over
        if act.dtype.kind not in "iu" or not self.action_space.contains(act.astype(np.int64)):
            raise gym.error.InvalidAction(f"actions must be of {self.action_space}, got {actions!r}.")
        if mode is AutoresetMode.DISABLED and resting.any():
            rows = np.flatnonzero(resting).tolist()
            raise gym.error.ResetNeeded(f"the games of rows {rows} have ended: reset them with a reset_mask.")
        obs, rewards, terminated, truncated, info = self._games.step(act.astype(np.int64))
        self._obs, rewards = obs[:, 0], rewards.astype(np.float64)
        self._steps = np.where(resting, 0, self._steps + 1)
        if self._cut_short.any():  # only in mode NEXT_STEP, in which ALE restarts the other resting rows
            info = self._restart(self._cut_short)
        rewards[resting], terminated[resting], truncated[resting] = 0, False, False
        late = self._steps >= self._limit
        self._cut_short, truncated = late & ~terminated & ~truncated, truncated | late
        over, infos = terminated | truncated, Info()
        if mode is AutoresetMode.SAME_STEP and over.any():
            infos = self._final(over, info)
            info = self._restart(over)
            over = np.zeros_like(over)
        self._over = over
        return self._frames(), rewards, terminated, truncated, infos | _with_masks(info, np.ones_like(over))

    def render(self) -> Any:
        """The frames, a tuple of B uint8 frames (64, 64, 3); None without a render mode."""
        if self.render_mode is None:
            gym.logger.warn(_NO_RENDER)
            return None
        if self._obs is None:
            raise gym.error.ResetNeeded("the games have not begun: call reset() before render().")
        return tuple(self._obs.copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the games."""
        self._games = self._obs = None

    def _restart(self, mask: Array, seeds: Array | None = None) -> Info:
        """Begins new games in some rows; the info is of all rows."""
        obs, info = self._games.reset(seed=seeds, options={"reset_mask": mask})  # None: their streams go on
        self._obs = obs[:, 0]
        self._steps = np.where(mask, 0, self._steps)
        self._over, self._cut_short = self._over & ~mask, self._cut_short & ~mask
        return dict(info)

    def _final(self, over: Array, info: Info) -> Info:
        """What the rows that are over ended with."""
        final_obs, frames = np.full(self.num_envs, None, dtype=object), self._frames()
        for row in np.flatnonzero(over):
            final_obs[row] = frames[row]
        infos = {"final_obs": final_obs, "final_info": _with_masks(info, over)}
        return infos | {"_final_obs": over.copy(), "_final_info": over.copy()}

    def _frames(self) -> Array:
        assert self._obs is not None
        return self._format(self._obs)


def ale_vector(
    game: str, num_envs: int, *, noop_max: int = 30, size: tuple[int, int] = (SIZE, SIZE), **keywords: Any
) -> Any:
    """ALE's native batch with the preprocessing of this module; frames are uint8 (num_envs, 1, 64, 64, 3).

    `keywords` are more of `ale_py.vector_env.AtariVectorEnv`'s own.

    Raises:
        BadArgument: There are more no-ops than a game has frames.
    """
    if noop_max > MAX_FRAMES:
        raise BadArgument(f"noop_max must be at most {MAX_FRAMES}, got {noop_max}.")
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ModuleNotFoundError as error:
        raise DiamondGymError(_MISSING) from error
    return AtariVectorEnv(
        find_game(game).ale_id,
        num_envs,
        img_height=size[0],
        img_width=size[1],
        grayscale=False,
        stack_num=1,
        frameskip=FRAME_SKIP,
        maxpool=True,
        noop_max=noop_max,
        max_num_frames_per_episode=MAX_FRAMES,
        repeat_action_probability=0.0,
        full_action_space=False,
        reward_clipping=False,
        use_fire_reset=False,
        **keywords,
    )


def _check(render_mode: str | None, noop_max: int, num_envs: int = 1, limit: int = -1) -> None:
    if render_mode not in (None, "rgb_array"):
        raise BadArgument(f'render_mode must be None or "rgb_array", got {render_mode!r}.')
    for name, value, least in (("noop_max", noop_max, 0), ("num_envs", num_envs, 1)):
        if value < least:
            raise BadArgument(f"{name} must be at least {least}, got {value}.")
    if limit < 1 and limit != -1:
        raise BadArgument(f"max_episode_steps must be at least 1, or -1 for no limit, got {limit}.")


def _mode(word: str | AutoresetMode) -> AutoresetMode:
    for mode in AutoresetMode:
        if mode is word or str(word).lower().replace("_", "") == mode.value.lower():
            return mode
    words = ", ".join(f'"{mode.value}"' for mode in AutoresetMode)
    raise BadArgument(f"autoreset_mode must be one of {words}, got {word!r}.")


def _with_masks(info: Info, rows: Array) -> Info:
    """Gymnasium's infos of a batch: each value of the rows in the mask, 0 elsewhere, and the mask."""
    values = {name: np.where(rows, info[name], 0).astype(np.int64) for name in _INFO}
    return values | {f"_{name}": rows.copy() for name in _INFO}
