"""`diamond-gym train-agent`: an agent that learns in dreams, scored in the real game."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diamond_gym.cli.collect import recorded_game, store_folder
from diamond_gym.cli.evaluate import print_scores, score_agents
from diamond_gym.cli.fits import sizes
from diamond_gym.cli.options import (
    check_files,
    check_horizon,
    check_least,
    check_positive,
    check_quality,
    given,
    image_size,
    missing,
)
from diamond_gym.cli.terminal import console, fitting
from diamond_gym.device import keep_memory, pick_device, pick_precision
from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, game, games, home_folder, resolve, update_card
from diamond_gym.registry.loading import read_model
from diamond_gym.sampler import SamplerConfig
from diamond_gym.schema import SamplerFields
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.aggregate import RANDOM
from diamond_gym.trainers.evaluate import Agent, Scores, real_games, score_agent, world_of
from diamond_gym.trainers.imagination import world_to_dream_in
from diamond_gym.trainers.loop import Rhythm, Trainer, train
from diamond_gym.trainers.presets import AGENT, last_value, preset_flags, settled_preset
from diamond_gym.trainers.register import register_agent
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.warm_start import begin_with_agent
from diamond_gym.trainers.worlds import World, game_name, option_of
from diamond_gym.two_stage import TwoStageSampler

# options that may differ when a run is resumed
_FREE = frozenset({"steps", "minutes", "device", "precision", "compile", "episodes", "score_minutes", "model"})
_GAMES = 10  # that score the agent on the way, if none do at the end
# which options say something to the one kind of algorithm alone
_SB3_ONLY = ("out", "register", "frame_stack", "real", "max_episode_steps")
_DIAMOND_ONLY = ("num_denoising_steps", "init", "score_minutes", "fit")


@dataclass(frozen=True)
class TrainAgent:
    """Trains an agent in dreams, saves it, and scores it in the real game beside a random policy.

    The agent is DIAMOND's, which is registered with the world model it learned in, or one of
    Stable-Baselines3's. Ctrl-C saves what there is, and repeating the command continues from there: by default a run
    is kept in <home>/runs. A second Ctrl-C stops at once; the run then continues from its last checkpoint.
    """

    game: str = ""
    """One of the 26 Atari 100k games (diamond-gym list --games)."""
    env: str | None = None
    """Or the id of the Gymnasium environment that a model of your own world dreams; the agent is scored in it."""
    data: str | None = None
    """Recordings to begin dreams from, instead of the model's own few starts: the name of a store in <home>/data, or a
    folder. They also determine which world is used."""
    size: str | None = None
    """With --env: size of the frames, one side or HEIGHTxWIDTH (default: the world model's)."""
    algo: Literal["diamond", "ppo", "a2c", "dqn", "sac"] = "diamond"
    """DIAMOND's actor-critic, for numbered actions, or one of Stable-Baselines3's algorithms: ppo and a2c for any
    actions, dqn for numbered ones, sac for numbers within bounds."""
    preset: str = "auto"
    """diamond: paper, nano, auto (paper on a GPU, else nano) or a FILE.toml of options. Your own take precedence."""
    model: str | None = None
    """The world model's name or folder, instead of the game's default model."""
    steps: int | None = None
    """Steps of training, over all dreams; rounded up to whole rollouts (default: the preset's; sb3: 100,000)."""
    n_envs: int | None = None
    """Dreams side by side (default: the preset's; sb3: 16)."""
    seed: int = 0
    """Seeds networks, dreams, actions, and the games that score the agent."""
    quality: str | None = None
    """fast, paper or fine; for models of two stages fast or quality (default: as the model's card says)."""
    minutes: float | None = None
    """Stop training after this many minutes."""
    episodes: int = 10
    """Full real games that score the agent; 0 for none."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """The run's folder (default: <home>/runs/<model>-agent-<preset>, or sb3: <model>-agent-<algo>)."""
    num_denoising_steps: int | None = None
    """diamond: denoising steps per frame (with two stages, per small frame), instead of those of the quality."""
    init: str | None = None
    """diamond: begin with the agent of this model (a name or a folder) instead of random weights."""
    score_minutes: float = 0.0
    """diamond: also score the agent in the real game every so many minutes of training; 0 for never."""
    precision: str = "auto"
    """Precision of the world model: auto (measured), float32 or bfloat16."""
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
    """sb3: steps after which a dream restarts; -1 for no limit. For DIAMOND's dreams it is --horizon."""
    fit: Annotated[AgentFitConfig, tyro.conf.arg(name="")] = field(default_factory=AgentFitConfig)

    def __post_init__(self) -> None:
        check_least(self, steps=1, n_envs=1, frame_stack=1, num_denoising_steps=1, seed=0, episodes=0, score_minutes=0)
        check_positive(self, "minutes")
        check_horizon(self, "max_episode_steps")

    def check(self) -> None:
        """Refuses a game that is missing or unknown, and options that do not go together."""
        if self.env is not None and self.game:
            raise BadArgument("--game and --env exclude each other")
        if self.env is None and self.size is not None:
            raise BadArgument("--size is for --env; the games are seen as in the paper")
        image_size(self.size, "--size")
        if self.real and self.data is not None:
            raise BadArgument("--real learns without dreams, and --data is where they begin: leave one out")
        if self.data is not None:
            object.__setattr__(self, "game", recorded_game(self.data, self.game or None, self.env))
        if not self.game and (self.model or self.env):
            known = game_name(self.env) if self.env is not None else resolve(self.model or "").card.game
            object.__setattr__(self, "game", known)
        if self.env is self.data is self.model is None:
            game(self.game or missing("which game: diamond-gym train-agent Pong"))
        if self.real and self.env is None:
            game(self.game)
        check_quality(self.quality)
        if self.real and self.model is not None:
            raise BadArgument("--real learns without a world model: leave out --model")
        if self.real and self.register:
            raise BadArgument("--register is for an agent that learned in dreams, so it does not go with --real")
        check_files(self, out=(".zip",))
        own, others = (_DIAMOND_ONLY, "diamond") if self.algo != "diamond" else (_SB3_ONLY, "ppo, a2c, dqn and sac")
        for name in given(self, *own):
            network = "a flag of the agent's network, loss or optimizer"
            flag = network if name == "fit" else f"--{name.replace('_', '-')}"
            raise BadArgument(f"{flag} is for --algo {others}, not for {self.algo}")

    @classmethod
    def defaults(cls, words: Sequence[str]) -> tuple[str, list[str]]:
        """The preset that is wanted, and its options; none for an agent of Stable-Baselines3."""
        if last_value(words, "--algo", "diamond") != "diamond":
            return "", []
        preset = settled_preset(words)
        return preset, preset_flags(preset, AGENT)

    def run(self) -> int:
        """Trains, saves and scores; returns 0, or 130 where Ctrl-C stopped the training."""
        keep_memory()
        command = self
        if self.env is None and self.game not in games():
            option = option_of(self._entry().card.env)
            advice = f"to score it, add {option}"
            console.print(f"the agent will not be scored in the real {self.game}: {advice}", soft_wrap=True)
            command = replace(self, episodes=0, score_minutes=0)
        elif self.episodes or self.score_minutes:  # a missing ALE is better reported now than after the training
            real_games(self._where, 1).close()
        return command._train_diamond() if self.algo == "diamond" else command._train_sb3()

    @cached_property
    def _where(self) -> str | World:
        """The game's name, or the world of the user's, that is played to score the agent."""
        if self.env is None:
            return self.game
        size = image_size(self.size, "--size")
        if self.real:
            return world_of(self.env, size)
        world_of(self.env)  # one that is unknown is said before a missing model
        card = self._entry().card
        return world_of(self.env, size or card.obs_shape[:2], bool(card.training.get("render_obs")))

    def _train(
        self, trainer: Trainer, run: RunFolder, unit: str, rhythm: Rhythm, check: Callable[[int], None] | None = None
    ) -> str:
        """Trains to the end or until it is stopped; returns why it ended."""
        with fitting(trainer, self.minutes) as report:
            reason = train(trainer, run, self.minutes, rhythm, report, check)
        if reason != "steps":
            console.print(f"stopped at {unit} {trainer.step:,} of {trainer.total_steps:,}; repeat the command to go on")
        return reason

    def _entry(self) -> Entry:
        """The world model to learn in."""
        entry = resolve(self.model or self.game)
        entry.card.check_game(self.game)
        return entry

    @property
    def _recordings(self) -> str | None:
        """The folder of the recordings that dreams begin from, however it is named."""
        return None if self.data is None else str(store_folder(self.data).absolute())

    def _score(self, name: str, agent: Agent) -> dict[str, Scores]:
        """Scores the agent and a random policy in the real game."""
        scores = score_agents({name: agent, RANDOM: None}, self._where, self.episodes, seed=self.seed)
        print_scores(scores)
        return scores

    def _train_diamond(self) -> int:
        """Trains DIAMOND's actor-critic, registers it with its model, and scores it; returns the exit code."""
        entry = self._entry()
        config = self.fit.for_model(entry)
        if self.n_envs is not None:
            config = replace(config, optimizer=replace(config.optimizer, batch_size=self.n_envs))
        folder = self.run_folder or home_folder() / "runs" / f"{entry.name}-agent-{Path(self.preset).stem}"
        device = pick_device(self.device)
        precision = pick_precision(self.precision, device)
        per_step = config.horizon * config.optimizer.batch_size
        assert self.steps is not None, "every preset says how many"
        steps = self.num_denoising_steps
        sampling: SamplerFields = {} if steps is None else {"num_denoising_steps": steps}
        model, sampler = world_to_dream_in(
            entry, device, precision, self.compile, self.quality, sampling, self._recordings
        )
        with RunFolder(folder) as run:
            run.settle(self._settings(config, sampler) | {"world_model": model.fingerprint}, _FREE)
            fit = ActorCriticTrainer(config, -(-self.steps // per_step), self.seed, device)
            state = run.load()
            if state is None and self.init is not None:
                begin_with_agent(fit, read_model(resolve(self.init))[1], self.init)
            fit.dream_in(model.dream(config.optimizer.batch_size, sampler=sampler, horizon=config.horizon), self.seed)
            if state is not None:
                with run.resuming():
                    fit.load_state_dict(state)
            stages = [sampler] if isinstance(sampler, SamplerConfig) else [sampler.dynamics, sampler.upsampler]
            denoising = " and ".join(str(stage.num_denoising_steps) for stage in stages)
            console.print(
                f"{folder}: window {fit.step:,} of {fit.total_steps:,}, each of {per_step} dreamed steps of "
                f"{entry.name}, {denoising} denoising steps, on {device} in {precision} "
                f"({sizes({'agent': fit.agent})})",
                soft_wrap=True,
            )

            def check(step: int) -> None:
                scores = score_agent(fit.agent, self._where, self.episodes or _GAMES, seed=self.seed)
                run.log(step, {"real/score": scores.mean})
                console.print(f"window {step:,}: {scores.mean:.2f} in {len(scores.scores)} real games")

            rhythm = Rhythm(log_steps=10, picture_seconds=60 * self.score_minutes)
            if self._train(fit, run, "window", rhythm, check if self.score_minutes else None) == "interrupted":
                return 130
        facts = {
            "algo": "diamond", "preset": self.preset, "steps": fit.step * per_step, "windows": fit.step,
            "sampler": asdict(sampler), "seed": self.seed, "loss": asdict(config.loss),
            "optimizer": asdict(config.optimizer), "horizon": config.horizon,
        }  # fmt: skip
        if self._recordings is not None:
            facts["data"] = Path(self._recordings).name
        entry = register_agent(entry, fit.agent, facts)
        console.print(f"registered the agent with {entry.name} in {entry.folder}", soft_wrap=True)
        if self.episodes:
            mine, random = self._score(entry.name, fit.agent).values()
            message = {"score": mine.mean, "score_std": mine.std, "episodes": self.episodes}
            message |= {"random_score": random.mean}
            facts |= {key: float(f"{value:.4g}") for key, value in message.items() if value is not None}
            update_card(entry, replace(entry.card, training={**entry.card.training, "agent": facts}))
        return 0

    def _settings(self, config: AgentFitConfig, sampler: SamplerConfig | TwoStageSampler) -> dict[str, Any]:
        left_out = ("run_folder", "out", "size")  # which do not change what is learnt
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return settings | {"fit": asdict(config), "sampler": asdict(sampler), "data": self._recordings}

    def _train_sb3(self) -> int:
        """Trains an agent of Stable-Baselines3, saves and scores it, and registers it if asked; returns the code."""
        from diamond_gym.trainers import sb3
        from diamond_gym.trainers.register import register_file
        from diamond_gym.trainers.sb3_files import open_agent

        same: dict[str, Any] = {f.name: getattr(self, f.name, None) for f in fields(sb3.AgentConfig)}
        same |= {"size": None, "render_obs": None, "data": self._recordings}
        if self.real and isinstance(self._where, World):
            same |= {"size": self._where.about.frame_shape[:2], "render_obs": self._where.render_obs or None}
        config = sb3.AgentConfig(**{name: value for name, value in same.items() if value is not None})
        world = f"{self.game.lower()}-real" if self.real else self._entry().name
        where = "the real game" if self.real else f"dreams of {world}"
        folder = self.run_folder or home_folder() / "runs" / f"{world}-agent-{self.algo}"
        out = self.out or home_folder() / "agents" / f"{self.game.lower()}-{self.algo}{'-real' * self.real}.zip"
        out.parent.mkdir(parents=True, exist_ok=True)  # better now than after hours
        with RunFolder(folder) as run, sb3.SB3Trainer(config, run) as trainer:
            console.print(
                f"{folder}: step {trainer.step:,} of {trainer.total_steps:,} of {self.algo.upper()} in {where}, "
                f"{config.n_envs} at a time, on {trainer.agent.device}",
                soft_wrap=True,
            )
            reason = self._train(trainer, run, "step", sb3.RHYTHM)
            trainer.save(out)
        console.print(f"saved {out} after {trainer.step:,} steps", soft_wrap=True)
        if trainer.recent_return is not None:
            console.print(f"mean return of its last episodes in {where}: {trainer.recent_return:.2f}")
        if reason == "interrupted":
            return 130
        if self.register:
            registered = register_file(self._entry(), out)
            console.print(f"registered the agent with {registered.name} in {registered.folder}", soft_wrap=True)
        if self.episodes:
            self._score(out.name, open_agent(out, self.device))
        return 0
