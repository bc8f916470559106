"""A batch of real games as one Gymnasium vector environment."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from diamond_gym.envs import arguments
from diamond_gym.envs.atari_game import FRAME_SKIP, SIZE, AtariGame, RealState, check_noops
from diamond_gym.envs.batch_env import Autoreset, ObsDtype, ObsFormat, Rows
from diamond_gym.registry.games import game as find_game

INFO = ("lives", "episode_frame_number", "frame_number")

Array = npt.NDArray[Any]
Info = dict[str, Any]


class RealVectorEnv(Rows, VectorEnv[Array, Array, Array]):
    """A batch of real Atari games, with the spaces of their dreams.

    As `RealEnv`, with every autoreset mode of `gymnasium.vector.SyncVectorEnv` and its keys in `info`. Row i seeded
    with s + i plays what a `RealEnv` seeded with s + i plays. The games play one after the other, as ALE holds
    Python's lock; `gym.make_vec(id, num_envs, vectorization_mode="async")` gives each a process of its own.

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
        size: Side of the frames, for models that see others than the paper's.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's own type; every instance has its own copy)
        "render_modes": ["rgb_array"],
        "render_fps": 60 // FRAME_SKIP,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

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
        size: int = SIZE,
    ) -> None:
        self._arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        arguments.check_batch(num_envs, render_mode, self.metadata["render_modes"])
        check_noops(noop_max)
        horizon = arguments.horizon_of(-1 if max_episode_steps is None else max_episode_steps)
        self._limit = np.inf if horizon is None else horizon
        self.autoreset_mode = arguments.autoreset(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self._format = ObsFormat(obs_dtype, channels_first)
        self.num_envs, self.render_mode = int(num_envs), render_mode
        self._game, self._life_ends = game, bool(terminal_on_life_loss)
        self._games: list[AtariGame] | None = [
            AtariGame(game, noop_max, self._life_ends, size) for _ in range(self.num_envs)
        ]
        self._meanings = find_game(game).action_meanings
        self.single_observation_space = self._format.space(size, size, 3)
        self.single_action_space = gym.spaces.Discrete(len(self._meanings))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def games(self) -> list[AtariGame]:
        """The games of the rows."""
        if self._games is None:
            raise gym.error.ClosedEnvironmentError("this game is closed: make a new one.")
        return self._games

    @property
    def ended(self) -> Array:
        """Which rows have ended and wait for their reset, bool (B,)."""
        return np.array([bool(game.over) or game.steps >= self._limit for game in self.games])

    @property
    def _begun(self) -> bool:
        return self.games[0].over is not None

    def reset(self, *, seed: arguments.Seeds = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """Begins new games, row i with seed + i or its own, in the rows of `options["reset_mask"]` or all."""
        games = self.games
        mask = arguments.check_mask(arguments.check_options(options).get("reset_mask"), self.num_envs)
        seeds = arguments.check_seeds(seed, self.num_envs)
        if not self._begun and not mask.all():
            raise gym.error.ResetNeeded("the first reset has to be of all rows: call it without reset_mask.")
        if isinstance(seeds, int):
            super().reset(seed=seeds)
        elif seeds is None and not self._begun:
            seeds = int(self.np_random.integers(2**62))
        rows = [seeds + i for i in range(self.num_envs)] if isinstance(seeds, int) else seeds or []
        for game, own, reset in zip(games, rows, mask, strict=False):
            if own is not None and reset:
                game.seed(own)
        self._restart(mask)
        return self._frames(), self._info(mask)

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, Info]:
        """Plays four frames in every game; what happens at an end is up to the autoreset mode."""
        games = self.games
        if not self._begun:
            raise gym.error.ResetNeeded("the game has not begun: call reset() before step().")
        act, mode, resting = np.asarray(actions), self.autoreset_mode, self.ended
        if act.dtype.kind not in "iu" or not self.action_space.contains(act.astype(np.int64)):
            raise gym.error.InvalidAction(f"actions must be of {self.action_space}, got {actions!r}.")
        if mode is AutoresetMode.DISABLED and resting.any():
            rows = np.flatnonzero(resting).tolist()
            raise gym.error.ResetNeeded(f"the games of rows {rows} have ended: reset them with a reset_mask.")
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        for row in np.flatnonzero(~resting):
            rewards[row], terminated[row], truncated[row] = games[row].step(int(act[row]))
        self._restart(resting)  # none but in mode NEXT_STEP
        truncated |= self.ended & ~terminated
        ended, infos = terminated | truncated, Info()
        if mode is AutoresetMode.SAME_STEP and ended.any():
            infos = self._final(ended)
            self._restart(ended)
        return self._frames(), rewards, terminated, truncated, infos | self._info(np.ones(self.num_envs, np.bool_))

    def render(self) -> Any:
        """The frames, a tuple of B uint8 frames (64, 64, 3); None without a render mode."""
        games = self.games
        if self.render_mode is None:
            gym.logger.warn('render() shows nothing: make the environment with render_mode="rgb_array".')
            return None
        if not self._begun:
            raise gym.error.ResetNeeded("the game has not begun: call reset() before render().")
        return tuple(game.obs() for game in games)

    def clone_state(self, include_rng: bool = False) -> RealState:
        """The state of all games, with the random streams of their no-ops if asked; it can be pickled."""
        games = self.games
        if not self._begun:
            raise gym.error.ResetNeeded("the game has not begun: call reset() before clone_state().")
        rows = tuple(game.clone_state(include_rng) for game in games)
        return RealState(self._game, self._life_ends, rows)

    def restore_state(self, state: RealState) -> None:
        """Goes back to a cloned state of the same game and batch size, by playing its actions again.

        A state without random streams leaves the rows' own where they are.

        Raises:
            ValueError: The state is of another game or batch size, or damaged; nothing has changed then.
        """
        games = self.games
        if not isinstance(state, RealState) or not isinstance(state.rows, tuple):
            raise ValueError(f"restore_state needs what clone_state returned, got {type(state).__name__}.")
        theirs, ours = (state.game, state.life_ends, len(state.rows)), (self._game, self._life_ends, self.num_envs)
        if theirs != ours:
            raise ValueError(
                f"this state is of other games: their name, whether a life's loss ends them, and their number are "
                f"{theirs}, here they are {ours}."
            )
        for game, row in zip(games, state.rows, strict=True):
            game.check_state(row)
        before, begun = [game.clone_state(include_rng=True) for game in games], self._begun
        try:
            for game, row in zip(games, state.rows, strict=True):
                game.restore_state(row)
        except ValueError:
            for game, row in zip(games, before, strict=True):
                game.restore_state(row)
                game.over = game.over if begun else None
            raise

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the games."""
        self._games = None

    def __getstate__(self) -> dict[str, Any]:
        state = self.clone_state(include_rng=True) if self._begun else None
        random = (self._np_random, self._np_random_seed)
        return {"arguments": self._arguments, "state": state, "spec": self.spec, "random": random}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__init__(**pickled["arguments"])  # type: ignore[misc]
        self.spec, (self._np_random, self._np_random_seed) = pickled["spec"], pickled["random"]
        if pickled["state"] is not None:
            self.restore_state(pickled["state"])

    def _restart(self, mask: Array) -> None:
        for row in np.flatnonzero(mask):
            self.games[row].reset()

    def _final(self, ended: Array) -> Info:
        """What the rows that have ended ended with."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final_obs[row] = self._format(self.games[row].obs())
        infos = {"final_obs": final_obs, "final_info": self._info(ended)}
        return infos | {"_final_obs": ended.copy(), "_final_info": ended.copy()}

    def _frames(self) -> Array:
        return self._format(np.stack([game.obs() for game in self.games]))

    def _info(self, rows: Array) -> Info:
        """Gymnasium's infos of a batch: each value of the rows in the mask, 0 elsewhere, and the mask."""
        infos = [game.info() for game in self.games]
        values = {name: np.where(rows, [info[name] for info in infos], 0).astype(np.int64) for name in INFO}
        return values | {f"_{name}": rows.copy() for name in INFO}
