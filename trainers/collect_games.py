"""Games to collect from: Atari's batch, and any Gymnasium environments side by side."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.wrappers import AddRenderObservation, ResizeObservation

from diamond_gym.data.episode_files import About
from diamond_gym.envs.atari_game import ale_vector
from diamond_gym.errors import BadArgument

Step = tuple[
    npt.NDArray[np.uint8],
    npt.NDArray[np.float32],
    npt.NDArray[np.bool_],
    npt.NDArray[np.bool_],
    npt.NDArray[np.bool_],
]


class Games(Protocol):
    """B games side by side. One that is over begins anew with the next step, whose action is lost."""

    def reset(self, seed: int) -> npt.NDArray[np.uint8]:
        """Begins all of them: frames (B, H, W, C)."""
        ...

    def step(self, act: npt.NDArray[np.int64]) -> Step:
        """Frames (B, H, W, C), rewards, ends, truncations, and which rows have just begun anew, (B,) each."""
        ...

    def close(self) -> None:
        """Ends them."""
        ...

    def state_dict(self) -> dict[str, Any] | None:
        """What it takes to go on from here, as plain data; None where that cannot be had."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> npt.NDArray[np.uint8]:
        """Goes back to a state: frames (B, H, W, C)."""
        ...


class AleGames:
    """Atari games, where the loss of a life may end an episode though the game goes on.

    Args:
        game: One of the 26 games.
        num_envs: How many, B.
        size: (H, W) of the frames.
        noop_max: At most so many no-ops before a game begins.
        life_loss_ends: Whether a lost life ends an episode.
    """

    def __init__(self, game: str, num_envs: int, size: tuple[int, int], noop_max: int, life_loss_ends: bool) -> None:
        self._envs = ale_vector(game, num_envs, noop_max=noop_max, size=size, life_loss_info=life_loss_ends)
        self._over = np.zeros(num_envs, np.bool_)

    def reset(self, seed: int) -> npt.NDArray[np.uint8]:
        """See `Games`."""
        obs, info = self._envs.reset(seed=seed)
        self._frame = info["episode_frame_number"].copy()
        self._over[:] = False
        frames: npt.NDArray[np.uint8] = obs[:, 0]
        return frames

    def step(self, act: npt.NDArray[np.int64]) -> Step:
        """See `Games`."""
        obs, rew, end, trunc, info = self._envs.step(act)
        # After the loss of a life the game goes on. After its end, this was a restart and the action is lost.
        restarted = self._over & (info["episode_frame_number"] < self._frame)
        self._frame, self._over = info["episode_frame_number"].copy(), end | trunc
        return obs[:, 0], rew, end, trunc, restarted

    def close(self) -> None:
        """See `Games`."""
        self._envs.close()

    def state_dict(self) -> None:
        """None: ALE's batch gives its state to nobody."""

    def load_state_dict(self, state: dict[str, Any]) -> npt.NDArray[np.uint8]:
        """Never called, as there is no state."""
        raise NotImplementedError


def make_env(env: str, size: tuple[int, int] | None = None, render_obs: bool = False) -> gym.Env[Any, Any]:
    """Makes an environment that shows uint8 frames (H, W, C) and takes discrete actions.

    Args:
        env: A registered id; `module:id` imports the module first.
        size: (H, W) to which frames are resized by area, None for their own.
        render_obs: Whether the rendered picture takes the observation's place.

    Raises:
        BadArgument: There is no such id, or it has other observations or actions.
    """
    try:
        made = gym.make(env, render_mode="rgb_array") if render_obs else gym.make(env)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise BadArgument(f"{env} cannot be made: {error}") from None
    if render_obs:
        made = AddRenderObservation(made, render_only=True)
    space, actions = made.observation_space, made.action_space
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        made.close()
        hint = "" if render_obs else "; render_obs takes its rendered picture instead"
        raise BadArgument(f"{env} shows {space}, not uint8 images of height, width and channels{hint}")
    if not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        made.close()
        raise BadArgument(f"{env} takes {actions}, not discrete actions counted from 0")
    return made if size is None or space.shape[:2] == size else ResizeObservation(made, size)


def game_name(env: str) -> str:
    """What a game is called after its id: `"Catch"` for `"DiamondGym/Catch-v0"`."""
    name, _, number = env.rpartition("/")[2].rpartition(":")[2].rpartition("-v")
    return name if name and number.isdigit() else env.rpartition("/")[2]


def about_env(env: str, size: tuple[int, int] | None = None, render_obs: bool = False) -> About:
    """What a store of an environment's experience holds; arguments and errors as `make_env`'s."""
    made = make_env(env, size, render_obs)
    h, w, c = made.observation_space.shape or ()
    num_actions = int(made.action_space.n)  # type: ignore[attr-defined]
    meanings: tuple[str, ...] = tuple(getattr(made.unwrapped, "get_action_meanings", tuple)())
    made.close()
    versions = {}
    for name in ("gymnasium", "diamond-gym"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            continue
    return About(game_name(env), (h, w, c), num_actions, meanings, versions=versions)


class GymGames:
    """Environments of one id, in step with each other.

    Their state is kept as what led to it: the seed with which each game began, and its actions since then. To go
    back to it, games are played again, which takes an environment that does the same from the same seed.

    Args:
        env: A registered id.
        num_envs: How many, B.
        size: (H, W) of the frames, None for their own.
        render_obs: Whether the rendered picture takes the observation's place.
    """

    def __init__(self, env: str, num_envs: int, size: tuple[int, int] | None = None, render_obs: bool = False) -> None:
        self._envs = [make_env(env, size, render_obs) for _ in range(num_envs)]
        self._over = np.zeros(num_envs, np.bool_)
        self._seeds = [0] * num_envs
        self._acts: list[list[int]] = [[] for _ in range(num_envs)]

    def reset(self, seed: int) -> npt.NDArray[np.uint8]:
        """See `Games`."""
        self._rng = np.random.default_rng(seed)
        return np.stack([self._begin(i) for i in range(len(self._envs))])

    def step(self, act: npt.NDArray[np.int64]) -> Step:
        """See `Games`."""
        restarted = self._over.copy()
        obs, rew = [], np.zeros(len(act), np.float32)
        end, trunc = np.zeros_like(restarted), np.zeros_like(restarted)
        for i, env in enumerate(self._envs):
            if restarted[i]:
                obs.append(self._begin(i))
                continue
            seen, reward, end[i], trunc[i], _ = env.step(np.int64(act[i]))
            rew[i] = float(reward)
            obs.append(np.asarray(seen, np.uint8).copy())  # an environment may draw into the same array again
            self._acts[i].append(int(act[i]))
        self._over = end | trunc
        return np.stack(obs), rew, end, trunc, restarted

    def close(self) -> None:
        """See `Games`."""
        for env in self._envs:
            env.close()

    def state_dict(self) -> dict[str, Any]:
        """See `Games`."""
        return {
            "rng": self._rng.bit_generator.state,
            "over": self._over.tolist(),
            "seeds": list(self._seeds),
            "acts": [list(acts) for acts in self._acts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> npt.NDArray[np.uint8]:
        """See `Games`."""
        self._rng = np.random.default_rng()
        self._rng.bit_generator.state = state["rng"]
        self._over = np.array(state["over"], np.bool_)
        self._seeds, self._acts = list(state["seeds"]), [list(acts) for acts in state["acts"]]
        frames = []
        for env, seed, acts in zip(self._envs, self._seeds, self._acts, strict=True):
            obs, _ = env.reset(seed=seed)
            for act in acts:
                obs, *_ = env.step(np.int64(act))
            frames.append(np.asarray(obs, np.uint8).copy())
        return np.stack(frames)

    def _begin(self, i: int) -> npt.NDArray[np.uint8]:
        self._seeds[i], self._acts[i] = int(self._rng.integers(2**31)), []
        obs, _ = self._envs[i].reset(seed=self._seeds[i])
        return np.asarray(obs, np.uint8).copy()
