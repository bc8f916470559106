"""`diamond-gym train-agent`: an agent that learns in dreams, scored in the real game."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from diamond_gym.errors import BadArgument
from diamond_gym.registry import game
from diamond_gym.sampler import QUALITIES
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.presets import AGENT, preset_flags, settled_preset

# which options say something to the one kind of algorithm alone
_SB3_ONLY = ("out", "register", "frame_stack", "real", "max_episode_steps")
_DIAMOND_ONLY = ("num_denoising_steps", "init", "score_minutes", "fit")


@dataclass(frozen=True)
class TrainAgent:
    """Trains an agent in dreams, saves it, and scores it in the real game beside a random policy.

    The agent is DIAMOND's, which is registered with the world model it learned in, or one of
    Stable-Baselines3's. Ctrl-C keeps what there is, and repeating the command goes on: by default a run is kept in
    <home>/runs. A second Ctrl-C stops at once, and the run goes on from its last checkpoint.
    """

    game: str
    """One of the 26 Atari 100k games (diamond-gym list --games)."""
    algo: Literal["diamond", "ppo", "a2c", "dqn"] = "diamond"
    """DIAMOND's actor-critic, or one of Stable-Baselines3's algorithms."""
    preset: str = "auto"
    """diamond: a set of the flags below: paper, nano, or auto (paper on a CUDA device, else nano)."""
    model: str | None = None
    """The world model's name or folder, instead of the one that the game's id means."""
    steps: int | None = None
    """Steps of training, over all dreams; rounded up to whole rollouts (default: the preset's; sb3: 100,000)."""
    n_envs: int | None = None
    """Dreams side by side (default: the preset's; sb3: 16)."""
    seed: int = 0
    """Seeds networks, dreams, actions, and the games that score the agent."""
    quality: str | None = None
    """fast, paper or fine, of models of two stages fast or quality (default: as the model's card says)."""
    minutes: float | None = None
    """Stop training after so many minutes."""
    episodes: int = 10
    """Full real games that score the agent; 0 for none."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """The run's folder (default: <home>/runs/<model>-agent-<preset>, or sb3: <model>-agent-<algo>)."""
    num_denoising_steps: int | None = None
    """diamond: steps of the sampler per frame, over those of the quality."""
    init: str | None = None
    """diamond: begin with the agent of this model (a name or a folder) instead of random weights."""
    score_minutes: float = 0.0
    """diamond: score the agent in the real game so often while it is trained, too; 0 for never."""
    precision: str = "auto"
    """Of the world model: auto (measured), float32 or bfloat16."""
    compile: bool = False
    """Compile the world model: seconds at first on x86 CPUs, else a minute or two."""
    out: Path | None = None
    """sb3: the .zip to write (default: <home>/agents/<game>-<algo>.zip, or <game>-<algo>-real.zip with --real)."""
    register: bool = False
    """sb3: also register the agent with the world model it learned in, as its own agent."""
    frame_stack: int = 4
    """sb3: how many frames the agent sees at once."""
    real: bool = False
    """sb3: learn in the real game instead, with rewards and ends as dreams have them, for comparison."""
    max_episode_steps: int = 50
    """sb3: steps after which a dream begins anew; -1 dreams on. DIAMOND's dreams have --horizon."""
    fit: Annotated[AgentFitConfig, tyro.conf.arg(name="")] = field(default_factory=AgentFitConfig)

    def __post_init__(self) -> None:
        game(self.game)
        self._check_numbers()
        if self.quality not in (None, *QUALITIES, "quality"):  # which of them the model has, is seen once it is there
            raise BadArgument(
                f"--quality must be {', '.join(QUALITIES)} or (of two stages) quality, not {self.quality}"
            )
        if self.real and self.model is not None:
            raise BadArgument("--real learns without a world model: leave out --model")
        if self.real and self.register:
            raise BadArgument("--register is for an agent that learned in dreams: leave it out, or --real")
        if self.out is not None and (self.out.suffix != ".zip" or self.out.is_dir()):
            raise BadArgument(f"--out must end in .zip, not {self.out}")
        own, others = (_DIAMOND_ONLY, "diamond") if self.algo != "diamond" else (_SB3_ONLY, "ppo, a2c and dqn")
        defaults = {f.name: f.default for f in fields(self)} | {"fit": AgentFitConfig()}
        for name in own:
            if getattr(self, name) != defaults[name]:
                network = "a flag of the agent's network, loss or optimizer"
                flag = network if name == "fit" else f"--{name.replace('_', '-')}"
                raise BadArgument(f"{flag} is for --algo {others}, not for {self.algo}")

    def _check_numbers(self) -> None:
        for name in ("steps", "n_envs", "frame_stack", "num_denoising_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadArgument(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.fit.horizon < 1 or self.fit.optimizer.batch_size < 1:
            raise BadArgument("--horizon and --optimizer.batch-size must be at least 1")
        if self.max_episode_steps < 1 and self.max_episode_steps != -1:
            raise BadArgument(f"--max-episode-steps must be at least 1, or -1, not {self.max_episode_steps}")
        if self.seed < 0 or self.episodes < 0:
            raise BadArgument("--seed and --episodes must not be negative")
        if not self.score_minutes >= 0:
            raise BadArgument(f"--score-minutes must not be negative, got {self.score_minutes}")
        if self.minutes is not None and not self.minutes > 0:
            raise BadArgument(f"--minutes must be more than 0, not {self.minutes}")

    @classmethod
    def arguments(cls, words: Sequence[str]) -> list[str]:
        """Puts the preset's flags before the user's, where the agent is DIAMOND's."""
        words = list(words)
        algos = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--algo"]
        algos += [word.removeprefix("--algo=") for word in words if word.startswith("--algo=")]
        if "-h" in words or "--help" in words or (algos and algos[-1] != "diamond"):
            return words
        preset = settled_preset(words)
        return [*preset_flags(preset, AGENT), *words, "--preset", preset]

    def run(self) -> int:
        """Trains, saves and scores; returns 0, or 130 where Ctrl-C stopped the training."""
        from diamond_gym.trainers.evaluate import real_games

        if self.episodes or self.score_minutes:  # a missing ALE is better told now than after the training
            real_games(self.game, 1).close()
        if self.algo == "diamond":
            from diamond_gym.cli.train_dreamer import train_dreamer

            return train_dreamer(self)
        from diamond_gym.cli.train_sb3 import train_sb3

        return train_sb3(self)
