"""`diamond-gym train-wm`: a world model of a game, of an environment of the user's, or of recordings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import tyro

from diamond_gym import cli
from diamond_gym.cli.collect import PolicyName, WorldOptions
from diamond_gym.cli.fits import (
    HORIZON,
    both_stores,
    fit_with_strips,
    lacking_steps,
    launched,
    recorded_stores,
    sizes,
)
from diamond_gym.cli.options import check_least, check_positive, image_size
from diamond_gym.cli.terminal import console, counting
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.device import keep_memory
from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, home_folder, resolve
from diamond_gym.registry.loading import read_model
from diamond_gym.registry.models import local_folder
from diamond_gym.sampler import SamplerConfig, check_sampler
from diamond_gym.trainers.presets import WORLD_MODEL, command_line, last_value, preset_flags, settled_preset
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.world_model_config import WorldModelConfig, settled

if TYPE_CHECKING:
    from diamond_gym.trainers.rollouts import Rollouts
    from diamond_gym.trainers.world_model import WorldModelTrainer
    from diamond_gym.trainers.worlds import World

# options that may differ when a run is resumed
_FREE = frozenset(
    {"steps", "minutes", "device", "precision", "compile", "name", "run", "data", "windows", "policy", "sampler"}
)

_NO_DIFFERENCE = ("run", "minutes", "device", "compile", "dry-run")


@dataclass(frozen=True)
class TrainWm(WorldOptions):
    """Fits a world model to real play and registers it, so that gym.make dreams with it.

    Collects experience if there is too little yet; with --data alone it uses what there is. Repeating the command
    continues where it stopped. To divide every batch between several devices or machines:
    torchrun --nproc-per-node 2 -m diamond_gym -- train-wm ...
    """

    data: str | None = None
    """Recorded play: the name of a store in <home>/data, or a folder (default: the store of the world's name).
    Held-out play lies beside it, in <data>-test (for <name>-train in <name>-test)."""
    preset: str = "auto"
    """paper, nano, auto (paper on a GPU, else nano), csgo and two-stage-nano (two stages, for larger frames) or a
    FILE.toml of options. Your own options take precedence."""
    low_size: str | None = None
    """With two stages: size of the small frames, HEIGHTxWIDTH, instead of --upsampler.factor."""
    objective: Literal["edm", "ddpm", "flow"] | None = None
    """What the denoiser learns to predict: edm (the paper's, the default), ddpm (noise, without preconditioning) or
    flow (the velocity of a rectified flow). The last two set what has to differ; your own options take precedence."""
    steps: int = 10_000
    """Total number of training steps, however often the run is stopped and resumed."""
    minutes: float | None = None
    """Stop after this many minutes; the run can be resumed."""
    collect_steps: int = 30_000
    """Real steps to train on; what is missing is collected first."""
    test_steps: int = 6_000
    """Real steps held out, to measure the model on."""
    policy: PolicyName = "auto"
    """Who plays the steps to collect (see diamond-gym collect --help). auto: scripted in Freeway, mixed elsewhere."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """The run's folder (default: <home>/runs/<world>-<preset>)."""
    name: str | None = None
    """The registered model's name (default: <world>-<preset>)."""
    init: str | None = None
    """Begin with the weights of this model, a name or a folder. Its memory may be extended, with
    --denoiser.inner-model.num-steps-conditioning 16 and num-actions-conditioning 4, as many actions as it sees now."""
    windows: int = 500
    """Held-out windows for the final figures; 0 for none."""
    seed: int = 0
    """Seed of collection, weights, noise and batches."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: str = "auto"
    """auto (measured), float32 or bfloat16."""
    compile: bool = False
    """Compile the networks."""
    dry_run: bool = False
    """Only measure and print how long the training would take here."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How the registered model samples frames by default."""
    fit: Annotated[WorldModelConfig, tyro.conf.arg(name="")] = field(default_factory=WorldModelConfig)

    def __post_init__(self) -> None:
        check_least(self, steps=1, collect_steps=100, test_steps=100, windows=0, seed=0)
        check_positive(self, "minutes")

    def check(self) -> None:
        """Refuses a world that is missing or unknown."""
        self.check_world("which game: diamond-gym train-wm Pong")
        learns = self.fit.denoiser.objective or "edm"
        if self.objective not in (None, learns):
            raise BadArgument(f"--objective {self.objective} and --denoiser.objective {learns} contradict each other")
        check_sampler(self.sampler, learns)

    @classmethod
    def defaults(cls, words: Sequence[str]) -> tuple[str, list[str]]:
        """The preset that is wanted, and its options."""
        preset = settled_preset(words)
        return preset, preset_flags(preset, objective=last_value(words, "--objective", "edm"))

    def run(self) -> int:
        """Collects, fits, measures and registers; returns 0, or 130 where Ctrl-C stopped it."""
        from diamond_gym.trainers.rollouts import dream_rollouts
        from diamond_gym.trainers.two_stage import trainer_of

        world = self.world()
        config = self._for_world(world)
        label = f"{world.name.lower() if self.plays else self.store(world).name}-{Path(self.preset).stem}"
        label += f"-{self.objective}" if self.objective not in (None, "edm") else ""
        local_folder(self.name or label)  # a name that cannot be had is better refused now than after hours
        began_with = None if self.init is None else resolve(self.init)
        folder = self.run_folder or home_folder() / "runs" / label
        fabric, device, precision = launched(self.device, self.precision)
        main = fabric.is_global_zero
        if self.dry_run:
            return self._plan(world, config, device, precision) if main else 0
        keep_memory()
        with RunFolder(folder, main=main) as run:
            with fabric.rank_zero_first():
                store, held_out = self._experience(world)
            run.settle(self._settings(config), _FREE)
            made = config, store, self.steps, self.seed, device, precision, self.compile, fabric
            fit = trainer_of(config)(*made)
            if (state := run.load()) is not None:
                with run.resuming():
                    fit.load_state_dict(state)
            elif began_with is not None:
                from diamond_gym.trainers.warm_start import begin_with

                begin_with(fit, read_model(began_with)[1])
            networks = sizes(fit.world_model.parts)
            console.print(f"{folder}: step {fit.step:,} of {self.steps:,} on {device} in {precision} ({networks})")

            def dream(real: "Rollouts") -> "Rollouts":
                return dream_rollouts(fit.averaged(), real, self.sampler)

            t = config.denoiser.inner_model.num_steps_conditioning
            status = fit_with_strips(fit, run, self.minutes, held_out or store, t, dream, fabric)
            if status is not None:
                return status
            entry = self._register(fit, world, store, held_out, began_with, label, precision)
        console.print(f"registered {entry.name} in {entry.folder}")
        console.print(f'gym.make("DiamondDream-{world.name}-v0") dreams with it from now on')
        return 0

    def _experience(self, world: "World") -> tuple[EpisodeStore, EpisodeStore | None]:
        """What to learn from, and what is held out; recordings alone are taken as they are, held out or not."""
        folder = self.store(world)
        if self.plays:
            return both_stores(folder, world, (self.collect_steps, self.test_steps), self.seed, self.policy)
        return recorded_stores(folder, world)

    def _settings(self, config: WorldModelConfig) -> dict[str, Any]:
        left_out = ("run_folder", "dry_run")
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        settings |= {"render_obs": self.render_obs or None, "size": self.settled_size}
        return settings | {"sampler": asdict(self.sampler), "fit": settled(asdict(config))}

    def _plan(self, world: "World", config: WorldModelConfig, device: torch.device, precision: str) -> int:
        from diamond_gym.cli.dry_run import measure, print_phases
        from diamond_gym.trainers.diamond_config import DiamondConfig

        wanted = self.collect_steps, self.test_steps
        to_play = lacking_steps(self.store(world), wanted) if self.plays else 0
        phases = measure(DiamondConfig(config), world, (to_play, self.steps, 0), 16, device, precision)
        print_phases(phases, f"{device} in {precision}")
        return 0

    def _for_world(self, world: "World") -> WorldModelConfig:
        """The configuration with the world's image size and actions filled in, and what its recordings know."""
        from diamond_gym.trainers.worlds import check_learnable, knows_outcomes

        about = world.about
        check_learnable(about)
        fit = self._stages(about.frame_shape[:2]).for_frames(about.frame_shape, world.codec.num_inputs)
        if self.plays or knows_outcomes(EpisodeStore(self.store(world))):
            return fit
        if not fit.without_rewards:
            console.print("no rewards or ends were recorded: the model learns neither, and its dreams give reward 0")
        return replace(fit, without_rewards=True)

    def _stages(self, size: tuple[int, int]) -> WorldModelConfig:
        """The configuration for frames of a size, with --low-size as a factor."""
        two = self.fit.upsampler
        if two.factor is None and self.low_size is not None:
            raise BadArgument("--low-size is for two stages: --preset two-stage-nano or csgo")
        if two.factor is not None and self.game is not None:
            raise BadArgument(
                f"frames of {self.game} have {size[0]}x{size[1]} pixels, small enough for one stage: "
                "two stages are for larger ones; use --preset nano or paper"
            )
        if (low := image_size(self.low_size, "--low-size")) is not None:
            two = two.with_low_size(low, size)
        return replace(self.fit, upsampler=two)

    def _register(
        self,
        fit: "WorldModelTrainer",
        world: "World",
        store: EpisodeStore,
        held_out: EpisodeStore | None,
        began_with: Entry | None,
        label: str,
        precision: str,
    ) -> Entry:
        from diamond_gym.registry.saving import save_model
        from diamond_gym.trainers.measuring import closed_loop
        from diamond_gym.trainers.register import half, make_card
        from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts, horizon_within
        from diamond_gym.trainers.start_states import starts_for

        t = fit.config.denoiser.inner_model.num_steps_conditioning
        model = fit.averaged()
        weights = half(model)
        model.load_weights(weights)  # measure what is stored
        measured: dict[str, Any] = {}
        if self.windows and held_out is not None:
            horizon = horizon_within(held_out, t, HORIZON)
            real = Rollouts.held_out(held_out, self.windows, t, horizon)
            with counting("measuring", self.windows * horizon, "frames") as advance:
                dreamed = dream_rollouts(model, real, self.sampler, progress=lambda n: advance(n, more=True))
            measured = closed_loop(real, dreamed)
        training: dict[str, Any] = {"preset": self.preset, "steps": fit.step, "precision": precision, "seed": self.seed}
        training |= {"render_obs": True} if self.render_obs else {}
        command = command_line("train-wm", self, WORLD_MODEL, _NO_DIFFERENCE)
        card = make_card(
            self.name or label, store, fit.config, training, measured, command, self.sampler, world.origin, began_with
        )
        return save_model(card, weights, starts_for(model, store))


def by_preset(preset: str, *words: str) -> TrainWm:
    """The command that `train-wm --preset` with these further options is, for whoever fits by it in another way."""
    command: TrainWm = cli._parse(TrainWm, "train-wm", ["--data", "any", "--preset", preset, *words])
    return command
