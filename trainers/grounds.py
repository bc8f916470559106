"""Where a whole training plays: an Atari game, or any Gymnasium environment of images and discrete actions."""

from dataclasses import dataclass
from typing import Any, Protocol

from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from diamond_gym.data.episode_files import About
from diamond_gym.envs.atari_game import SIZE
from diamond_gym.trainers.collect import about_game
from diamond_gym.trainers.collect_games import AleGames, Games, GymGames, about_env, make_env
from diamond_gym.trainers.evaluate import real_games

_NOOP_MAX = 30


class Ground(Protocol):
    """Makes the games of one kind."""

    def about(self) -> About:
        """What a store of its experience holds."""
        ...

    def games(self, num_envs: int) -> Games:
        """Games to learn from: in Atari games the loss of a life ends an episode."""
        ...

    def test_games(self, num_envs: int) -> Games:
        """The same as whole games."""
        ...

    def whole(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """Whole games in mode SAME_STEP, as `scores.play` takes them."""
        ...


@dataclass(frozen=True)
class AtariGround:
    """One of the 26 games, preprocessed as in the paper."""

    game: str

    def about(self) -> About:
        """See `Ground`."""
        return about_game(self.game)

    def games(self, num_envs: int) -> Games:
        """See `Ground`."""
        return AleGames(self.game, num_envs, self.about().frame_shape[:2], _NOOP_MAX, life_loss_ends=True)

    def test_games(self, num_envs: int) -> Games:
        """See `Ground`."""
        return AleGames(self.game, num_envs, self.about().frame_shape[:2], _NOOP_MAX, life_loss_ends=False)

    def whole(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """See `Ground`."""
        return real_games(self.game, num_envs)


@dataclass(frozen=True)
class GymGround:
    """A registered environment.

    Attributes:
        env: Its id; `module:id` imports the module first.
        size: (H, W) to which frames are resized, None for their own.
        render_obs: Whether the rendered picture takes the observation's place.
    """

    env: str
    size: tuple[int, int] | None = None
    render_obs: bool = False

    def about(self) -> About:
        """See `Ground`."""
        return about_env(self.env, self.size, self.render_obs)

    def games(self, num_envs: int) -> Games:
        """See `Ground`."""
        return GymGames(self.env, num_envs, self.size, self.render_obs)

    def test_games(self, num_envs: int) -> Games:
        """See `Ground`."""
        return self.games(num_envs)

    def whole(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """See `Ground`."""
        makers = [lambda: make_env(self.env, self.size, self.render_obs)] * num_envs
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def side_of(env: str, render_obs: bool) -> int:
    """The side of an environment's frames: their own if they are square and small, else the paper's."""
    h, w, _ = about_env(env, None, render_obs).frame_shape
    return h if h == w and h <= SIZE else SIZE


def gym_ground(env: str, size: int | None = None, render_obs: bool = False) -> GymGround:
    """The environment of an id with square frames, of that side or of `side_of`."""
    side = size or side_of(env, render_obs)
    return GymGround(env, (side, side), render_obs)
