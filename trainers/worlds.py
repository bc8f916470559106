"""What a world model learns: an Atari game, a Gymnasium environment of the user's, or recordings alone."""

import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import AddRenderObservation, ResizeObservation

from diamond_gym.data.about import ABOUT, About, read_about
from diamond_gym.envs.atari_game import SIZE
from diamond_gym.errors import BadArgument
from diamond_gym.registry.card import check_name
from diamond_gym.registry.games import game as find_game
from diamond_gym.registry.games import games as known_games

_Frames = npt.NDArray[np.uint8]
_Rows = npt.NDArray[np.bool_]
Step = tuple[_Frames, npt.NDArray[np.float32], _Rows, _Rows, _Rows]


@dataclass(frozen=True)
class World:
    """A world by its frames and actions, and how to play it. Its rewards are learned by their signs.

    Attributes:
        about: What a store of its experience holds: its name, frames and actions.
        env: The id of its environment, a game's name for one of the 26 games, "" where there are recordings alone.
        render_obs: Whether the environment's rendered picture takes the observation's place.
    """

    about: About
    env: str = ""
    render_obs: bool = False

    @property
    def name(self) -> str:
        """What it is called: `DiamondDream-<name>-v0` dreams it."""
        return self.about.game

    @property
    def is_atari(self) -> bool:
        """Whether it is one of the 26 games, of which scores of people are known."""
        return self.env in known_games()

    @property
    def origin(self) -> str:
        """Where its experience comes from, for the card."""
        if self.is_atari:
            return "the Arcade Learning Environment, as the paper preprocesses it"
        return f"the Gymnasium environment {self.env}" if self.env else "recordings"

    def envs(
        self, num_envs: int, mode: AutoresetMode = AutoresetMode.DISABLED, noop_max: int = 30
    ) -> VectorEnv[Any, Any, Any]:
        """Makes so many environments, side by side.

        Args:
            num_envs: How many.
            mode: Their autoreset mode.
            noop_max: At most so many no-ops before an Atari game begins.
        """
        size = self.about.frame_shape[:2]
        if self.is_atari:
            from diamond_gym.envs.atari import RealVectorEnv

            return RealVectorEnv(game=self.env, num_envs=num_envs, autoreset_mode=mode, noop_max=noop_max, size=size[0])
        if not self.env:
            raise BadArgument(f"{self.name} cannot be played here: there are recordings of it alone")
        makers = [lambda: make_env(self.env, size, self.render_obs)] * num_envs
        return SyncVectorEnv(makers, autoreset_mode=mode)


def find_world(
    game: str | None = None,
    env: str | None = None,
    data: Path | None = None,
    size: int | None = None,
    render_obs: bool = False,
) -> World:
    """The world that a game's name, an environment's id or a store of experience means.

    Args:
        game: One of the 26 games.
        env: A registered id, of uint8 images and discrete actions; `module:id` imports the module first.
        data: A store; what it holds has to be of the game or environment, if one is given.
        size: Side of an environment's frames (default: their own if they are square and at most 64, else 64).
        render_obs: Whether the environment's rendered picture takes the observation's place.

    Raises:
        BadArgument: There is no such game or environment, or not exactly one is given.
        DiamondGymError: There is no such store, or it is damaged.
    """
    if game is not None and env is not None:
        raise BadArgument("--game and --env exclude each other")
    if env is None and (render_obs or size is not None):
        raise BadArgument("--render-obs and --size are for --env; the games are seen as in the paper")
    if game is not None:
        world = World(about_game(game), game)
    elif env is not None:
        about = about_env(env, None, render_obs)
        h, w, _ = about.frame_shape
        side = size or (h if h == w and h <= SIZE else SIZE)
        world = World(about if (h, w) == (side, side) else about_env(env, (side, side), render_obs), env, render_obs)
    elif data is not None:
        about = read_about(data)
        playable = about.game in known_games() and about.frame_shape == (SIZE, SIZE, 3) and can_play_atari()
        return World(about, about.game if playable else "")
    else:
        raise BadArgument("say which world: --game Breakout, --env CartPole-v1 --render-obs, or --data NAME")
    if data is not None and (data / ABOUT).exists():
        read_about(data).check_same(world.about, data)
    return world


def check_learnable(about: About) -> None:
    """Raises BadArgument where the networks cannot take what a store holds."""
    h, w, _ = about.frame_shape
    if h != w:
        raise BadArgument(f"the networks see square frames, and those of {about.game} have {h}x{w} pixels")
    if about.num_actions < 1:
        kind = f"{about.action_dtype} {about.action_shape}"
        raise BadArgument(f"only numbered actions can be learned yet, and those of {about.game} are {kind}")
    check_name(about.game, "a world's name")


def can_play_atari() -> bool:
    """Whether the emulator is installed."""
    return all(find_spec(module) for module in ("ale_py", "cv2"))


def about_game(game: str, size: tuple[int, int] = (SIZE, SIZE)) -> About:
    """What a store of a real game's experience holds, with frames of the paper's size or of another."""
    row = find_game(game)
    return About(row.name, (*size, 3), row.num_actions, row.action_meanings, versions=_versions("ale-py"))


def about_env(env: str, size: tuple[int, int] | None = None, render_obs: bool = False) -> About:
    """What a store of an environment's experience holds; arguments and errors as `make_env`'s."""
    made = make_env(env, size, render_obs)
    h, w, c = made.observation_space.shape or ()
    num_actions = int(made.action_space.n)  # type: ignore[attr-defined]
    meanings: tuple[str, ...] = tuple(getattr(made.unwrapped, "get_action_meanings", tuple)())
    made.close()
    return About(game_name(env), (h, w, c), num_actions, meanings, versions=_versions())


def game_name(env: str) -> str:
    """What a world is called after its id: `"Catch"` for `"DiamondGym/Catch-v0"`."""
    name, _, number = env.rpartition("/")[2].rpartition(":")[2].rpartition("-v")
    return name if name and number.isdigit() else env.rpartition("/")[2]


def make_env(env: str, size: tuple[int, int] | None = None, render_obs: bool = False) -> gym.Env[Any, Any]:
    """Makes an environment that shows uint8 frames (H, W, C) and takes discrete actions.

    Args:
        env: A registered id; `module:id` imports the module first, from the working folder if nowhere else.
        size: (H, W) to which frames are resized by area, None for their own.
        render_obs: Whether the rendered picture takes the observation's place.

    Raises:
        BadArgument: There is no such id, or it has other observations or actions.
    """
    if ":" in env and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # where `python -m` looks, and the command `diamond-gym` does not
    try:
        made = gym.make(env, render_mode="rgb_array") if render_obs else gym.make(env)
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        raise BadArgument(f"{env} cannot be made: {error}") from None
    if render_obs:
        made = AddRenderObservation(made, render_only=True)
    space, actions = made.observation_space, made.action_space
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        made.close()
        hint = "" if render_obs else "; --render-obs takes its rendered picture instead"
        raise BadArgument(f"{env} shows {space}, not uint8 images of height, width and channels{hint}")
    if not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        made.close()
        raise BadArgument(f"{env} takes {actions}, not discrete actions counted from 0")
    return made if size is None or space.shape[:2] == size else ResizeObservation(made, size)


def _versions(*more: str) -> dict[str, str]:
    """The versions of the libraries that experience depends on, as far as they are installed."""
    versions = {}
    for name in (*more, "gymnasium", "diamond-gym"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            continue
    return versions


class Games:
    """The rows of a vector environment as games, each of which begins anew, from a seed of its own, where it ends.

    Their state is the seed of each game and its actions since then. Going back to it plays them again, which is exact
    where the environment does the same from the same seed.

    Args:
        envs: B environments of uint8 frames (H, W, C) and discrete actions, in autoreset mode DISABLED.
        life_loss_ends: Whether the loss of a life (`info["lives"]`) ends an episode, though the game goes on.

    Attributes:
        num_envs: How many there are, B.
        obs: The frames to act on, uint8 (B, H, W, C).
    """

    obs: _Frames

    def __init__(self, envs: VectorEnv[Any, Any, Any], life_loss_ends: bool = True) -> None:
        if envs.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
            raise ValueError("games are made of a vector environment in autoreset mode DISABLED")
        self._envs, self._life_loss_ends, self.num_envs = envs, life_loss_ends, envs.num_envs
        self._seeds = [0] * envs.num_envs
        self._acts: list[list[int]] = [[] for _ in range(envs.num_envs)]
        self._lives = np.zeros(envs.num_envs, np.int64)

    def reset(self, seed: int) -> _Frames:
        """Begins all of them: the frames to act on."""
        self._rng = np.random.default_rng(seed)
        self._begin(np.ones(self.num_envs, np.bool_))
        return self.obs

    def step(self, act: npt.NDArray[np.int64]) -> Step:
        """Plays a step.

        Returns:
            The frames that it led to, (B, H, W, C), rewards, ends, truncations, and which games are over, (B,) each.
            Where a game is over, `obs` shows the first frame of the next one.
        """
        for acts, one in zip(self._acts, act, strict=True):
            acts.append(int(one))
        self.obs, rew, end, trunc, info = self._envs.step(act)
        obs, over, before = self.obs, end | trunc, self._lives
        self._take_lives(info)
        if self._life_loss_ends:
            end = end | (self._lives < before)
        if over.any():
            self._begin(over)
        return obs, rew.astype(np.float32), end, trunc, over

    def close(self) -> None:
        """Ends them."""
        self._envs.close()

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on from here, as plain data."""
        acts = [list(acts) for acts in self._acts]
        return {"rng": self._rng.bit_generator.state, "seeds": list(self._seeds), "acts": acts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state by playing it again; rows with fewer actions wait, so that all arrive together."""
        self._rng = np.random.default_rng()
        self._rng.bit_generator.state = state["rng"]
        self._seeds, self._acts = list(state["seeds"]), [list(acts) for acts in state["acts"]]
        longest = max(map(len, self._acts))
        wait = np.array([longest - len(acts) for acts in self._acts])
        over: _Rows = np.ones(self.num_envs, np.bool_)
        for t in range(longest + 1):
            if (begins := over | (wait == t)).any():
                self._reset(begins)
            if t == longest:
                break
            act = [acts[t - late] if t >= late else 0 for acts, late in zip(self._acts, wait, strict=True)]
            self.obs, _, end, trunc, info = self._envs.step(np.array(act, np.int64))
            self._take_lives(info)
            over = end | trunc

    def _begin(self, rows: _Rows) -> None:
        for i in np.flatnonzero(rows):
            self._seeds[i], self._acts[i] = int(self._rng.integers(2**31)), []
        self._reset(rows)

    def _reset(self, rows: _Rows) -> None:
        seeds: Any = list(self._seeds)  # Gymnasium's annotation leaves out a seed for each row
        self.obs, info = self._envs.reset(seed=seeds, options={"reset_mask": rows.copy()})
        self._take_lives(info)

    def _take_lives(self, info: dict[str, Any]) -> None:
        if "lives" in info:
            self._lives = np.where(info.get("_lives", True), info["lives"], self._lives)
