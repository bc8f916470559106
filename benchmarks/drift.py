"""What keeps long dreams on the data: fits with the networks of the preset `nano` that differ in one thing each.

    python -m benchmarks.drift --games Pong Boxing --seeds 0 1 2
    python -m benchmarks.drift --table benchmarks/results/drift*.json

The first fits and measures what has not been yet, keeps figures in `benchmarks/results/drift.json` (or `--out`), and
prints tables; repeating it goes on where it stopped. All fits of a game have the same recordings and updates. The
dreams follow random play, and are held against the real game under the same actions. The second prints what several
processes have measured, each with games or seeds of its own.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from diamond_gym import sampler
from diamond_gym.cli.collect import TEST_SEED, store_folder
from diamond_gym.cli.fits import both_stores
from diamond_gym.cli.train_wm import by_preset
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.device import PRECISIONS, keep_memory, pick_device
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.files import atomic_write
from diamond_gym.registry import games, home_folder
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.fidelity import HORIZONS, figures
from diamond_gym.trainers.games import Games
from diamond_gym.trainers.looks import AFTER, Looks
from diamond_gym.trainers.policies import StickyPolicy
from diamond_gym.trainers.register import made_here
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts, real_rollouts
from diamond_gym.trainers.study import Study, StudyConfig
from diamond_gym.trainers.world_model_config import WorldModelConfig
from diamond_gym.trainers.worlds import World, find_world
from diamond_gym.world_model import WorldModel

RESULTS = Path(__file__).parent / "results" / "drift.json"
_HORIZON = max(HORIZONS)


@dataclass(frozen=True)
class Variant:
    """A fit: what it changes of the preset, as `train-wm` takes it."""

    words: tuple[str, ...] = ()
    scaled: bool = False
    """Dream once more with a start noise of sigma_max's deviation, not of 1."""


_BASE = ("--autoregressive-from", "0.7", "--past-noise", "0", "--denoiser.inner-model.no-noise-cond")
"""What the preset `nano` was before this comparison, beside what it is now."""
VARIANTS = {
    "base": Variant(_BASE, scaled=True),
    "no threshold": Variant((*_BASE, "--denoiser.change-threshold", "0")),
    "paper's output": Variant((*_BASE, "--denoiser.no-residual", "--denoiser.change-threshold", "0"), scaled=True),
    "a little noise on the past": Variant((*_BASE, "--past-noise", "0.1")),
    "noise on the past": Variant((*_BASE, "--past-noise", "0.3")),
    "noise on the past, level given": Variant((*_BASE, "--past-noise", "0.3", "--denoiser.inner-model.noise-cond")),
    "no autoregressive step": Variant((*_BASE, "--num-autoregressive-steps", "0")),
    "1 autoregressive step, early": Variant((*_BASE, "--autoregressive-from", "0")),
    "2 autoregressive steps, late": Variant((*_BASE, "--num-autoregressive-steps", "2")),
    "4 autoregressive steps, late": Variant((*_BASE, "--num-autoregressive-steps", "4")),
    "preset": Variant(),
}
SCALED = ", start noise of sigma_max"


def config_of(variant: Variant, world: World, batch: int) -> WorldModelConfig:
    """How a variant is fitted. Without rewards: they change nothing about the frames."""
    own = "--without-rewards", *variant.words, "--denoiser-optimizer.batch-size", str(batch)
    return by_preset("nano", *own).fit.for_frames(world.about.frame_shape, world.codec.num_inputs)


@contextmanager
def scaled_start() -> Iterator[None]:
    """Dreams begin frames from noise of sigma_max's deviation, as in EDM, and not of the paper's 1."""
    original = sampler.sample

    def sample(condition: Any, obs: Any, act: Any, noise: Any, config: SamplerConfig, *rest: Any) -> Any:
        return original(condition, obs, act, noise * config.sigma_max, config, *rest)

    with mock.patch("diamond_gym.dream_state.sample", sample):
        yield


def measure(model: WorldModel, windows: Rollouts, long: Rollouts, looks: Looks, seed: int) -> dict[str, Any]:
    """Errors over copying in held-out windows, and what long dreams look like after 10, 50 and 200 steps."""
    model.use_kernels()
    paper = SamplerConfig()
    closed = figures(windows, dream_rollouts(model, windows, paper, None, seed))
    table = {name: closed[name] for name in (f"mse_over_copy_{h}" for h in HORIZONS)}
    return table | looks.table([(long, dream_rollouts(model, long, paper, None, seed))])


def play(world: World, windows: int, dreams: int, held_out: EpisodeStore, t: int) -> tuple[Rollouts, Rollouts, Looks]:
    """Held-out windows, long random play, and what real frames look like."""

    def make(rows: int, rng: np.random.Generator) -> StickyPolicy:
        return StickyPolicy(world.about.num_actions, np.full(rows, 0.5), rng)

    with closing(Games(world.envs(dreams))) as playing:
        long = real_rollouts(playing, make, t, max(AFTER), TEST_SEED)
    return Rollouts.held_out(held_out, windows, t, _HORIZON), long, Looks.beside(world.name, held_out)


def run(game: str, seed: int, args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Fits and measures all variants of a game with a seed."""
    world = find_world(game)
    recordings = store_folder(f"{game.lower()}-drift")
    store, held_out = both_stores(recordings, world, (args.steps, args.test_steps), 0, "auto")
    configs = {name: config_of(VARIANTS[name], world, args.batch) for name in args.variants}
    t = configs[args.variants[0]].denoiser.inner_model.num_steps_conditioning
    reference = play(world, args.windows, args.dreams, held_out, t)
    folder, where = home_folder() / "studies" / f"drift-{game.lower()}", (args.device, args.precision)
    study = Study(folder, StudyConfig(), configs, store, args.updates, print, *where)
    done, settings = results.setdefault(game, {}), {
        "updates": args.updates, "batch": args.batch, "real_steps": store.num_steps, "windows": args.windows,
        "dreams": args.dreams,
    }  # fmt: skip
    check_same(game, done.get("about", settings), settings)
    done["about"] = made_here() | settings | {"fitted_on": f"{args.device} in {args.precision}"}
    for name in args.variants:
        fits = done.setdefault(name, {})
        if str(seed) in fits:
            continue
        began, whole = time.process_time(), not (folder / f"{name}-{seed}").exists()
        model = study.fit(name, seed)
        if model is None:
            raise SystemExit("stopped; repeat the command to go on")
        seconds = {"fit_cpu_seconds": round(time.process_time() - began, 1)} if whole else {}
        fits[str(seed)] = measure(model, *reference, seed) | seconds
        if VARIANTS[name].scaled:
            with scaled_start():
                done.setdefault(name + SCALED, {})[str(seed)] = measure(model, *reference, seed)
        with atomic_write(args.out, "w") as file:
            json.dump(results, file, indent=1)


def check_same(game: str, known: dict[str, Any], other: dict[str, Any]) -> None:
    """Refuses (BadArgument) to put figures together that were not measured in the same way."""
    for name in ("updates", "batch", "real_steps", "windows", "dreams"):
        if known[name] != other[name]:
            raise BadArgument(
                f"{game} has been measured with {name} = {known[name]}, not {other[name]}: name another --out"
            )


def line(name: str, fits: dict[str, Any]) -> str:
    """A variant's row: means over seeds, and standard deviations."""

    def cell(values: list[float], scale: float = 1.0) -> str:
        if len(values) < 2:
            return f"{scale * values[0]:.3g}"
        return f"{scale * np.mean(values):.3g} ± {scale * np.std(values, ddof=1):.2g}"

    each = list(fits.values())
    cells = [cell([fit[f"mse_over_copy_{h}"] for fit in each]) for h in HORIZONS]
    cells += [cell([fit[f"after_{h}"]["artefacts"] for fit in each], 100) for h in AFTER]
    cells += [cell([fit["after_200"]["nearest"] for fit in each])]
    cells += [cell([_alive(fit[f"after_{h}"]) for fit in each]) for h in (50, 200)]
    seconds = [fit["fit_cpu_seconds"] for fit in each if "fit_cpu_seconds" in fit]  # not of resumed ones
    cells += [cell(seconds) if seconds else ""]
    return f"| {name} | {len(each)} | {' | '.join(cells)} |"


def _alive(figures: dict[str, Any]) -> float:
    """The share of dreams in which a thing is alive, the mean of all things that are counted in the game."""
    rest = ("dreams", "artefacts", "nearest", "real", "all", "all_interval_95")
    return float(np.mean([value for name, value in figures.items() if name not in rest] or [np.nan]))


def print_tables(results: dict[str, Any]) -> None:
    """Prints a table a game."""
    heads = "| | fits | error 1 | 4 | 16 | artefacts (%) 10 | 50 | 200 | nearest 200 | alive 50 | 200 | s |"
    for game, variants in results.items():
        print(f"\n{game}\n{heads}\n|{'---|' * 12}")
        for name, fits in variants.items():
            if name != "about":
                print(line(name, fits))


def read(paths: list[Path]) -> dict[str, Any]:
    """The figures of several files in one; BadArgument where two have measured the same."""
    results: dict[str, Any] = {}
    for path in paths:
        for game, variants in json.loads(path.read_text(encoding="utf-8")).items():
            known = results.setdefault(game, {})
            check_same(game, known.get("about", variants["about"]), variants["about"])
            for name, fits in variants.items():
                if name != "about" and not known.setdefault(name, {}).keys().isdisjoint(fits):
                    raise BadArgument(f"{path} has {game}, {name}, once more")
                known[name] = known.get(name, {}) | fits
    return results


def main() -> None:
    """Fits, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=["Pong", "Boxing"], choices=games(), metavar="GAME")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=500, help="of each fit")
    parser.add_argument("--batch", type=int, default=8, help="segments of an update")
    parser.add_argument("--steps", type=int, default=20_000, help="real steps to fit")
    parser.add_argument("--test-steps", type=int, default=5_000, help="real steps held out")
    parser.add_argument("--windows", type=int, default=48, help="held-out windows of 16 steps")
    parser.add_argument("--dreams", type=int, default=16, help="dreams of 200 steps")
    parser.add_argument("--device", default="cpu", help="where to fit and dream")
    parser.add_argument("--precision", default="bfloat16", choices=list(PRECISIONS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures are kept")
    parser.add_argument("--table", type=Path, nargs="+", help="files of figures to print in one table")
    args = parser.parse_args()
    try:
        if args.table is not None:
            print_tables(read(args.table))
            return
        pick_device(args.device)
        keep_memory()
        results = read([args.out]) if args.out.exists() else {}
        for seed in args.seeds:
            for game in args.games:
                run(game, seed, args, results)
    except (DiamondGymError, OSError, ValueError) as error:
        raise SystemExit(f"drift: {error}") from None
    print_tables(results)


if __name__ == "__main__":
    main()
