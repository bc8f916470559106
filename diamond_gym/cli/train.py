"""`diamond-gym train`: DIAMOND's whole loop, from nothing to an agent, on an Atari game or an environment of yours."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from gymnasium.vector import AutoresetMode

from diamond_gym.cli.collect import WorldOptions, store_folder
from diamond_gym.cli.fits import launched, sizes
from diamond_gym.cli.options import check_least, check_positive, image_size
from diamond_gym.cli.terminal import EpochTable, Rates, console, counting, progress_line, showing
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.device import keep_memory
from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, home_folder, update_card
from diamond_gym.registry.models import local_folder
from diamond_gym.trainers.aggregate import SCORES, write_scores
from diamond_gym.trainers.diamond import DiamondTrainer, Learnt, Phase
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.evaluate import score
from diamond_gym.trainers.loop import Loop, Processes
from diamond_gym.trainers.plots import dream_film, real_film
from diamond_gym.trainers.presets import LOOP, command_line, preset_flags, settled_preset
from diamond_gym.trainers.register import register_run
from diamond_gym.trainers.run import RunFolder, mirror_to_wandb
from diamond_gym.trainers.world_model_config import settled
from diamond_gym.trainers.worlds import World

# options that may differ when a run is resumed
_FREE = frozenset({"minutes", "finish", "device", "precision", "compile", "videos_every", "wandb", "name"})
_ROWS = 10  # games side by side that score the agent
_NOT_SETTLED = ("run_folder", "dry_run", "loop")
_NO_DIFFERENCE = ("run", "minutes", "finish", "device", "compile", "videos-every", "wandb", "dry-run")


@dataclass(frozen=True)
class Train(WorldOptions):
    """Plays, fits a world model, trains an agent in its dreams, and repeats: DIAMOND's whole loop.

    At the end the agent is scored in whole games, and registered together with the world model. Repeating the
    command continues where it stopped; a run that was killed loses two minutes at most.
    """

    data: str | None = None
    """Begin with recorded play, which counts towards the real steps: the name of a store in <home>/data, or a folder.
    With --data alone nothing is played, and the loop learns from these recordings."""
    preset: str = "auto"
    """paper, nano, smoke (takes minutes, learns nothing), auto (paper on a GPU, else nano) or a FILE.toml of options.
    Your own options take precedence."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """The run's folder (default: <home>/runs/<world>-diamond-<preset>)."""
    name: str | None = None
    """The registered model's name (default: <world>-diamond-<preset>; a smoke run is registered only with a name)."""
    minutes: float | None = None
    """Stop after this many minutes; the run can be resumed."""
    finish: bool = False
    """Train no further: register and score what the run has learnt so far."""
    seed: int = 0
    """Seeds everything."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: str = "auto"
    """Precision of the world model: auto (measured), float32 or bfloat16."""
    compile: bool = False
    """Compile the world model."""
    videos_every: int = 10
    """Epochs between videos of dreams and of real play, in the run's folder; 0 for none."""
    wandb: bool = False
    """Also log to Weights & Biases."""
    dry_run: bool = False
    """Only measure and print how long the run would take here."""
    loop: Annotated[DiamondConfig, tyro.conf.arg(name="")] = field(default_factory=DiamondConfig)

    def __post_init__(self) -> None:
        check_least(self, seed=0, videos_every=0)
        image_size(self.size, "--size", least=8)
        if self.loop.fit.upsampler.factor is not None:
            raise BadArgument("the whole loop fits one stage: diamond-gym train-wm fits two (--fit.upsampler.factor)")
        check_positive(self, "minutes")

    def check(self) -> None:
        """Refuses options that do not say which world it is, or do not fit it."""
        self.check_world("what to learn: diamond-gym train Breakout")

    @classmethod
    def defaults(cls, words: Sequence[str]) -> tuple[str, list[str]]:
        """The preset that is wanted, and its options."""
        preset = settled_preset(words)
        return preset, preset_flags(preset, LOOP)

    def run(self) -> int:
        """Trains, scores and registers; returns 0, or 130 where Ctrl-C stopped it."""
        world = self.world()
        self.loop.for_game(world.about)  # options that do not fit the world are refused before anything is made
        fabric, device, precision = launched(self.device, self.precision)
        main = fabric.is_global_zero
        if self.dry_run:
            return self._plan(world, device, precision) if main else 0
        label = f"{world.name.lower()}-diamond-{Path(self.preset).stem}"
        if self._registers:
            local_folder(self.name or label)  # a name that cannot be had is better refused now than after hours
        folder = self.run_folder or home_folder() / "runs" / label
        if self.data is not None and folder.resolve() in store_folder(self.data).resolve().parents:
            raise BadArgument(f"--data {self.data} is what the run in {folder} has played: name another --run")
        keep_memory()
        with RunFolder(folder, main=main) as run:
            run.settle(self._settings(), _FREE)
            if self.wandb and main:
                mirror_to_wandb(run.path, {**asdict(self.loop), "game": world.name, "seed": self.seed})
            envs = world.envs(self.loop.num_envs) if world.env and main else None
            data = None if self.data is None else EpisodeStore(store_folder(self.data))
            loop = self.loop
            if not world.env and loop.fit.age_weights is None:  # recordings alone do not get better
                loop = replace(loop, fit=replace(loop.fit, age_weights=(1.0,)))
            training = DiamondTrainer(
                loop, run, world.about, envs, self.seed, device, precision, fabric, self.compile,
                world.envs if world.env else None, data,
            )  # fmt: skip
            with closing(training):
                networks = training.world_model.world_model.parts | {"agent": training.agent.agent}
                where = f"{world.name}, epoch {training.epoch:,} of {self.loop.epochs:,} on {device} in {precision}"
                console.print(f"{folder}: {where} ({sizes(networks)})", soft_wrap=True)
                if self.finish and training.epoch == 0:
                    raise BadArgument(f"there is no finished epoch in {folder} to register: leave out --finish")
                if not self.finish and (reason := self._epochs(training, world, fabric)):
                    return 130 if reason == "interrupted" else 0
                if main:
                    learnt = training.learnt()
                    entry = self._register(training, learnt, world, label)
                    if training.config.final_episodes and world.env:
                        self._score(training, learnt, world, entry)
        return 0

    @property
    def _registers(self) -> bool:
        """Whether the model goes into the registry; that of a smoke run, which has learnt nothing, needs --name."""
        return self.name is not None or self.preset != "smoke"

    def _settings(self) -> dict[str, Any]:
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_SETTLED}
        loop = asdict(self.loop)
        settings |= {"render_obs": self.render_obs or None, "size": self.settled_size}
        return settings | {"loop": {**loop, "fit": settled(loop["fit"])}}

    def _plan(self, world: World, device: torch.device, precision: str) -> int:
        from diamond_gym.cli.dry_run import measure, print_phases

        amounts = (self.loop.real_steps, *self.loop.updates(self.loop.epochs))
        phases = measure(self.loop, world, amounts, self.loop.num_envs, device, precision)
        print_phases(phases, f"{device} in {precision}")
        return 0

    def _epochs(self, training: DiamondTrainer, world: World, fabric: Processes) -> str:
        """Trains to the end or until it is stopped, and says so; returns what stopped it, or ""."""
        done = training.store.num_steps, training.world_model.step, training.agent.step
        figures: dict[str, float] | None = {}
        rates, table = Rates(training.config, training.epoch, done), EpochTable()
        looping = Loop(training.save, self.minutes, fabric=fabric)
        with looping as loop, showing("epochs", training.config.epochs, training.epoch) as bar:

            def progress(phase: Phase, done: int) -> None:
                what, epochs = rates.progress(phase, done), training.config.epochs
                line = progress_line(training.epoch + 1, epochs, what, rates.left())
                bar(training.epoch, line.replace(": ", "\n").replace("; ", "\n"), line)

            while training.epoch < training.config.epochs and not loop.stopped:
                rates.begin()
                if (figures := training.train_epoch(loop, progress)) is None:
                    break
                figures |= (speeds := rates.end())
                training.run.log(training.epoch, speeds)
                console.print(table.line(training.epoch, figures, rates.left()), soft_wrap=True, highlight=False)
                if fabric.is_global_zero and self.videos_every and training.epoch % self.videos_every == 0:
                    _film(training, world)
                loop.agree()  # the test and the films took a while, and so will scoring
        if loop.stopped:
            where = f"epoch {training.epoch:,} of {training.config.epochs:,} done"
            where += " and the next one begun" if figures is None else ""
            further = "go on" if training.epoch < training.config.epochs else "register and score what it has learnt"
            console.print(f"stopped with {where}; repeat the command to {further}", soft_wrap=True)
        return loop.stopped

    def _register(self, training: DiamondTrainer, learnt: Learnt, world: World, label: str) -> Entry:
        """Registers world model and agent; of a smoke run it only writes them into the run's folder."""
        command = command_line("train", self, LOOP, _NO_DIFFERENCE)
        if learnt.score is not None:
            console.print(f"epoch {learnt.counts['epochs']:,} had the best test score, {learnt.score:.2f}")
        folder = None if self._registers else training.run.path / "model"
        entry = register_run(training, learnt, self.name or label, self.preset, command, world.origin, folder)
        console.print(f"{'registered' if self._registers else 'wrote'} {entry.name} in {entry.folder}", soft_wrap=True)
        if self._registers:
            console.print(f'gym.make("DiamondDream-{entry.card.game}-v0") dreams with it from now on')
        else:
            console.print("a smoke run has learnt nothing, so it is not registered; with --name it would be")
        return entry

    def _score(self, training: DiamondTrainer, learnt: Learnt, world: World, entry: Entry) -> None:
        """Scores the agent in whole games, for the run's folder and the card."""
        games, run = training.config.final_episodes, training.run
        with (
            closing(world.envs(min(_ROWS, games), AutoresetMode.SAME_STEP)) as envs,
            counting(f"playing {world.name}", games, "games") as advance,
        ):
            scores = score(learnt.agent, envs, world.name, games, self.seed, progress=advance)
        interval = scores.interval()
        between = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
        console.print(f"{scores.mean:.2f}{between} in {len(scores.scores)} whole games at the end")
        run.log(training.epoch, {"final/score": scores.mean, "final/episodes": float(len(scores.scores))})
        if world.is_atari:
            write_scores(run.path / SCORES, {"diamond": scores})
            console.print(f"human-normalised {scores.human_normalised:.3f}")
        agent = entry.card.training["agent"] | {"score": scores.mean, "episodes": len(scores.scores)}
        update_card(entry, replace(entry.card, training={**entry.card.training, "agent": agent}))


def _film(training: DiamondTrainer, world: World) -> None:
    """Writes what the agent sees in dreams by now, and in the real game."""
    from diamond_gym.frames import write_video

    folder = training.run.path / "videos"
    folder.mkdir(exist_ok=True)
    films = {"dream": dream_film(training)}
    if world.env:
        films["real"] = real_film(world, training.agent.agent, training.epoch)
    for name, frames in films.items():
        write_video(folder / f"epoch-{training.epoch:04d}-{name}.mp4", frames, 15)
