"""The real games, with exactly the dream's spaces: ALE behind the preprocessing of Atari 100k.

Frame skip 4, maximum of the last two frames, up to 30 no-ops at reset, RGB by area interpolation to 64×64, no
sticky actions, the game's minimal set of actions (Alonso et al. 2024), as in Gymnasium's `AtariPreprocessing`.
"""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from diamond_gym.actions import Discrete
from diamond_gym.envs.arguments import Array, Autoreset, Info, ObsDtype, check_flags, masked
from diamond_gym.envs.atari_game import FRAME_SKIP, SIZE, AtariGame, RealState
from diamond_gym.envs.batch_env import BatchEnv
from diamond_gym.envs.single_env import SingleEnv
from diamond_gym.registry.games import game as find_game
from diamond_gym.registry.games import keys_to_action


class RealVectorEnv(BatchEnv, VectorEnv[Array, Array, Array]):
    """A batch of real Atari games, with the spaces of their dreams.

    It is like `RealEnv`, with every autoreset mode of `gymnasium.vector.SyncVectorEnv` and its keys in `info`. Row i
    seeded with s + i plays what a `RealEnv` seeded with s + i plays. The games play one after the other, as ALE holds
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
        size: Side of the frames, for models that see frames of another size than the paper's.
    """

    noun = "game"
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
        check_flags(terminal_on_life_loss=terminal_on_life_loss)
        horizon = -1 if max_episode_steps is None else max_episode_steps
        self._set_up(num_envs, autoreset_mode, render_mode, horizon, obs_dtype, channels_first)
        self._game, self._life_ends = game, bool(terminal_on_life_loss)
        self._games: list[AtariGame] | None = [
            AtariGame(game, noop_max, self._life_ends, size) for _ in range(self.num_envs)
        ]
        self._meanings = find_game(game).action_meanings
        self._set_spaces((size, size, 3), Discrete(len(self._meanings)))

    @property
    def games(self) -> list[AtariGame]:
        """The games of the rows."""
        self._check_open()
        assert self._games is not None
        return self._games

    def _begin(self, seeds: int | list[int | None] | None, rows: Array, given: dict[str, Any]) -> None:
        each = [seeds + i for i in range(self.num_envs)] if isinstance(seeds, int) else seeds or []
        for game, seed, begins in zip(self.games, each, rows, strict=False):
            if seed is not None and begins:
                game.seed(seed)
        self._restart(rows)

    def _restart(self, rows: Array) -> None:
        for row in np.flatnonzero(rows):
            self.games[row].reset()

    def _play(self, act: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Plays four frames in the games of a mask."""
        rewards, (terminated, truncated) = np.zeros(self.num_envs), np.zeros((2, self.num_envs), np.bool_)
        for row in np.flatnonzero(rows):
            rewards[row], terminated[row], truncated[row] = self.games[row].step(int(act[row]))
        return rewards, terminated, truncated | (rows & self._at_horizon() & ~terminated)

    def _at_horizon(self) -> Array:
        return np.array([self.horizon is not None and game.steps >= self.horizon for game in self.games])

    def _frames(self) -> Array:
        return np.stack([game.obs() for game in self.games])

    def _info(self, rows: Array, stepped: Array) -> Info:
        infos = [game.info() for game in self.games]
        each = (masked(name, rows, np.array([info[name] for info in infos], np.int64)) for name in infos[0])
        return {name: value for info in each for name, value in info.items()}

    def clone_state(self, include_rng: bool = False) -> RealState:
        """The state of all games, with the random streams of their no-ops if asked; it can be pickled."""
        self._check_begun("clone_state")
        rows = tuple(game.clone_state(include_rng) for game in self.games)
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
        before = [game.clone_state(include_rng=True) for game in games]
        try:
            for game, row in zip(games, state.rows, strict=True):
                game.restore_state(row)
        except ValueError:
            for game, row in zip(games, before, strict=True):
                game.restore_state(row)
            raise
        self._begun, self._ended = True, np.array([game.over for game in games]) | self._at_horizon()

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the games."""
        self._games = None


class RealEnv(SingleEnv):
    """A real Atari game with the spaces of its dream: the batch with one row.

    Observations are uint8 (64, 64, 3), actions the game's minimal set, rewards the game's own (a dream's are
    their signs). `info` holds `lives`, `episode_frame_number` and `frame_number`, in the game's frames.
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
        noop_max: Maximum number of no-ops before an episode begins, in the game's frames.
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
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self._set_batch(RealVectorEnv(autoreset_mode=AutoresetMode.DISABLED, **given))

    @property
    def ale(self) -> Any:
        """ALE's own interface to the game, an `ale_py.ALEInterface`: what Atari wrappers ask for `lives()`.

        It is read-only: what is done to the game through it (`act`, `reset_game`, `restoreState`) is not part of the
        environment's state, so that copies and cloned states made later are wrong.
        """
        return self._batch.games[0].ale

    def render(self) -> Any:
        """The game's screen, uint8 (height, width, 3); None without a render mode."""
        return None if self._batch.render() is None else self._batch.games[0].screen()

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """The keys of `gymnasium.utils.play`: w a s d to move, the space bar to fire."""
        return keys_to_action(self.get_action_meanings())
