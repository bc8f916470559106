"""collect: real experience, played and stored; and what other commands share of it: which world, and its store."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diamond_gym.cli.options import check_least, check_positive, image_size, missing
from diamond_gym.cli.terminal import console, counting
from diamond_gym.data.about import ABOUT, About, read_about
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.registry import game as find_game
from diamond_gym.registry import home_folder, resolve
from diamond_gym.schema import check_shares

if TYPE_CHECKING:
    from diamond_gym.registry import Card
    from diamond_gym.trainers.policies import Policy
    from diamond_gym.trainers.sb3_files import SavedAgent
    from diamond_gym.trainers.worlds import World


def store_folder(name: str) -> Path:
    """The folder of a store: one of that name in <home>/data, or the folder itself where it is written as a path."""
    if os.sep in name or name.startswith((".", "~")) or (Path(name) / ABOUT).exists():
        return Path(os.path.expanduser(name))  # noqa: PTH111 - pathlib's can raise
    if not re.fullmatch(r"\w[\w .+-]{0,99}", name) or name != name.strip():
        raise BadArgument(f"{name[:60]!r} names no store: give a name in {home_folder() / 'data'}, or a folder")
    return home_folder() / "data" / name


def recorded_game(data: str, game: str | None, env: str | None) -> str:
    """The name of the world that a store was recorded in.

    Args:
        data: The store's name or folder.
        game: The game that was named, if any.
        env: The environment that was named, if any, by its id.

    Raises:
        BadArgument: The recordings are of another world than the named one.
    """
    from diamond_gym.trainers.worlds import game_name

    found = read_about(store_folder(data)).game
    if found != (named := game or (game_name(env) if env is not None else found)):
        raise BadArgument(f"--data {data} holds recordings of {found}, not of {named}")
    return found


@dataclass(frozen=True)
class WorldOptions:
    """Options of every command that plays or learns a world: which one it is, and where its recordings are."""

    game: str | None = None
    """One of the 26 Atari 100k games (diamond-gym list --games)."""
    env: str | None = None
    """Or a Gymnasium environment with image observations, by its id; module:Id imports the module first."""
    data: str | None = None
    """Recorded play: the name of a store in <home>/data, or a folder (default: the store of the world's name)."""
    render_obs: bool = False
    """With --env: use its rendered picture as the observation, as CartPole-v1 needs."""
    size: str | None = None
    """With --env: size of the frames, one side or HEIGHTxWIDTH (default: their own if no side is above 64, else 64)."""

    def check_world(self, wanted: str) -> None:
        """Refuses options that do not say which world it is, or do not fit it.

        Args:
            wanted: What the user has to say, with a game for an example.
        """
        if self.game is not None and self.env is not None:
            raise BadArgument("--game and --env exclude each other")
        if self.game is self.env is self.data is None:
            missing(f"{wanted}, or --env CartPole-v1 --render-obs, or --data NAME")
        if self.game is not None:
            find_game(self.game)
        if self.env is None and (self.render_obs or self.size is not None):
            raise BadArgument("--render-obs and --size are for --env; the games are seen as in the paper")
        if self.data is not None:
            store_folder(self.data)
        image_size(self.size, "--size")

    @property
    def settled_size(self) -> int | str | None:
        """The size as runs keep it."""
        return int(self.size) if self.size is not None and str(self.size).isdigit() else self.size

    @property
    def plays(self) -> bool:
        """Whether a game or an environment is named, and not recordings alone."""
        return self.game is not None or self.env is not None

    def world(self) -> "World":
        """The world that is meant."""
        from diamond_gym.trainers.worlds import find_world

        data = None if self.data is None else store_folder(self.data)
        return find_world(self.game, self.env, data, image_size(self.size, "--size"), self.render_obs)

    def store(self, world: "World") -> Path:
        """The folder of its recordings."""
        return home_folder() / "data" / world.name.lower() if self.data is None else store_folder(self.data)


@dataclass(frozen=True)
class Collect(WorldOptions):
    """Plays a world and stores what happens; repeating the command adds to it."""

    data: Annotated[str | None, tyro.conf.arg(aliases=["--out"])] = None
    """The store: its name in <home>/data, or a folder (default: the store of the world's name)."""
    steps: int = 20_000
    """How many steps to add."""
    num_envs: int = 16
    """Games played side by side."""
    policy: Literal["mixed", "random", "sticky", "scripted"] = "mixed"
    """random: uniform actions; sticky: each action is kept for a while; mixed: games alternate between these two;
    scripted: a simple player of Breakout, Freeway, Pong or RoadRunner, with spells of random play."""
    agent: str | None = None
    """Let the agent of this model (a name or a folder), or a Stable-Baselines3 .zip, play instead."""
    epsilon: float = 0.01
    """With --agent: the probability of a random action instead of the agent's."""
    temperature: float = 1.0
    """With --agent: divides its logits; below 1 its actions are less random."""
    noop_max: int = 30
    """Maximum number of no-ops before an Atari game begins. Much in a game may depend on the frame in which it begins:
    Breakout serves its ball at one of four places, with 0 always at the same one."""
    seed: int = 0
    """Seeds the play; adding to a store with the same seed still plays different games."""

    def __post_init__(self) -> None:
        self.check_world("what to play: --game Breakout")
        check_least(self, steps=1, num_envs=1, noop_max=0, seed=0)
        check_positive(self, "temperature")
        check_shares(self, "epsilon")

    def run(self) -> int:
        """Plays; Ctrl-C keeps what was played until then."""
        from diamond_gym.trainers.collect import CollectConfig, Collector
        from diamond_gym.trainers.policies import check_scripted

        world = self.world()
        if self.policy == "scripted":
            check_scripted(world.name)
        config = CollectConfig(self.policy, self.epsilon if self.agent else 0.0, seed=self.seed)
        policy, folder = self._agent_policy(world), self.store(world)
        with filling(folder, world.about) as store:
            envs = world.envs(self.num_envs, noop_max=self.noop_max)
            counter = counting(f"playing {world.name}", self.steps, "steps")
            with Collector(store, envs, config, policy) as collector, counter as advance:
                stats = collector.collect(self.steps, advance)
            console.print(f"{folder}: {store.num_steps:,} steps in {len(store):,} episodes", soft_wrap=True)
        if stats.scores:
            mean = sum(stats.scores) / len(stats.scores)
            console.print(f"{len(stats.scores)} games were played to their end, mean score {mean:,.1f}")
        return 0

    def _agent_policy(self, world: "World") -> "Policy | None":
        """The agent that plays: of a model, or one of Stable-Baselines3's in a file or beside a model."""
        if self.agent is None:
            return None
        from diamond_gym.trainers.policies import AgentPolicy, own_agent, own_file

        if self.agent.endswith(".zip"):
            from diamond_gym.trainers.sb3_files import open_agent

            saved: SavedAgent | None = open_agent(Path(self.agent))
        else:
            entry = resolve(self.agent)
            saved = own_file(entry)
        if saved is not None:
            if self.temperature != 1:
                raise BadArgument("--temperature is for DIAMOND agents; this one is a Stable-Baselines3 agent")
            saved.check(world.name, world.about.frame_shape, world.codec)
            return saved.playing(self.num_envs, seed=self.seed)
        import numpy as np

        from diamond_gym.registry import load_world_model

        model = load_world_model(entry)
        agent = own_agent(model)
        if (model.obs_shape, model.codec) != (world.about.frame_shape, world.codec):
            mine, theirs = (model.obs_shape, model.codec.space), (world.about.frame_shape, world.codec.space)
            raise BadArgument(
                f"the agent of {self.agent} sees frames {mine[0]} and has actions {mine[1]}, "
                f"but {world.name} shows {theirs[0]} (see --size) and has {theirs[1]}"
            )
        return AgentPolicy(agent, self.num_envs, np.random.default_rng([self.seed, 1]), self.temperature)


def dreamed_world(card: "Card", env: str | None = None, render_obs: bool = False) -> "World":
    """What a model dreams, with its environment where there is one to play.

    Args:
        card: The model's.
        env: The environment that an own world's model dreams, by its id.
        render_obs: Whether the environment's rendered picture takes the observation's place.

    Raises:
        BadArgument: The environment has other frames or actions than the model's dreams.
    """
    from diamond_gym.trainers.worlds import World, about_of, can_play_game, find_world

    about = about_of(card)
    if env is not None:
        rendered = render_obs or bool(card.training.get("render_obs"))
        world = find_world(env=env, size=card.obs_shape[:2], render_obs=rendered)
        if (world.about.frame_shape, world.codec) != (about.frame_shape, card.codec):
            raise BadArgument(f"{env} has other frames or actions than the dreams of {card.name}")
        return replace(world, about=replace(about, env=world.about.env))
    return World(replace(about, env=card.game), card.game) if can_play_game(card.game) else World(about)


TEST_SEED = 1000

PolicyName = Literal["auto", "mixed", "random", "sticky", "scripted"]
Played = Literal["mixed", "random", "sticky", "scripted"]


def played_by(policy: PolicyName, world: str) -> Played:
    """The policy that "auto" means: scripted in Freeway, whose road random play never crosses, and mixed elsewhere."""
    if policy == "auto":
        return "scripted" if world == "Freeway" else "mixed"
    return policy


def experience(folder: Path, world: "World", steps: int, seed: int, policy: PolicyName = "auto") -> EpisodeStore:
    """Opens a store of real play for reading, filled up to `steps` first.

    Args:
        folder: The store's; made where there is none.
        world: What to play.
        steps: How many there have to be.
        seed: Of the play.
        policy: Who plays what is missing; what is there already stays, whoever played it.

    Raises:
        BadArgument: The policy is scripted and there is no script for the world.
        DiamondGymError: The store holds other experience.
    """
    if (folder / ABOUT).exists():
        store = read_store(folder, world)
        if store.num_steps >= steps:
            return store  # read only: another run may be reading it too
    from diamond_gym.trainers.collect import CollectConfig, Collector, games_for

    with filling(folder, world.about) as store:
        lacking = steps - store.num_steps
        play = Collector(store, world.envs(games_for(lacking)), CollectConfig(played_by(policy, world.name), seed=seed))
        with play as collector, counting(f"playing {world.name}", lacking, "steps") as advance:
            collector.collect(lacking, advance)
    return read_store(folder, world)


@contextmanager
def filling(folder: Path, about: About) -> Iterator[EpisodeStore]:
    """Opens a store to add to; where an error comes before anything is written, none is left that was not there."""
    is_new = not (folder / ABOUT).exists()
    with EpisodeStore(folder, "a", about) as store:
        try:
            yield store
        except Exception:
            store.refresh()  # others may have written
            if is_new and not len(store):
                (folder / ABOUT).unlink(missing_ok=True)
                with suppress(OSError):  # the folder holds something else
                    folder.rmdir()
            raise


def read_store(folder: Path, world: "World") -> EpisodeStore:
    """Opens recordings of a world for reading; an error if they are of another one."""
    store = EpisodeStore(folder, about=world.about)
    store.codec = store.codec or world.codec
    return store
