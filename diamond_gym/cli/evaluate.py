"""`diamond-gym evaluate`: what a saved agent scores in the real game, and what many runs come to."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from diamond_gym.cli.collect import recorded_game, store_folder
from diamond_gym.cli.options import OWN, check_files, check_least, check_positive, given, image_size, missing
from diamond_gym.cli.terminal import counting, print_json, print_table
from diamond_gym.data.about import read_about
from diamond_gym.errors import BadArgument
from diamond_gym.registry import game, games, load_world_model, resolve
from diamond_gym.trainers.aggregate import RANDOM, rows_of, write_scores
from diamond_gym.trainers.evaluate import Agent, Scores, score_agent, world_of
from diamond_gym.trainers.worlds import World, game_name, option_of

_PLAYS = (
    "agent", "game", "env", "data", "model", "random", "episodes", "deterministic", "temperature", "n_envs",
    "max_episode_steps", "trust_pickles",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluate:
    """Scores an agent in the real game as the paper does: full games, unclipped scores, actions sampled.

    Prints the mean score with its 95 % bootstrap interval (a single game has none), and the human-normalised score.
    With --game or --model alone, the world model's own agent plays, and random actions are scored beside it. Agents of
    Stable-Baselines3's PPO, A2C, DQN and SAC and of sb3-contrib's RecurrentPPO play without the pickles in their files
    being opened.

    With --runs or --published it plays nothing, but sums up runs on several games: human-normalised mean, median,
    interquartile mean and optimality gap with 95 % stratified bootstrap intervals (Agarwal et al. 2021).
    """

    agent: Path | None = None
    """A Stable-Baselines3 .zip, or own: the agent that came with the world model."""
    game: str | None = None
    """One of the 26 Atari 100k games (default: the one that the agent's file or the model names)."""
    env: str | None = None
    """Or the id of the Gymnasium environment that a model of your own world dreams."""
    data: str | None = None
    """Or the world of these recordings: the name of a store in <home>/data, or a folder; --env says how to play it
    if it is not an Atari game."""
    render_obs: bool = False
    """With --env: use its rendered picture as the observation (always done where observations are not images)."""
    size: str | None = None
    """With --env: size of the frames, one side or HEIGHTxWIDTH (default: the agent's)."""
    model: str | None = None
    """The name or folder of the world model whose own agent plays, instead of the game's default model."""
    episodes: int = 100
    """Full games to play."""
    random: bool = False
    """Score uniform random actions, beside the agent or alone."""
    deterministic: bool = False
    """Take the agent's likeliest action (default: actions are sampled, as in the paper)."""
    temperature: float | None = None
    """Divides the logits of DIAMOND's agent before its actions are sampled: below 1 they are less random."""
    n_envs: int = 10
    """Games side by side; each row plays an equal share of them, so that short games count no more than long ones."""
    max_episode_steps: int | None = None
    """Cut games after this many steps (default: the half hour of play after which the emulator cuts them)."""
    seed: int = 0
    """Seeds games and actions, or the bootstrap."""
    trust_pickles: bool = False
    """Open the pickles in the agent's file, which runs any code in them: only for files that you trust."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""
    out: Path | None = None
    """Also write that JSON to this file; if it is called scores.json and lies in a run's folder, --runs finds it."""
    runs: tuple[Path, ...] = ()
    """Sum up the runs in these places: folders that hold a scores.json for each run, at any depth, or JSON files
    of {"Pong": [score of each run], ...}. Several places are compared side by side."""
    published: bool = False
    """Sum up the authors' own runs of DIAMOND, beside --runs (on the same games) or alone (all 26)."""
    plot: Path | None = None
    """With --runs or --published: draw the summary into this PNG."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""

    def __post_init__(self) -> None:
        if self.game is not None:
            game(self.game)
        check_least(self, seed=0, episodes=1, n_envs=1, max_episode_steps=1)
        if self.env is not None and self.game is not None:
            raise BadArgument("--game and --env exclude each other")
        if self.env is None and (self.render_obs or self.size is not None):
            raise BadArgument("--render-obs and --size are for --env; the games are seen as in the paper")
        image_size(self.size, "--size")
        check_files(self, out=(), plot=(".png",))
        if self._sums_up:
            self._refuse("is for playing, and --runs and --published play nothing: leave it out", *_PLAYS)
            return
        if self.plot is not None:
            raise BadArgument("--plot draws what --runs or --published sum up")
        if self._saved is None and self.game is self.env is self.model is self.data is None:
            if self.random or self.agent is not None:
                missing("which game: --game Pong")
            missing("what to score: --game Pong (its world model's agent), --agent FILE, or --random")
        if self._saved is not None and self.model is not None:
            raise BadArgument("--model is for the world model's own agent, so it does not go with --agent")
        if self.temperature is not None and (self.deterministic or not self._own):
            raise BadArgument("--temperature is for the sampled actions of a world model's own agent")
        check_positive(self, "temperature")
        if self._saved is None:
            self._refuse("is for an agent in a Stable-Baselines3 .zip: --agent FILE", "trust_pickles")
            if not self._own:
                self._refuse("is for an agent, and random play has none", "deterministic")

    def _refuse(self, why: str, *names: str) -> None:
        """Refuses options that were given, but would make no difference."""
        for name in given(self, *names):
            raise BadArgument(f"--{name.replace('_', '-')} {why}")

    @property
    def _sums_up(self) -> bool:
        return bool(self.runs) or self.published

    @property
    def _saved(self) -> Path | None:
        """The file of the agent that plays; None if it is a world model's own, or nobody."""
        return None if self.agent == Path(OWN) else self.agent

    @property
    def _own(self) -> bool:
        """Whether a world model's own agent plays: nothing else was asked for."""
        return self._saved is None and (self.agent is not None or self.model is not None or not self.random)

    def run(self) -> int:
        """Plays and prints, or sums up what was played."""
        if self._sums_up:
            from diamond_gym.cli.summing_up import sum_up

            sum_up(self)
            return 0
        self._take_data()
        name, agents = self._agents()
        if self.random or self._own:
            agents[RANDOM] = None
        scores = score_agents(
            agents, name, self.episodes, num_envs=self.n_envs, seed=self.seed, deterministic=self.deterministic,
            temperature=self.temperature, max_episode_steps=self.max_episode_steps,
        )  # fmt: skip
        if self.as_json:
            print_json(rows_of(scores))
        else:
            print_scores(scores)
        if self.out is not None:
            write_scores(self.out, scores)
        return 0

    def _take_data(self) -> None:
        """Has recordings say which world is meant; BadArgument where another is named, or it cannot be played."""
        if self.data is None:
            return
        found = recorded_game(self.data, self.game, self.env)
        if self.env is None and found not in games():
            raise _without_environment(found, read_about(store_folder(self.data)).env)
        object.__setattr__(self, "game", found if self.env is None else None)

    def _where(self, size: tuple[int, int] | None) -> str | World:
        """What is played: a game's name, or a world of the user's with frames of this size, if not --size."""
        return self.game or world_of(self.env or "", image_size(self.size, "--size") or size, self.render_obs)

    def _agents(self) -> tuple[str | World, dict[str, Agent]]:
        """The game, and the agent that plays it by what it is called; none if only chance plays."""
        if self._saved is not None:
            from diamond_gym.trainers.sb3_files import open_agent

            saved = open_agent(self._saved, self.device, self.trust_pickles)
            if self.env is not None:
                return self._where(saved.size), {self._saved.name: saved}
            name = self.game or (saved.card.game if saved.card is not None else None)
            if name is None:
                raise BadArgument(f"{self._saved} does not say which game it was trained for: --game Pong")
            return name, {self._saved.name: saved}
        if not self._own:
            return self._where(None), {}
        from diamond_gym.trainers.policies import own_agent, own_file

        entry = resolve(self.model or self.game or game_name(self.env or ""))
        name = entry.card.game
        entry.card.check_game(self.game)
        if self.env is not None:
            rendered = self.render_obs or bool(entry.card.training.get("render_obs"))
            where: str | World = replace(self, render_obs=rendered)._where(entry.card.obs_shape[:2])
        else:
            if name not in games():
                raise _without_environment(name, entry.card.env)
            where = name
        agent = own_file(entry, self.device) or own_agent(load_world_model(entry, self.device))
        return where, {f"the agent of {entry.name}": agent}


def _without_environment(name: str, env: str) -> BadArgument:
    """Says how a world that is not one of the 26 games can be played, by the environment that a store or card names."""
    return BadArgument(f"{name} cannot be played here by its name alone: name its environment with {option_of(env)}")


def score_agents(agents: Mapping[str, Agent], game: str | World, episodes: int, **how: Any) -> dict[str, Scores]:
    """Scores agents by what they are called, one after the other; None is random play.

    Args:
        agents: Whom.
        game: One of the 26, the id of an environment, or a world.
        episodes: Full games of each.
        **how: More of `score_agent`'s arguments.
    """
    scores: dict[str, Scores] = {}
    with counting(
        f"playing {game.env if isinstance(game, World) else game}", len(agents) * episodes, "games"
    ) as advance:
        for name, agent in agents.items():
            scores[name] = score_agent(
                agent, game, episodes, progress=lambda games: advance(len(scores) * episodes + games), **how
            )
    return scores


def print_scores(scores: dict[str, Scores]) -> None:
    """Prints scores as a table, a row for each policy."""
    name = next(iter(scores.values())).game
    table = Table(title=f"{name}, full games")
    table.add_column("policy", overflow="fold")
    for column in ("games", "mean", "95 % interval", "std", "human-normalised"):
        table.add_column(column, justify="right", no_wrap=True)
    for policy, row in scores.items():
        interval = row.interval()
        between = "–" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
        figures = f"{row.mean:.2f}", between, "–" if row.std is None else f"{row.std:.2f}"
        normalised = "" if row.human_normalised is None else f"{row.human_normalised:.3f}"
        table.add_row(policy, f"{len(row.scores)}", *figures, normalised)
    print_table(table)
    console = Console()
    for policy, row in scores.items():
        if row.truncated:
            console.print(f"{policy}: {row.truncated} games did not end but were cut off at a step limit")
