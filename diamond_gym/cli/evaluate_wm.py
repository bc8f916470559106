"""`diamond-gym evaluate-wm`: how well a model dreams what really happened."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from rich.table import Table

from diamond_gym.cli.collect import TEST_SEED, dreamed_world, experience, store_folder
from diamond_gym.cli.dream import SUFFIXES
from diamond_gym.cli.options import check_can_write, check_files, check_least
from diamond_gym.cli.terminal import console, counting, print_json, print_table
from diamond_gym.data.about import ABOUT
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry import Card, home_folder, load_world_model, resolve, update_card
from diamond_gym.registry.human_card import PREVIEW, flat_rows
from diamond_gym.registry.loading import Precision
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.fidelity import UNDEFINED, rounded
from diamond_gym.trainers.measuring import OTHER_PLAY, Fidelity, Sizes, describe, measure, policies_of
from diamond_gym.trainers.plots import FPS, comparison, draw_page, png, sheet, strip, write_png
from diamond_gym.trainers.policies import own_file
from diamond_gym.trainers.rollouts import WARM_UP
from diamond_gym.trainers.worlds import World
from diamond_gym.two_stage import sampler_of


@dataclass(frozen=True)
class EvaluateWm:
    """Compares a model's dreams with the real game, and prints how closely they agree.

    Held-out play is dreamed again with the actions that were actually taken: this gives the errors of frames beside
    those of repeating the last real frame, rewards and ends at their exact step, and whether their probabilities are
    calibrated. Then policies play the game, and dream on from the same frames (random play with the same actions):
    this gives returns, and looks after 10, 50 and 200 steps. Looks are the share of dreams in which what matters is
    alive (the ball, the players, the score, in games for which the package knows what that is), the share of pixels in
    colours that real play never shows there (artefacts), and the distance to the nearest held-out frame. Last comes how
    different dreams from one start become. Without the real game (pip install 'diamond-gym[atari]'), only held-out play
    is used.
    """

    name: tyro.conf.Positional[str]
    """A model's name or folder, or a game's name."""
    env: str | None = None
    """Id of the environment to play beside the dream, if the model dreams a world of your own."""
    render_obs: bool = False
    """With --env: use its rendered picture as the observation."""
    data: tuple[str, ...] = ()
    """Held-out play: one store (its name in <home>/data, or a folder), or several measured separately, of which the
    first gives the main figures and the others stand under other_play (default: <home>/data/<world>-test; collected if
    it does not exist)."""
    played_by: tuple[str, ...] = ()
    """Who played each of the stores in --data, where they do not say so themselves."""
    sizes: Annotated[Sizes, tyro.conf.arg(name="")] = field(default_factory=Sizes)
    policies: tuple[str, ...] = ()
    """Policies that play dream and game: random, scripted (Breakout, Freeway, Pong, RoadRunner), agent (the model's
    own) (default: random, and agent if the model has one)."""
    quick: bool = False
    """Measure on a fifth of everything: a first look, too rough for --save."""
    num_denoising_steps: int | None = None
    """Denoising steps per frame, with two stages per small frame (default: as the model's card says)."""
    seed: int = 0
    """Seeds the choice of windows, the games and the dreams."""
    test_steps: int = 6_000
    """Steps to collect if there is no held-out play yet."""
    picture: Path | None = None
    """Write a picture (.png) of real frames above dreamed ones."""
    sheet: Path | None = None
    """Write a contact sheet (.png) of the game and its dreams under the same random actions, up to --free-steps."""
    page: Path | None = None
    """Write all figures on one page (.png), which needs matplotlib."""
    video: Path | None = None
    """Write a video (.mp4 or .gif) of reality, dream and difference side by side."""
    save: bool = False
    """Store the figures in the model's card, and the picture beside it."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Precision = "auto"
    """auto (measured), float32 or bfloat16."""

    def __post_init__(self) -> None:
        check_least(self, num_denoising_steps=1, test_steps=1, seed=0)
        check_files(self, picture=(".png",), sheet=(".png",), page=(".png",), video=SUFFIXES)
        if self.played_by and len(self.played_by) != max(1, len(self.data)):
            raise BadArgument(
                f"--played-by needs a word for each of --data: {len(self.played_by)} for {len(self.data)}"
            )
        if self.picture is not None and not self.sizes.windows:
            raise BadArgument("--picture shows held-out windows, which --windows 0 left out")
        if self.sheet is not None and not self.sizes.free_dreams:
            raise BadArgument("--sheet shows free dreams, which --free-dreams 0 left out")
        if self.video is not None and not self.sizes.dreams_per_start:
            raise BadArgument("--video shows dreams of --starts, which --dreams-per-start 0 left out")
        if self.quick and self.save:
            raise BadArgument("--quick figures are too rough for a card: leave out --save or --quick")
        if self.save and self.sizes.warm_up != WARM_UP:
            raise BadArgument(f"--save needs --warm-up {WARM_UP}, so that the figures of cards can be compared")

    def run(self) -> int:
        """Measures, prints and writes what was asked for."""
        # what is not installed is said in one line now, not after minutes of measuring
        import skimage  # noqa: F401

        if self.page is not None:
            import matplotlib  # noqa: F401
        entry = resolve(self.name)
        card, game = entry.card, entry.card.game
        if self.save:
            check_can_write("--save", entry.folder)
        model = load_world_model(entry, self.device, self.precision)
        saved = own_file(entry, self.device)
        world = dreamed_world(card, self.env, self.render_obs)
        policies = policies_of(card.has_agent, game, self.policies) if world.env else []
        if not policies:
            console.print(f"{game} itself cannot be played here: measuring on held-out play alone", soft_wrap=True)
        self._check_shown(bool(policies))
        sizes = self.sizes.quicker() if self.quick else self.sizes
        held_out = self._held_out(world)
        first = SamplerConfig(**card.sampler) if model.upsampler is None else sampler_of(card.sampler).dynamics
        if self.num_denoising_steps is not None:
            first = replace(first, num_denoising_steps=self.num_denoising_steps)
        sampler = first if model.upsampler is None else replace(sampler_of(card.sampler), dynamics=first)
        with counting("dreaming", sizes.frames(len(held_out), len(policies)), "frames") as advance:
            result = measure(
                model, world, held_out, sizes, policies, sampler, self.seed,
                lambda frames: advance(frames, more=True), saved,
            )  # fmt: skip
        table = rounded(result.table) | {"num_denoising_steps": first.num_denoising_steps}
        if self.save:
            preview = {PREVIEW: png(_strip(result))} if result.loops else {}
            update_card(entry, replace(card, figures=_updated(card.figures, table)), preview)
        if self.as_json:
            print_json(table)
        else:
            _print(f"{entry.name}, {model.precision}", table)
        self._write(result, card)
        return 0

    def _check_shown(self, plays: bool) -> None:
        """Refuses pictures of what will not be measured, before the rest is, where it depends on whether one plays."""
        sizes = self.sizes
        cannot = "the game cannot be played here"
        if self.sheet is not None and not plays:
            raise BadArgument(f"--sheet shows the game beside its dreams, and {cannot}")
        if self.video is not None and not sizes.windows and not (plays and sizes.rollouts):
            rest = "--rollouts 0 left out rollouts" if plays else cannot
            raise BadArgument(f"--video needs something to show: --windows 0 left out held-out play, and {rest}")
        if self.page is not None and not sizes.windows and not (plays and (sizes.rollouts or sizes.free_dreams)):
            raise BadArgument("--page shows figures, and none is measured: see --windows, --rollouts and --free-dreams")

    def _held_out(self, world: World) -> dict[str, tuple[EpisodeStore, dict[str, Any]]]:
        """The stores with what they are, by names that tell them apart."""
        folders = [store_folder(name) for name in self.data]
        if twice := [folder for i, folder in enumerate(folders) if folder.resolve() in map(Path.resolve, folders[:i])]:
            raise BadArgument(f"--data names {twice[0]} twice")
        found: list[tuple[EpisodeStore, dict[str, Any]]] = []
        for i, folder in enumerate(folders or [home_folder() / "data" / f"{world.name.lower()}-test"]):
            if not (folder / ABOUT).exists() and (folders or not world.env):
                raise DiamondGymError(f"there is no experience in {folder}; diamond-gym collect makes some")
            steps = 0 if folders or not world.env else self.test_steps
            store = experience(folder, world, steps, TEST_SEED)
            found.append((store, describe(store, self.played_by[i] if self.played_by else None)))
        names = _names([(f"{about['policy']} play", store.folder) for store, about in found])
        return dict(zip(names, found, strict=True))

    def _write(self, result: Fidelity, card: Card) -> None:
        if self.picture is not None:
            write_png(self.picture, _strip(result))
        if self.sheet is not None:
            assert result.free is not None
            write_png(self.sheet, sheet(*result.free))
        if self.page is not None:
            draw_page(self.page, result, f"{card.name}: dreams of {card.game} against the real game")
        if self.video is not None:
            from diamond_gym.frames import write_video

            assert result.replays is not None
            write_video(self.video, comparison(*result.replays, card.action_meanings), FPS)
        for path in filter(None, (self.picture, self.sheet, self.page, self.video)):
            console.print(f"wrote {path}", soft_wrap=True)


def _strip(result: Fidelity) -> npt.NDArray[np.uint8]:
    """Real frames above dreamed ones, of the play that counts."""
    return strip(*next(iter(result.loops.values())), rows=4)


def _names(stores: Sequence[tuple[str, Path]]) -> list[str]:
    """Different names for stores: who played, where that is no other's, else as much of the path as tells them apart.

    Not more of it, as it becomes a part of the card.
    """
    paths = [folder.resolve().parts for _, folder in stores]
    tails = [["/".join(parts[i:]) for i in reversed(range(1, len(parts)))] for parts in paths]
    choices = [[play, *tail] for (play, _), tail in zip(stores, tails, strict=True)]
    counts = Counter(chain(*map(set, choices)))
    return [next((name for name in names if counts[name] == 1), names[-1]) for names in choices]


def _updated(figures: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """A card's figures with new ones in their place; those of policies that were not measured again stay.

    A figure that is undefined now leaves the card, and one that is defined now is no longer called undefined.
    """
    new, old = (side.get(UNDEFINED, "").split(", ") for side in (table, figures))
    undefined = filter(None, [*new, *(name for name in old if name not in new and name not in dict(flat_rows(table)))])
    if names := ", ".join(undefined):
        table = {**table, UNDEFINED: names}
    gone = {"diversity", UNDEFINED, *new}  # the first is of earlier versions
    kept = {name: value for name, value in figures.items() if name not in gone}
    by_name = {
        name: {**kept.get(name, {}), **table[name]} for name in ("returns", "looks", OTHER_PLAY) if name in table
    }
    return {**kept, **table, **by_name}


def _print(title: str, figures: Mapping[str, Any]) -> None:
    """Prints the figures as a table, the plain ones, then each group of them, and below it what is undefined."""
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    plain = {key: value for key, value in figures.items() if not isinstance(value, dict) and key != UNDEFINED}
    for group in [plain, *({key: value} for key, value in figures.items() if isinstance(value, dict))]:
        for key, value in flat_rows(group):
            many = isinstance(value, list)
            table.add_row(key, " to ".join(f"{item:g}" for item in value) if many else str(value))
        table.add_section()
    print_table(table)
    if UNDEFINED in figures:  # many names in a cell would make all rows as wide
        print(f"undefined on this play: {figures[UNDEFINED]}")
