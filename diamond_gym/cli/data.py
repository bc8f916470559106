"""data import, info, check, preview, merge, split, export, convert: folders of experience."""

import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from diamond_gym.cli.collect import store_folder
from diamond_gym.cli.options import check_least, check_most, image_size
from diamond_gym.cli.terminal import counting, print_json
from diamond_gym.data.importing import Import as Importing
from diamond_gym.data.importing import ImportOptions
from diamond_gym.errors import BadArgument

_SIZE = PrimitiveConstructorSpec[tuple[int, int] | None](
    nargs=1,
    metavar="SIZE",
    instance_from_str=lambda words: image_size(words[0], "--size", most=4096),
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: ["None" if value is None else "x".join(map(str, value))],
)


@dataclass(frozen=True, kw_only=True)
class Import(ImportOptions):
    """Makes a store from recordings: CS:GO's HDF5, Minari, LeRobot, videos or pictures with actions, .npz, or a store.

    Needs little memory; repeating the command resumes an interrupted import.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A file, a folder, or the id of a data set in Minari's cache."""
    name: str
    """Name of the store, which goes into <home>/data/<name>; or a folder."""
    format: str = "auto"
    """Format of the source: store, csgo, minari, lerobot, npz, video or images (default: detected)."""
    size: Annotated[tuple[int, int] | None, _SIZE] = None
    """Size of the frames: 64, or HEIGHTxWIDTH as in 30x56."""

    def run(self) -> int:
        """Imports, and says what there is."""
        folder = store_folder(self.name)
        wanted = None if self.format == "auto" else self.format
        job = Importing(Path(os.path.expanduser(self.source)), folder, folder.name, self, wanted)  # noqa: PTH111
        with counting("importing", job.total, "frames") as advance:
            store = job.run(advance)
        print(f"{folder}: {store.num_steps:,} steps in {len(store):,} episodes")
        return 0


@dataclass(frozen=True)
class Info:
    """Shows what a store holds."""

    store: Annotated[str, tyro.conf.Positional]
    """A store's name or folder."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""

    def run(self) -> int:
        """Prints the facts."""
        from diamond_gym.data.episodes import EpisodeStore
        from diamond_gym.data.stores import facts

        found = facts(EpisodeStore(store_folder(self.store)))
        if self.as_json:
            print_json(found)
            return 0
        for name, value in found.items():
            if value is None and name.startswith("action"):
                continue  # they are counted by number, or have a space
            if isinstance(value, dict):
                value = ", ".join(f"{key} {each:,}" for key, each in value.items())
            shown = "not recorded" if value is None else f"{value:,}" if isinstance(value, int) else value
            print(f"{name.replace('_', ' '):<12} {shown}")
        return 0


@dataclass(frozen=True)
class Check:
    """Looks for what would spoil training: wrong action offsets, repeated frames, swapped channels, copies, and more.

    Exits with 1 if it finds a fault, so that scripts can stop there; notes do not count as faults. With held-out
    recordings it also says what share of them the training recordings cover.
    """

    store: Annotated[str, tyro.conf.Positional]
    """A store's name or folder."""
    test: str | None = None
    """Held-out recordings (default: <store>-test beside it, if there is one)."""
    memory: int = 4
    """How many past frames the world model will see."""
    max_steps: int = 20_000
    """How many steps to look at."""
    seed: int = 0
    """Seeds the choice of the steps to look at."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""

    def run(self) -> int:
        """Prints what was found; returns 1 for a fault, else 0."""
        from diamond_gym.data.about import ABOUT, held_out_beside
        from diamond_gym.data.checks import check_store, chosen, coverage, damaged_files
        from diamond_gym.data.episodes import EpisodeStore

        check_least(self, memory=1, max_steps=100, seed=0)
        folder = store_folder(self.store)
        beside = held_out_beside(folder)
        held_out = store_folder(self.test) if self.test is not None else beside if (beside / ABOUT).exists() else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged files are reported below
            store = EpisodeStore(folder)
            test = None if held_out is None else EpisodeStore(held_out)
        findings = damaged_files(folder) + check_store(store, test, self.memory, self.max_steps, self.seed)
        covered = None
        if test is not None and len(store) > 1 and len(test):
            covered = coverage(chosen(store, self.max_steps, self.seed), chosen(test, self.max_steps // 4, self.seed))
        if self.as_json:
            faults = [asdict(finding) for finding in findings]
            print_json({"findings": faults, "coverage": None if covered is None else asdict(covered)})
        else:
            print(f"{folder}: {store.num_steps:,} steps in {len(store):,} episodes")
            for finding in findings:
                print(f"{finding.level}: {finding.text} ({finding.name})\n  {finding.advice}")
            if covered is not None:
                print(f"coverage: {covered.covered:.0%} of the held-out frames are like training frames")
                for episode, step, distance in covered.worst:
                    print(f"  unlike any of them: held-out episode {episode} from step {step} ({distance:.1f} levels)")
            if not findings:
                print("nothing wrong was found")
        return int(any(finding.level == "fault" for finding in findings))


@dataclass(frozen=True)
class Preview:
    """Draws a sheet of frames (PNG) and an animation (GIF), with the actions."""

    store: Annotated[str, tyro.conf.Positional]
    """A store's name or folder."""
    out: Path | None = None
    """Where to write the sheet; the animation goes beside it (default: <store's name>.png)."""
    episodes: int = 6
    """How many episodes to draw, evenly spread over the store."""
    frames: int = 8
    """How many frames of each are on the sheet."""
    fps: int = 10
    """Frames per second of the animation."""

    def check(self) -> None:
        """Refuses what cannot be drawn."""
        check_least(self, episodes=1, frames=1, fps=1)
        check_most(self, episodes=100, frames=100, fps=100)

    def run(self) -> int:
        """Writes both."""
        from diamond_gym.data.episodes import EpisodeStore
        from diamond_gym.data.preview import preview

        folder = store_folder(self.store)
        sheet = (self.out or Path(f"{folder.name}.png")).with_suffix(".png")
        preview(EpisodeStore(folder), sheet, sheet.with_suffix(".gif"), self.episodes, self.frames, self.fps)
        print(f"{sheet}\n{sheet.with_suffix('.gif')}")
        return 0


@dataclass(frozen=True)
class Merge:
    """Writes the episodes of several stores into a new one."""

    stores: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names or folders of the stores."""
    name: str
    """Name of the new store, or its folder."""

    def run(self) -> int:
        """Merges, and says what there is."""
        from diamond_gym.data.stores import merge

        if not self.stores:
            raise BadArgument("name the stores to merge")
        store = merge([store_folder(name) for name in self.stores], store_folder(self.name))
        print(f"{store.folder}: {store.num_steps:,} steps in {len(store):,} episodes")
        return 0


@dataclass(frozen=True)
class Split:
    """Splits a store into <store>-train and <store>-test; near copies and lives of one game stay together."""

    store: Annotated[str, tyro.conf.Positional]
    """A store's name or folder."""
    share: float = 0.1
    """Share of the steps for the test store."""
    seed: int = 0
    """Seeds the split."""

    def run(self) -> int:
        """Splits, and says what there is."""
        from diamond_gym.data.stores import split

        folder = store_folder(self.store)
        sides = [folder.with_name(f"{folder.name}-{side}") for side in ("train", "test")]
        for store in split(folder, sides[0], sides[1], self.share, self.seed):
            print(f"{store.folder}: {store.num_steps:,} steps in {len(store):,} episodes")
        return 0


@dataclass(frozen=True)
class Export:
    """Writes a store as a Minari data set, into Minari's cache."""

    store: Annotated[str, tyro.conf.Positional]
    """A store's name or folder."""
    id: Annotated[str, tyro.conf.Positional]
    """The data set's id, such as mine/walk-v0."""
    jpeg: bool = False
    """Store the frames as JPEG: smaller, but not exactly the same."""

    def run(self) -> int:
        """Exports, and says where to."""
        from diamond_gym.data.episodes import EpisodeStore
        from diamond_gym.data.stores import export_minari

        print(export_minari(EpisodeStore(store_folder(self.store)), self.id, not self.jpeg))
        return 0


@dataclass(frozen=True)
class Convert:
    """Converts a folder of experience that an earlier version collected; its old files stay as they are."""

    old: Annotated[Path, tyro.conf.Positional]
    """The old folder."""
    new: Annotated[Path | None, tyro.conf.Positional] = None
    """Where the store goes (default: into the same folder, beside the old files)."""

    def run(self) -> int:
        """Converts, and says what there is."""
        from diamond_gym.data.convert import convert

        episodes, steps = convert(self.old, self.new)
        print(f"{self.new or self.old}: {steps:,} steps in {episodes:,} episodes")
        if self.new is None:
            print("the old frames.bin, steps.bin and index.jsonl are no longer read")
        return 0
