"""`diamond-gym train-agent`: an agent that learns in dreams, scored in the real game."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diamond_gym.errors import BadArgument
from diamond_gym.registry import game, home_folder
from diamond_gym.sampler import QUALITIES


@dataclass(frozen=True)
class TrainAgent:
    """Trains an agent in dreams, saves it, and scores it in the real game beside a random policy.

    The agent is one of Stable-Baselines3's. Ctrl-C saves what there is.
    """

    game: str
    """One of the 26 Atari 100k games (diamond-gym list --games)."""
    algo: Literal["ppo", "a2c", "dqn"] = "ppo"
    """Which of Stable-Baselines3's algorithms."""
    model: str | None = None
    """The world model's name or folder, instead of the one that the game's id means."""
    steps: int = 100_000
    """Steps of training, over all dreams; rounded up to whole rollouts."""
    n_envs: int = 16
    """Dreams side by side."""
    seed: int = 0
    """Seeds networks, dreams, actions, and the games that score the agent."""
    out: Path | None = None
    """The .zip to write (default: <home>/agents/<game>-<algo>.zip, or <game>-<algo>-real.zip with --real)."""
    frame_stack: int = 4
    """How many frames the agent sees at once."""
    real: bool = False
    """Learn in the real game instead, with rewards and ends as dreams have them, for comparison."""
    max_episode_steps: int = 50
    """Steps after which a dream begins anew; -1 dreams on."""
    quality: str | None = None
    """fast, paper or fine (default: as the model's card says)."""
    minutes: float | None = None
    """Stop training after so many minutes."""
    episodes: int = 10
    """Full real games that score the agent; 0 for none."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""

    def __post_init__(self) -> None:
        game(self.game)
        for name in ("steps", "n_envs", "frame_stack"):
            if getattr(self, name) < 1:
                raise BadArgument(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.max_episode_steps < 1 and self.max_episode_steps != -1:
            raise BadArgument(f"--max-episode-steps must be at least 1, or -1, not {self.max_episode_steps}")
        if self.seed < 0 or self.episodes < 0:
            raise BadArgument("--seed and --episodes must not be negative")
        if self.minutes is not None and not self.minutes > 0:
            raise BadArgument(f"--minutes must be more than 0, not {self.minutes}")
        if self.quality is not None and self.quality not in QUALITIES:
            raise BadArgument(f"--quality must be {', '.join(QUALITIES)}, not {self.quality}")
        if self.real and self.model is not None:
            raise BadArgument("--real learns without a world model: leave out --model")
        if self.out is not None and (self.out.suffix != ".zip" or self.out.is_dir()):
            raise BadArgument(f"--out must end in .zip, not {self.out}")

    def run(self) -> int:
        """Trains, saves and scores; returns 0, or 130 where Ctrl-C stopped the training."""
        from diamond_gym.cli.progress import console, counting
        from diamond_gym.trainers.sb3_agent import AgentConfig, train_agent
        from diamond_gym.trainers.scores import real_games

        if self.episodes:  # a missing ALE is better told now than after the training
            real_games(self.game, 1).close()
        config = AgentConfig(
            game=self.game,
            algo=self.algo,
            model=self.model,
            steps=self.steps,
            n_envs=self.n_envs,
            seed=self.seed,
            frame_stack=self.frame_stack,
            real=self.real,
            max_episode_steps=self.max_episode_steps,
            quality=self.quality,
            device=self.device,
        )
        where = "the real game" if self.real else "dreams"
        with counting(f"learning {self.game} in {where}", self.steps, "steps") as advance:
            out = self._out()
            training = train_agent(config, out, self.minutes, advance)
        console.print(f"saved {out} after {training.steps:,} steps", soft_wrap=True)
        if training.recent_return is not None:
            console.print(f"mean return of its last episodes in {where}: {training.recent_return:.2f}")
        if training.reason == "interrupted":
            return 130
        if self.episodes:
            self._score(out)
        return 0

    def _out(self) -> Path:
        name = f"{self.game.lower()}-{self.algo}{'-real' if self.real else ''}.zip"
        return self.out or home_folder() / "agents" / name

    def _score(self, out: Path) -> None:
        from diamond_gym.cli.evaluate import print_scores
        from diamond_gym.cli.progress import counting
        from diamond_gym.trainers.sb3_agent import open_agent, score_agent, score_random

        agent = open_agent(out, self.device)
        with counting(f"playing {self.game}", 2 * self.episodes, "games") as advance:
            scores = {out.name: score_agent(agent, self.game, self.episodes, seed=self.seed, progress=advance)}
            scores["random"] = score_random(
                self.game, self.episodes, seed=self.seed, progress=lambda n: advance(self.episodes + n)
            )
        print_scores(scores)
