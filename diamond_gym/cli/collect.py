"""collect: real experience, played and stored; and `experience`, by which other commands get theirs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diamond_gym.cli.terminal import counting
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, game, home_folder, resolve
from diamond_gym.registry.saving import AGENT

if TYPE_CHECKING:
    from diamond_gym.trainers.collect import Policy
    from diamond_gym.trainers.sb3_files import SavedAgent


@dataclass(frozen=True)
class Collect:
    """Plays a real game and stores what happens; repeating the command adds to it."""

    game: str | None = None
    """One of the 26 Atari 100k games (diamond-gym list --games)."""
    env: str | None = None
    """In its place any Gymnasium environment of discrete actions, by its id (`module:id` imports the module first)."""
    render_obs: bool = False
    """With --env: take its rendered picture for what is seen."""
    size: int | None = None
    """With --env: side of the frames (default: its own if they are square and at most 64, else 64)."""
    steps: int = 20_000
    """How many steps to add."""
    out: Path | None = None
    """The store's folder (default: <home>/data/<game>, after an --env's id)."""
    num_envs: int = 16
    """Games played side by side."""
    policy: Literal["mixed", "random", "sticky", "scripted"] = "mixed"
    """random: uniform actions; sticky: each is kept for a while; mixed: every other game one of the two; scripted: a
    simple player of Breakout, Freeway, Pong or RoadRunner, with random spells."""
    agent: str | None = None
    """Play instead with the agent of this model (a name or a folder), or with a .zip of Stable-Baselines3."""
    epsilon: float = 0.01
    """With --agent: the chance of a random action in its place."""
    temperature: float = 1.0
    """With --agent: below 1 it is surer of itself."""
    noop_max: int = 30
    """At most so many no-ops before a game begins. A game may take much from the frame in which it was begun: Breakout
    serves its ball at one of four places, always the same with 0."""
    seed: int = 0
    """Adding to a store with the same seed plays other games all the same."""

    def __post_init__(self) -> None:
        if (self.game is None) == (self.env is None):
            raise BadArgument("say what to play: --game Breakout, or --env CartPole-v1 --render-obs")
        if self.game is not None:
            game(self.game)
            if self.render_obs or self.size is not None:
                raise BadArgument("--render-obs and --size are for --env; the games are seen as in the paper")
        elif self.agent is not None or self.policy == "scripted":
            raise BadArgument("--agent and --policy scripted are for --game")
        if self.size is not None and self.size < 1:
            raise BadArgument(f"--size must be at least 1, not {self.size}")
        if self.steps < 1:
            raise BadArgument(f"--steps must be at least 1, not {self.steps}")
        if not 1 <= self.num_envs <= 1024:
            raise BadArgument(f"--num-envs must be 1 to 1024, not {self.num_envs}")
        if not 0 <= self.epsilon <= 1:
            raise BadArgument(f"--epsilon is a chance, 0 to 1, not {self.epsilon}")
        if not self.temperature > 0:
            raise BadArgument(f"--temperature must be more than 0, not {self.temperature}")
        if self.noop_max < 0:
            raise BadArgument(f"--noop-max must not be negative, unlike {self.noop_max}")
        if self.seed < 0:
            raise BadArgument(f"--seed must not be negative, unlike {self.seed}")

    def run(self) -> int:
        """Plays; Ctrl-C keeps what was played until then."""
        from diamond_gym.cli.terminal import console, counting
        from diamond_gym.data.episodes import EpisodeStore
        from diamond_gym.trainers.collect import CollectConfig, Collector, about_game
        from diamond_gym.trainers.grounds import gym_ground

        epsilon, ground = self.epsilon if self.agent else 0.0, None
        if self.env is not None:
            ground = gym_ground(self.env, self.size, self.render_obs)
        about = about_game(self.game or "") if ground is None else ground.about()
        config = CollectConfig(about.game, self.num_envs, self.policy, epsilon, seed=self.seed, noop_max=self.noop_max)
        policy = self._agent_policy()
        folder = self.out or home_folder() / "data" / about.game.lower()
        with EpisodeStore(folder, "a", about) as store:
            games = None if ground is None else ground.games(self.num_envs)
            counter = counting(f"playing {about.game}", self.steps, "steps")
            with Collector(store, config, policy, games) as collector, counter as advance:
                stats = collector.collect(self.steps, advance)
            console.print(f"{folder}: {store.num_steps:,} steps in {store.num_episodes:,} episodes", soft_wrap=True)
        if stats.scores:
            mean = sum(stats.scores) / len(stats.scores)
            console.print(f"{len(stats.scores)} games were played to their end, mean score {mean:,.1f}")
        return 0

    def _agent_policy(self) -> "Policy | None":
        if self.agent is None or self.game is None:
            return None
        from diamond_gym.trainers.collect import about_game

        entry = None if self.agent.endswith(".zip") else resolve(self.agent)
        saved, plays = self._saved_agent(entry), game(self.game)
        if saved is not None:
            if self.temperature != 1:
                raise BadArgument("--temperature is for agents of DIAMOND's kind; this one is Stable-Baselines3's")
            saved.check(self.game, about_game(self.game).frame_shape, plays.num_actions)
            return saved.playing(self.num_envs, seed=self.seed)
        import numpy as np

        from diamond_gym.registry import load_world_model
        from diamond_gym.trainers.policies import AgentPolicy

        assert entry is not None, "a .zip is opened or refused"
        model = load_world_model(entry)
        if model.actor_critic is None:
            raise BadArgument(f"the model {self.agent} has no agent")
        if model.num_actions != plays.num_actions:
            raise BadArgument(f"the agent of {self.agent} plays another game than {self.game}")
        rng = np.random.default_rng([self.seed, 1])
        return AgentPolicy(model.actor_critic, self.num_envs, rng, self.temperature)

    def _saved_agent(self, entry: Entry | None) -> "SavedAgent | None":
        """The agent of Stable-Baselines3 that is meant: a file, or the one beside a model; None if it is neither."""
        if entry is None:
            from diamond_gym.trainers.sb3_files import open_agent

            assert self.agent is not None, "asked for by _agent_policy"
            return open_agent(self.agent)
        if entry.file(AGENT) is None:
            return None  # without asking for Stable-Baselines3, which need not be installed
        from diamond_gym.trainers.own_agent import own_file

        return own_file(entry)


TEST_SEED = 1000

PolicyName = Literal["auto", "mixed", "random", "sticky", "scripted"]
Played = Literal["mixed", "random", "sticky", "scripted"]


def played_by(policy: PolicyName, game: str) -> Played:
    """What "auto" means: scripted in Freeway, whose road random play never crosses, and mixed elsewhere."""
    if policy == "auto":
        return "scripted" if game == "Freeway" else "mixed"
    return policy


def experience(folder: Path, game: str, steps: int, seed: int, policy: PolicyName = "auto") -> EpisodeStore:
    """Opens a store of real play for reading, filled up to `steps` first.

    Args:
        folder: The store's; made where there is none.
        game: What to play.
        steps: How many there have to be.
        seed: Of the play.
        policy: Who plays what is missing; what is there already stays, whoever played it.

    Raises:
        BadArgument: The policy is scripted and there is no script for the game.
    """
    if (folder / "store.json").exists() and EpisodeStore(folder).num_steps >= steps:
        return EpisodeStore(folder)  # read only: another run may be reading it too
    from diamond_gym.trainers.collect import CollectConfig, Collector, about_game

    with EpisodeStore(folder, "a", about_game(game)) as store:
        missing = steps - store.num_steps
        play = Collector(store, CollectConfig(game, policy=played_by(policy, game), seed=seed))
        with play as collector, counting(f"playing {game}", missing, "steps") as advance:
            collector.collect(missing, advance)
    return EpisodeStore(folder)
