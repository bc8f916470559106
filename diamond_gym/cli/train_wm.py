"""`diamond-gym train-wm`: a world model from a game's name alone."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from diamond_gym.cli.collect import TEST_SEED, PolicyName, experience
from diamond_gym.cli.numbers import check_least, check_positive, missing
from diamond_gym.cli.terminal import console, counting, fitting
from diamond_gym.data.episode_files import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.device import keep_memory, pick_device, pick_precision
from diamond_gym.registry import Entry, game, home_folder, resolve, save_model
from diamond_gym.registry.loading import read_model
from diamond_gym.registry.models import local_folder
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.fidelity import figures
from diamond_gym.trainers.loop import any_process, launch, train
from diamond_gym.trainers.plots import strip, write_png
from diamond_gym.trainers.presets import preset_flags, settled_preset
from diamond_gym.trainers.register import half, make_card
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.trainers.warm_start import begin_with
from diamond_gym.trainers.world_model import WorldModelConfig, WorldModelTrainer

HORIZON = 16
# what a resumed run may be told differently
_FREE = frozenset(
    {"steps", "minutes", "device", "precision", "compile", "name", "run", "data", "windows", "policy", "sampler"}
)


@dataclass(frozen=True)
class TrainWm:
    """Fits a world model to real play and registers it, so that gym.make dreams with it.

    Collects experience if there is too little yet. Repeating the command goes on where it stopped. On several devices
    or machines, which divide every batch: torchrun --nproc-per-node 2 -m diamond_gym -- train-wm ...
    """

    game: str = ""
    """One of the 26 Atari 100k games (diamond-gym list --games)."""
    preset: str = "auto"
    """paper, nano, auto (paper on a GPU, else nano) or a FILE.toml of options. Your options come on top."""
    steps: int = 10_000
    """Training steps in all, however often the run is stopped and resumed."""
    minutes: float | None = None
    """Stop after so many minutes, to go on another time."""
    collect_steps: int = 30_000
    """Real steps to train on; what is missing is collected first."""
    test_steps: int = 6_000
    """Real steps held out, to measure the model on."""
    policy: PolicyName = "auto"
    """Who plays what is collected (see diamond-gym collect --help). auto: scripted in Freeway, mixed elsewhere."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """The run's folder (default: <home>/runs/<game>-<preset>)."""
    data: Path | None = None
    """The recorded play (default: <home>/data/<game>). Held-out play lies beside it, in <data>-test."""
    name: str | None = None
    """The registered model's name (default: <game>-<preset>)."""
    init: str | None = None
    """Begin with the weights of this model, a name or a folder. It may get a longer memory, with
    --denoiser.inner-model.num-steps-conditioning 16 and num-actions-conditioning 4, as many as it has now."""
    windows: int = 500
    """Held-out windows of the final figures; 0 for none."""
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
    """How the registered model samples frames unless a user says otherwise."""
    fit: Annotated[WorldModelConfig, tyro.conf.arg(name="")] = field(default_factory=WorldModelConfig)

    def __post_init__(self) -> None:
        check_least(self, steps=1, collect_steps=100, test_steps=100, windows=0, seed=0)
        check_positive(self, "minutes")

    def check(self) -> None:
        """Refuses a game that is missing or unknown."""
        game(self.game or missing("which game: diamond-gym train-wm Pong"))

    @classmethod
    def defaults(cls, words: Sequence[str]) -> tuple[str, list[str]]:
        """The preset that is wanted, and its options."""
        preset = settled_preset(words)
        return preset, preset_flags(preset)

    def run(self) -> int:
        """Collects, fits, measures and registers; returns 0, or 130 where Ctrl-C stopped it."""
        label = f"{self.game.lower()}-{Path(self.preset).stem}"
        local_folder(self.name or label)  # a name that cannot be had is better told now than after hours
        folder = self.run_folder or home_folder() / "runs" / label
        fabric = launch(self.device)
        main = fabric.is_global_zero
        device = fabric.device or pick_device(self.device)
        precision = pick_precision(self.precision, device)
        if any_process(fabric, precision == "bfloat16"):  # what is measured may differ between them
            precision = "bfloat16"
        console.quiet = not main
        if self.dry_run:
            return self._plan(device, precision) if main else 0
        keep_memory()
        with RunFolder(folder, main=main) as run:
            data = self._data
            with fabric.rank_zero_first():
                store = experience(data, self.game, self.collect_steps, self.seed, self.policy)
                held_out = experience(
                    data.with_name(f"{data.name}-test"), self.game, self.test_steps, self.seed + TEST_SEED, self.policy
                )
            config = self._for_game(store.about)
            run.settle(self._settings(config), _FREE)
            fit = WorldModelTrainer(config, store, self.steps, self.seed, device, precision, self.compile, fabric)
            if (state := run.load()) is not None:
                fit.load_state_dict(state)
            elif self.init is not None:
                begin_with(fit, read_model(resolve(self.init))[1])
            params = {k: sum(p.numel() for p in v.parameters()) / 1e6 for k, v in fit.world_model.parts.items()}
            sizes = ", ".join(f"{k} {v:.2f} M" for k, v in params.items())
            console.print(f"{folder}: step {fit.step:,} of {self.steps:,} on {device} in {precision} ({sizes})")

            real = Rollouts.held_out(held_out, 3, config.denoiser.inner_model.num_steps_conditioning, HORIZON)

            def draw(step: int) -> None:
                dreamed = dream_rollouts(fit.averaged(), real, self.sampler)
                write_png(folder / "strips" / f"{step:07d}.png", strip(real, dreamed))

            with fitting(fit, self.minutes) as report:
                outcome = train(fit, run, self.minutes, None, report, draw if main else None, fabric)
            if not main:
                return 130 if outcome.reason == "interrupted" else 0
            draw(fit.step)
            if outcome.reason != "steps":
                console.print(f"stopped at step {fit.step:,} of {self.steps:,}; repeat the command to go on")
                return 130 if outcome.reason == "interrupted" else 0
            entry = self._register(fit, store, held_out, label, precision)
        console.print(f"registered {entry.name} in {entry.folder}")
        console.print(f'gym.make("DiamondDream-{self.game}-v0") dreams with it from now on')
        return 0

    def _settings(self, config: WorldModelConfig) -> dict[str, Any]:
        settings = {f.name: getattr(self, f.name) for f in fields(self)} | {"sampler": asdict(self.sampler)}
        settings = {
            k: str(v) if isinstance(v, Path) else v for k, v in settings.items() if k not in ("run_folder", "dry_run")
        }
        return settings | {"fit": asdict(config)}

    def _plan(self, device: torch.device, precision: str) -> int:
        from diamond_gym.cli.dry_run import measure, print_phases
        from diamond_gym.trainers.collect import about_game
        from diamond_gym.trainers.diamond import DiamondConfig

        about, folder = about_game(self.game), self._data
        to_play = 0
        for place, steps in ((folder, self.collect_steps), (folder.with_name(f"{folder.name}-test"), self.test_steps)):
            there = EpisodeStore(place).num_steps if (place / "store.json").exists() else 0
            to_play += max(0, steps - there)
        phases = measure(DiamondConfig(self.fit), about, None, (to_play, self.steps, 0), device, precision)
        print_phases(phases, f"{device} in {precision}")
        return 0

    @property
    def _data(self) -> Path:
        return self.data or home_folder() / "data" / self.game.lower()

    def _for_game(self, about: About) -> WorldModelConfig:
        """The configuration with the game's image size and actions filled in."""
        fit = self.fit
        inner = replace(fit.denoiser.inner_model, num_actions=about.num_actions, img_channels=about.frame_shape[2])
        reward_end = replace(
            fit.reward_end,
            num_actions=about.num_actions,
            img_channels=about.frame_shape[2],
            img_size=about.frame_shape[0],
        )
        return replace(fit, denoiser=replace(fit.denoiser, inner_model=inner), reward_end=reward_end)

    def _register(
        self, fit: WorldModelTrainer, store: EpisodeStore, held_out: EpisodeStore, label: str, precision: str
    ) -> Entry:
        t = fit.config.denoiser.inner_model.num_steps_conditioning
        model = fit.averaged()
        weights = half(model)
        model.load_weights(weights)  # measure what is stored
        measured = {}
        if self.windows:
            real = Rollouts.held_out(held_out, self.windows, t, HORIZON)
            with counting("measuring", self.windows * HORIZON, "frames") as advance:
                dreamed = dream_rollouts(model, real, self.sampler, progress=lambda n: advance(n, True))
            measured = figures(real, dreamed)
        training = {"preset": self.preset, "steps": fit.step, "precision": precision, "seed": self.seed}
        command = "diamond-gym " + shlex.join(["train-wm", "--game", self.game, "--preset", self.preset])
        card = make_card(self.name or label, store, fit.config, training, measured, command, self.sampler)
        return save_model(card, weights, draw_starts(store, t))
