"""What a world model learns: an Atari game, a Gymnasium environment of the user's, or recordings alone."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import AddRenderObservation, ReshapeObservation, ResizeObservation

from diamond_gym.action_spaces import codec_of_recordings, codec_of_space
from diamond_gym.actions import ActionCodec
from diamond_gym.data.about import ABOUT, About, read_about
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.envs.atari_game import SIZE
from diamond_gym.errors import BadArgument, BadConfig
from diamond_gym.registry import Card, Entry
from diamond_gym.registry.card_fields import check_name
from diamond_gym.registry.games import game as find_game
from diamond_gym.registry.games import games as known_games
from diamond_gym.trainers.checked_env import CheckedEnv, held_to_interface


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
    def codec(self) -> ActionCodec:
        """Its actions: their space, and how networks take them."""
        codec = self.about.codec
        if codec is None:
            raise BadArgument(f"nothing says what the actions of {self.name} mean, and there are no recordings of it")
        return codec

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
            raise BadArgument(f"{self.name} cannot be played here: there are only recordings of it")
        makers = [lambda: make_env(self.env, size, self.render_obs)] * num_envs
        return SyncVectorEnv(makers, autoreset_mode=mode)


def find_world(
    game: str | None = None,
    env: str | None = None,
    data: Path | None = None,
    size: int | tuple[int, int] | None = None,
    render_obs: bool = False,
) -> World:
    """The world that a game's name, an environment's id or a store of experience means.

    Args:
        game: One of the 26 games.
        env: A registered id, of uint8 images; `module:id` imports the module first.
        data: A store; what it holds has to be of the game or environment, if one is given.
        size: Side of an environment's frames, or (H, W) (default: their own if no side is above 64, else 64).
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
        own = about.frame_shape[:2]
        wanted = (size, size) if isinstance(size, int) else size or (own if max(own) <= SIZE else (SIZE, SIZE))
        world = World(about if own == wanted else about_env(env, wanted, render_obs), env, render_obs)
    elif data is not None:
        about = recorded(data)
        seen_as_game = about.env in ("", about.game) and about.frame_shape == (SIZE, SIZE, 3)
        playable = seen_as_game and can_play_game(about.game)
        return World(about, about.game if playable else "")
    else:
        raise BadArgument("say which world: --game Breakout, --env CartPole-v1 --render-obs, or --data NAME")
    if data is not None and (data / ABOUT).exists():
        read_about(data).check_same(world.about, data)
    return world


def recorded(folder: Path) -> About:
    """What a store holds; where it does not say what its actions mean, their recorded range does."""
    about = read_about(folder)
    if about.codec is not None:
        return about
    store = EpisodeStore(folder)
    if not store.num_steps:
        return about
    acts = [store.steps(i, np.arange(n))["act"] for i, n in enumerate(store.lengths.tolist())]
    try:
        return replace(about, actions=codec_of_recordings(np.concatenate(acts)).table)
    except BadConfig as error:
        raise BadArgument(f"the actions in {folder} cannot be learned: {error}") from None


def knows_outcomes(store: EpisodeStore) -> bool:
    """Whether any episode of a store has rewards or ends; of an empty one nothing speaks against it."""
    return not len(store) or any(
        not {"rew", "end"} <= set(store.pieces(number)[-1].unknown) for number in range(len(store))
    )


def check_learnable(about: About, numbered: bool = False) -> None:
    """Raises BadArgument where networks cannot take what a store holds, or DIAMOND's agent its actions (`numbered`)."""
    if numbered and about.codec is not None and about.codec.is_vector:
        raise BadArgument(
            f"DIAMOND's agent takes numbered actions, and those of {about.game} are {about.codec.space}: "
            f"train-wm, then train-agent --algo {'ppo or sac' if about.codec.kind == 'box' else 'ppo'}"
        )
    check_name(about.game, "a world's name")


def check_rewarded(entry: Entry) -> None:
    """Raises BadArgument where nothing is rewarded in a model's dreams, so that no agent can learn in them."""
    if entry.card.reward_end is None:
        raise BadArgument(f"an agent cannot learn in {entry.name}: it has no reward model, so nothing is rewarded")


def option_of(env: str) -> str:
    """The option that plays the environment which a store or a card names, "" where it names none."""
    return f"--env {env or 'ID'}"


def can_play_atari() -> bool:
    """Whether the emulator is installed."""
    return all(find_spec(module) for module in ("ale_py", "cv2"))


def can_play_game(name: str) -> bool:
    """Whether a world of that name is one of the 26 games, and the emulator is installed."""
    return name in known_games() and can_play_atari()


def about_game(game: str, size: tuple[int, int] = (SIZE, SIZE)) -> About:
    """What a store of a real game's experience holds, with frames of the paper's size or of another."""
    row = find_game(game)
    return About(row.name, (*size, 3), row.num_actions, row.action_meanings, versions=_versions("ale-py"), env=row.name)


def about_of(card: Card) -> About:
    """What a store of the experience that a model dreams holds."""
    return About.of(card.game, card.obs_shape, card.codec, card.action_meanings)


def about_env(env: str, size: tuple[int, int] | None = None, render_obs: bool = False) -> About:
    """What a store of an environment's experience holds; arguments and errors as `make_env`'s."""
    made = make_env(env, size, render_obs)
    h, w, c = made.observation_space.shape or ()
    codec = codec_of_space(made.action_space, env)
    meanings: tuple[str, ...] = tuple(getattr(made.unwrapped, "get_action_meanings", tuple)())
    made.close()
    # its whole id, as Gymnasium resolved it: worlds of the same name may be different games, and so may two pictures
    played = (made.unwrapped.spec.id if made.unwrapped.spec else env) + " --render-obs" * render_obs
    return About.of(game_name(env), (h, w, c), codec, meanings, _versions(), played)


def game_name(env: str) -> str:
    """What a world is called after its id: `"Catch"` for `"DiamondGym/Catch-v0"`."""
    plain = env.rpartition(":")[2].rpartition("/")[2]
    name, _, number = plain.rpartition("-v")
    return name if name and number.isdigit() else plain


def make_env(env: str, size: tuple[int, int] | None = None, render_obs: bool = False) -> gym.Env[Any, Any]:
    """Makes an environment that shows uint8 frames (H, W, C) and takes actions of a kind that a codec knows.

    What it answers is checked in every step: see `CheckedEnv`.

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
        words: dict[str, Any] = {"render_mode": "rgb_array"} if render_obs else {}
        made: gym.Env[Any, Any] = held_to_interface(env, lambda: gym.make(env, **words))
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        raise BadArgument(f"{env} cannot be made: {error}") from None
    try:
        return _seen_as_frames(made, env, size, render_obs)
    except BadArgument:
        made.close()
        raise


def _seen_as_frames(
    made: gym.Env[Any, Any], env: str, size: tuple[int, int] | None, render_obs: bool
) -> gym.Env[Any, Any]:
    """An environment that was made, by the frames that are learned; arguments and errors as `make_env`'s."""
    if render_obs:
        made = held_to_interface(env, partial(AddRenderObservation, made, render_only=True))
    made, space = CheckedEnv(made, env), made.observation_space
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        hint = "" if render_obs else "; --render-obs takes its rendered picture instead"
        raise BadArgument(f"{env} shows {space}, not uint8 images of height, width and channels{hint}")
    shape = space.shape if len(space.shape) == 3 else (*space.shape, 1)
    if shape[2] not in (1, 3):
        first = shape[0] in (1, 3)
        found = "their channels first, not last" if first else f"{shape[2]} channels, not 1 or 3"
        how = "with obs.transpose(1, 2, 0) turns them" if first else "can choose among them"
        raise BadArgument(f"{env} shows frames {shape} with {found}: gymnasium.wrappers.TransformObservation {how}")
    codec_of_space(made.action_space, env)
    if shape != space.shape:
        made = ReshapeObservation(made, shape)
    return made if size is None or shape[:2] == size else ResizeObservation(made, size)


def _versions(*more: str) -> dict[str, str]:
    """The versions of the libraries that experience depends on, as far as they are installed."""
    versions = {}
    for name in (*more, "gymnasium", "diamond-gym"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            continue
    return versions
