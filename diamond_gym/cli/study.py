"""`diamond-gym study`: the same network fitted with each objective, and how far its dreams keep to the real game."""

import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.table import Table

from diamond_gym.cli.collect import TEST_SEED, Played, PolicyName, WorldOptions, played_by
from diamond_gym.cli.fits import both_stores
from diamond_gym.cli.options import check_can_write, check_least, check_positive
from diamond_gym.cli.terminal import console, print_table
from diamond_gym.cli.train_wm import by_preset
from diamond_gym.data.about import ABOUT, held_out_beside
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.stores import first_steps
from diamond_gym.device import keep_memory, pick_device, pick_precision
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry import home_folder
from diamond_gym.registry.loading import Precision
from diamond_gym.trainers.games import Games
from diamond_gym.trainers.measuring import describe
from diamond_gym.trainers.policies import PLAYERS, Policy, ScriptedPolicy, StickyPolicy
from diamond_gym.trainers.register import made_here
from diamond_gym.trainers.rollouts import Rollouts, horizon_within, real_rollouts
from diamond_gym.trainers.study import Study, StudyConfig, steps_begun_with
from diamond_gym.trainers.study_page import COLUMNS, HEADS, summary, write_page
from diamond_gym.trainers.study_reference import RecordedFrames, Reference
from diamond_gym.trainers.world_model_config import WorldModelConfig
from diamond_gym.trainers.worlds import World, check_learnable

_HORIZON, _QUICK_UPDATES, _QUICK_SIZE, _LEAST_SIZE = 16, 400, 32, 16
_FULL_SIZE = 64


@dataclass(frozen=True)
class StudyCommand(WorldOptions):
    """Fits one network as EDM, DDPM and rectified flow, and writes a page on how closely their dreams follow reality.

    Every fit has the same network, data, batches and number of updates. Their dreams are compared with real play under
    the same actions for 1,000 steps, with several numbers of denoising steps. Repeating the command continues where it
    stopped.
    """

    size: int | None = None  # type: ignore[assignment]  # games are studied in squares
    """Side of the frames: for a game 64 (the default), or less for a faster study."""
    preset: str = "study-nano"
    """Preset of all fits, as in train-wm, apart from what the objectives change."""
    updates: int | None = None
    """Updates of each fit (default: the preset's)."""
    study: Annotated[StudyConfig, tyro.conf.arg(name="")] = field(default_factory=StudyConfig)
    quick: bool = False
    """Make a first page, in about ten minutes on two CPU cores: one seed, 400 updates, 200 steps, frames of 32x32."""
    minutes: float | None = None
    """Begin no further fit or measurement after this many minutes; the page shows what there is."""
    collect_steps: int = 20_000
    """Real steps to train on; what is missing is collected first."""
    test_steps: int = 5_000
    """Real steps held out."""
    policy: PolicyName = "auto"
    """Who plays: auto is scripted where there is a script and frames have their full size, and mixed elsewhere."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """The folder of the fits (default: <home>/studies/<world>-<preset>)."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Precision = "auto"
    """Precision of fits and dreams: auto (measured), float32 or bfloat16."""
    out: Path | None = None
    """Where to write study.html, study.png and study.json (default: the folder of the fits)."""

    def __post_init__(self) -> None:
        check_least(self, updates=1, collect_steps=100, test_steps=100)
        check_positive(self, "minutes")
        if self.out is not None:
            check_can_write("--out", self.out)

    def check(self) -> None:
        """Refuses a world that is missing or unknown, and sizes that a game does not have."""
        if self.game is not None and self.size is not None:
            if not _LEAST_SIZE <= self.size <= _FULL_SIZE:
                raise BadArgument(f"--size of a game must lie between {_LEAST_SIZE} and {_FULL_SIZE}, not {self.size}")
            replace(self, size=None).check()
            return
        self.check_world("which game: diamond-gym study --game Breakout")

    def run(self) -> int:
        """Fits, measures and writes the page; returns 0, or 130 where Ctrl-C stopped it."""
        import matplotlib  # noqa: F401  # what is not installed is said now, not after the fits

        world, sizes = self._sized(), self.study.quicker() if self.quick else self.study
        configs, updates = self._configs(world, sizes)
        device = pick_device(self.device)
        precision = pick_precision(self.precision, device)
        keep_memory()
        recordings = self._recordings(world)
        label = f"{recordings.name}-{Path(self.preset).stem}{'-quick' * self.quick}"
        folder = self.run_folder or home_folder() / "studies" / label
        store, held_out = self._experience(world, recordings, folder)

        def say(line: str) -> None:
            console.print(line, soft_wrap=True)

        study = Study(folder, sizes, configs, store, updates, say, device, precision)
        t = configs[sizes.objectives[0]].denoiser.inner_model.num_steps_conditioning
        reference = self._reference(world, store, held_out, sizes, t)
        until, code = None if self.minutes is None else time.monotonic() + 60 * self.minutes, 0
        for objective, seed in study.fits():
            left = None if until is None else (until - time.monotonic()) / 60
            model = study.fit(objective, seed, left) if left is None or left > 0 else None
            if model is None or not study.measure(objective, seed, model, reference, until):
                console.print("stopped; repeat the command to go on")
                code = 130 if left is None else 0
                break
        if not (results := study.results(reference)):
            return code
        about = self._about(world, study, reference)
        for path in write_page(self.out or folder, study, reference, about):
            console.print(f"wrote {path}", soft_wrap=True)
        _print(about, summary(results, sizes))
        return code

    def _sized(self) -> World:
        """The world with frames of the size that is wanted."""
        size = self.size or (_QUICK_SIZE if self.quick and self.game is not None else None)
        world = replace(self, size=None).world() if self.game is not None else self.world()
        if self.game is None or size is None:
            return world
        return replace(world, about=replace(world.about, frame_shape=(size, size, world.about.frame_shape[2])))

    def _configs(self, world: World, sizes: StudyConfig) -> tuple[dict[str, WorldModelConfig], int]:
        """How each objective is fitted, and the number of updates."""
        check_learnable(world.about)
        found, updates = {}, self.updates or (_QUICK_UPDATES if self.quick else None)
        for objective in sizes.objectives:
            command = by_preset(self.preset, "--objective", objective)
            found[objective] = command.fit.for_frames(world.about.frame_shape, world.codec.num_inputs)
            updates = updates or command.steps
        assert updates is not None
        return found, updates

    def _recordings(self, world: World) -> Path:
        """The folder of the store to fit; that of a game in smaller frames has their size in its name."""
        folder = self.store(world)
        if self.data is None and world.about.frame_shape[0] != _FULL_SIZE and self.game is not None:
            folder = folder.with_name(f"{folder.name}-{world.about.frame_shape[0]}")
        return folder

    def _experience(self, world: World, recordings: Path, study: Path) -> tuple[EpisodeStore, EpisodeStore]:
        """What to fit, which is what the study in its folder was begun with, and what is held out."""
        begun = steps_begun_with(study)
        if self.plays:
            if begun is not None and begun < self.collect_steps:
                raise BadArgument(
                    f"the study in {study} was begun with {begun:,} recorded steps, fewer than --collect-steps "
                    f"{self.collect_steps:,}: repeat the number that it was begun with, or name another --run"
                )
            wanted = self.collect_steps, self.test_steps
            store, held_out = both_stores(recordings, world, wanted, 0, self._policy(world))
        else:
            test = held_out_beside(recordings)
            if not (test / ABOUT).exists():
                raise DiamondGymError(
                    f"nothing is held out (in {test}): diamond-gym data split makes both stores from one"
                )
            store, held_out = EpisodeStore(recordings), EpisodeStore(test)
        return store if begun is None else _as_begun(store, begun, study), held_out

    def _policy(self, world: World) -> Played:
        full = world.about.frame_shape[0] == _FULL_SIZE
        scripted = self.policy == "auto" and full and world.name in PLAYERS
        return "scripted" if scripted else played_by(self.policy, world.name)

    def _reference(
        self, world: World, store: EpisodeStore, held_out: EpisodeStore, sizes: StudyConfig, t: int
    ) -> Reference:
        """Held-out play, short and long, of T frames to begin from."""
        windows = Rollouts.held_out(held_out, sizes.windows, t, horizon_within(held_out, t, _HORIZON))
        if not world.env:
            horizon = horizon_within(held_out, t, sizes.drift_steps)
            if horizon < sizes.drift_steps:
                console.print(f"the longest held-out recording has {horizon} steps, so dreams are that long")
            long = Rollouts.held_out(held_out, sizes.trajectories, t, horizon)
            return Reference(windows, long, RecordedFrames(store))
        scripted, actions = self._policy(world) == "scripted", world.about.num_actions

        def make(rows: int, rng: np.random.Generator) -> Policy:
            return ScriptedPolicy(world.name, rows, rng) if scripted else StickyPolicy(actions, np.zeros(rows), rng)

        with closing(Games(world.envs(sizes.trajectories))) as playing:
            long = real_rollouts(playing, make, t, sizes.drift_steps, TEST_SEED)
        return Reference(windows, long, RecordedFrames(store))

    def _about(self, world: World, study: Study, reference: Reference) -> dict[str, Any]:
        """What the page says of how it was made."""
        return {
            "world": world.name,
            "frames": list(world.about.frame_shape),
            "preset": self.preset,
            "updates": study.updates,
            "fitted_on": f"{study.device.type} in {study.precision}",
            "real_steps": study.store.num_steps,
            "played_by": describe(study.store)["policy"],
            "long_play": ("scripted" if self._policy(world) == "scripted" else "random") if world.env else "held out",
            "long_dreams": list(reference.long.rew.shape),
            "windows": len(reference.windows),
            "left_beyond": reference.recorded.limit,
            "held_out_at_most": reference.held_out_at_most,
            **made_here(),
        }


def _as_begun(store: EpisodeStore, steps: int, study: Path) -> EpisodeStore:
    """A store as it was when a study was begun, with so many steps: it may have grown since."""
    if store.num_steps == steps:
        return store
    try:
        first = first_steps(store, steps)
    except DiamondGymError as error:
        raise DiamondGymError(
            f"the study in {study} was begun with other recordings: {error}; name another --run"
        ) from None
    grown = f"{store.folder} has {store.num_steps:,} steps by now"
    console.print(f"{grown}; the study goes on with the first {steps:,}, with which it was begun", soft_wrap=True)
    return first


def _print(about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Prints a line for each objective and number of denoising steps, means over seeds."""
    columns = [key for key in COLUMNS if any(key in row for row in rows)]
    table = Table(title=f"{about['world']}: {about['updates']:,} updates of {about['preset']}")
    for name in ("objective", "n", "seeds", *columns):
        table.add_column(HEADS.get(name, name), justify="right")
    for row in rows:
        figures = [f"{row[key]:.3g}" if key in row else "" for key in columns]
        table.add_row(row["objective"], str(row["n"]), str(row["seeds"]), *figures)
    print_table(table)
