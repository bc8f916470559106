"""`diamond-gym distill`: a model that dreams in one denoising step what another one dreams in several."""

import math
import shlex
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from diamond_gym.cli.collect import PolicyName, dreamed_world, store_folder
from diamond_gym.cli.fits import HORIZON, both_stores, fit_with_strips, lacking_steps, launched, recorded_stores
from diamond_gym.cli.options import check_least, check_positive
from diamond_gym.cli.terminal import console, counting, print_table
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.device import keep_memory
from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, home_folder, load_world_model, resolve, save_model
from diamond_gym.registry.loading import Precision
from diamond_gym.registry.models import local_folder
from diamond_gym.trainers.distill import DistillConfig, DistillTrainer, check_can_teach
from diamond_gym.trainers.presets import plain_command_line
from diamond_gym.trainers.register import half
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts, horizon_within
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.student import compare, student_card
from diamond_gym.trainers.worlds import World, check_learnable
from diamond_gym.world_model import WorldModel

# options that a resumed run may change
_FREE = frozenset({"steps", "minutes", "device", "precision", "data", "windows", "policy"})
_NO_DIFFERENCE = ("name", "run", "minutes", "device", "dry-run")
_SIDES = "student", "teacher", "teacher_in_one_step"
_ROWS = ("mse_over_copy_1", "mse_over_copy_4", "mse_over_copy_16", "reward_f1", "frames_per_second")


@dataclass(frozen=True)
class Distill:
    """Fits a student to a model, its teacher, and registers it: it dreams in one step what the teacher does in several.

    The student begins with the teacher's weights and keeps the teacher's rewards, ends and starts. Real play, collected
    if there is too little yet, provides the starts and actions of the dreams; frames are learned from the teacher
    alone. Repeating the command continues where it stopped. In the end both models dream the held-out play again.
    """

    name: tyro.conf.Positional[str]
    """The teacher: a model's name or folder, or a game's name."""
    env: str | None = None
    """Id of the environment to collect play from, if the model dreams a world of your own."""
    render_obs: bool = False
    """With --env: use its rendered picture as the observation."""
    data: str | None = None
    """Recorded play: the name of a store in <home>/data, or a folder (default: the store of the world's name)."""
    steps: int = 2_000
    """Total number of updates, however often the run is stopped and resumed."""
    minutes: float | None = None
    """Stop after this many minutes; the run can be resumed."""
    collect_steps: int = 30_000
    """Real steps to dream from; what is missing is collected first."""
    test_steps: int = 6_000
    """Real steps held out, to measure both models on."""
    policy: PolicyName = "auto"
    """Who plays the steps to collect (see diamond-gym collect --help). auto: scripted in Freeway, mixed elsewhere."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """The run's folder (default: <home>/runs/<student>)."""
    student: str | None = None
    """The registered student's name (default: <teacher>-1step)."""
    windows: int = 500
    """Held-out windows for the final figures; 0 for none."""
    seed: int = 0
    """Seed of collection, noise and batches."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Precision = "auto"
    """auto (measured), float32 or bfloat16."""
    dry_run: bool = False
    """Only measure and print how long it would take here."""
    fit: Annotated[DistillConfig, tyro.conf.arg(name="")] = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        check_least(self, steps=1, collect_steps=100, test_steps=100, windows=0, seed=0)
        check_positive(self, "minutes")
        if self.env is None and self.render_obs:
            raise BadArgument("--render-obs is for --env")
        if self.data is not None:
            store_folder(self.data)

    def run(self) -> int:
        """Collects, fits, measures and registers; returns 0, or 130 where Ctrl-C stopped it."""
        entry = resolve(self.name)
        card = entry.card
        check_can_teach(card)
        world = dreamed_world(card, self.env, self.render_obs)
        check_learnable(world.about)
        name = self.student or f"{entry.name}-1step"
        local_folder(name)  # a name that cannot be had is better refused now than after hours
        if name == entry.name:
            raise BadArgument(f"--student is {name}, the teacher's own name: the student would replace it")
        folder = self.run_folder or home_folder() / "runs" / name
        fabric, device, precision = launched(self.device, self.precision)
        main = fabric.is_global_zero
        teacher = load_world_model(entry, str(device), precision)
        if self.dry_run:
            return self._plan(world, teacher) if main else 0
        keep_memory()
        with RunFolder(folder, main=main) as run:
            with fabric.rank_zero_first():
                store, held_out = self._experience(world)
            run.settle(self._settings(entry), _FREE)
            fit = DistillTrainer(self.fit, teacher, store, self.steps, self.seed, fabric)
            if (state := run.load()) is not None:
                with run.resuming():
                    fit.load_state_dict(state)
            console.print(f"{folder}: step {fit.step:,} of {self.steps:,} on {device} in {precision}")

            def dream(real: Rollouts) -> Rollouts:
                return dream_rollouts(fit.averaged(teacher), real, self.fit.student)

            t = fit.student.num_steps_conditioning
            status = fit_with_strips(fit, run, self.minutes, held_out or store, t, dream, fabric)
            if status is not None:
                return status
            registered = self._register(fit, teacher, entry, world, store, held_out, name)
        console.print(f"registered {registered.name} in {registered.folder}")
        console.print(f'gym.make("DiamondDream-{world.name}-v0") dreams with it from now on')
        return 0

    def _store(self, world: World) -> Path:
        return home_folder() / "data" / world.name.lower() if self.data is None else store_folder(self.data)

    def _experience(self, world: World) -> tuple[EpisodeStore, EpisodeStore | None]:
        """Where dreams begin, and what is held out; recordings alone are taken as they are, held out or not."""
        folder = self._store(world)
        if world.env:
            return both_stores(folder, world, (self.collect_steps, self.test_steps), self.seed, self.policy)
        return recorded_stores(folder, world)

    def _settings(self, entry: Entry) -> dict[str, Any]:
        """What a run was begun with; another teacher of the same name is another one."""
        left_out = ("run_folder", "dry_run", "student", "name")
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return settings | {"teacher": entry.card.files["weights"].sha256, "fit": asdict(self.fit)}

    def _plan(self, world: World, teacher: WorldModel) -> int:
        from diamond_gym.cli.dry_run import Phase, played, print_phases, seconds

        lacking = lacking_steps(self._store(world), (self.collect_steps, self.test_steps)) if world.env else 0
        with played(world, lacking, 16) as (store, phases):
            fit = DistillTrainer(self.fit, teacher, store, self.fit.dream_length, self.seed)
            each = seconds(fit.train_step) / self.fit.dream_length
            phases.append(Phase("distilling", self.steps, "updates", each))
        print_phases(phases, f"{teacher.device} in {teacher.precision}")
        return 0

    def _register(
        self,
        fit: DistillTrainer,
        teacher: WorldModel,
        entry: Entry,
        world: World,
        store: EpisodeStore,
        held_out: EpisodeStore | None,
        name: str,
    ) -> Entry:
        model = fit.averaged(teacher)
        weights, measured = half(model), dict[str, Any]()
        model.load_weights(weights)  # measure what is stored
        if self.windows and held_out is not None:
            horizon = horizon_within(held_out, fit.student.num_steps_conditioning, HORIZON)
            with counting("measuring", 3 * self.windows * horizon, "frames") as advance:
                measured = compare(
                    self.fit, teacher, model, held_out, self.windows, horizon, self.seed,
                    lambda frames: advance(frames, more=True),
                )  # fmt: skip
            _print(measured)
        training = {"steps": fit.step, "precision": teacher.precision, "seed": self.seed}
        command = plain_command_line(f"distill {shlex.quote(self.name)}", self, Distill(self.name), _NO_DIFFERENCE)
        card = student_card(name, entry, self.fit, training, store, measured, command, world.origin)
        return save_model(card, weights, teacher.starts)


def _print(measured: dict[str, Any]) -> None:
    """Prints the student's figures beside its teacher's, in several steps and in one."""
    table = Table(title="on held-out play")
    for column in ("figure", "student", "teacher", "teacher in one step"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    sides = measured, measured["teacher"], measured["teacher_in_one_step"]
    for name in _ROWS:
        if name in measured:
            table.add_row(name, *("–" if math.isnan(side[name]) else f"{side[name]:.4g}" for side in sides))
    if "spread" in measured:
        table.add_row("spread", *(f"{measured['spread'][side]:.3g}" for side in _SIDES))
    print_table(table)
