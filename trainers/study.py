"""The design study: the same network fitted with each objective, and how far its dreams keep to the real game.

Alonso et al. 2024 (arXiv 2405.12399) §5.1 and appendix K compare EDM and DDPM; rectified flow stands beside them here.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.files import atomic_path, atomic_write
from diamond_gym.sampler import SamplerConfig
from diamond_gym.schema import OBJECTIVES, check_least
from diamond_gym.trainers.fidelity import figures
from diamond_gym.trainers.loop import train
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts
from diamond_gym.trainers.run import SETTINGS, RunFolder
from diamond_gym.trainers.study_reference import SHOWN, Reference, flat_frames
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.trainers.world_model_config import WorldModelConfig
from diamond_gym.world_model import WorldModel

_Frames = npt.NDArray[np.uint8]

COMPARED = (1, 3)
"""Denoising steps whose frames are compared over noises (the paper's figure 4)."""
MEASURED, PICTURES = "measured.json", "pictures.npz"
_NOISES = 32
_QUICK = {"seeds": 1, "windows": 32, "drift_steps": 200, "trajectories": 4}


@dataclass(frozen=True)
class StudyConfig:
    """What is compared, and how much is measured."""

    objectives: tuple[str, ...] = OBJECTIVES
    """What the denoisers learn: edm, ddpm, flow."""
    seeds: int = 3
    """Fits of each objective, with seeds from 0 on."""
    denoising_steps: tuple[int, ...] = (1, 2, 3, 5, 10)
    """Numbers of denoising steps with which each fit dreams."""
    windows: int = 100
    """Held-out windows of 16 steps, for errors and rewards."""
    drift_steps: int = 1000
    """Steps of the long dreams."""
    trajectories: int = 16
    """Long dreams of each fit (the paper: 400)."""

    def __post_init__(self) -> None:
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise BadArgument(f"--objectives takes {', '.join(OBJECTIVES)}, not {name}")
        for name in ("objectives", "denoising_steps"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise BadArgument(f"--{name.replace('_', '-')} needs one or more different values")
        check_least(self, seeds=1, windows=1, drift_steps=1, trajectories=1)
        if not all(1 <= n <= 1000 for n in self.denoising_steps):
            raise BadArgument("--denoising-steps must lie between 1 and 1000")

    def quicker(self) -> "StudyConfig":
        """What a first page in some ten minutes shows."""
        few = tuple(n for n in self.denoising_steps if n in (1, 3, 10)) or self.denoising_steps[:1]
        least = {name: min(getattr(self, name), most) for name, most in _QUICK.items()}
        return replace(self, denoising_steps=few, **least)


def measure_fit(model: WorldModel, reference: Reference, n: int, seed: int = 0) -> tuple[dict[str, Any], _Frames]:
    """The figures of dreams of n denoising steps, and the frames of the first long one at the steps that are shown.

    Figures: those of `fidelity.figures` that are defined; and by step of the long dreams `drift`, the mean absolute
    difference of pixels to real play under the same actions where that is still the same game, with the number of
    dreams and their spread; `nearest`, that to the nearest recorded frame; and `left`, the share of dreams that are
    farther from it than any two recorded frames are from each other.
    """
    sampler, real, long = SamplerConfig(num_denoising_steps=n), reference.windows, reference.long
    dreamed = dream_rollouts(model, real, sampler, None, seed)
    closed = figures(real, dreamed)
    table: dict[str, Any] = {name: value for name, value in closed.items() if not np.isnan(value)}
    began = time.perf_counter()
    far = dream_rollouts(model, long, sampler, None, seed)
    seconds, at = time.perf_counter() - began, reference.curve
    pairs = ((flat_frames(side.after[:, h - 1]) for side in (far, long)) for h in at)
    apart = np.stack([(dream - game).abs().mean(1) for dream, game in pairs], axis=1)
    going = np.ones(long.rew.shape, np.bool_) if long.going is None else long.going
    apart = np.where(going[:, at - 1], apart.astype(np.float64), np.nan)
    near = np.stack([reference.recorded.distances(far.after[:, h - 1]) for h in at], axis=1)
    rows = going[:, at - 1].sum(axis=0)
    some = rows > 0
    table |= {
        "steps": at.tolist(),
        "drift": [float(np.nanmean(apart[:, i])) if some[i] else None for i in range(len(at))],
        "drift_spread": [float(np.nanstd(apart[:, i])) if some[i] else None for i in range(len(at))],
        "drift_dreams": rows.tolist(),
        "nearest": near.mean(axis=0).tolist(),
        "nearest_spread": near.std(axis=0).tolist(),
        "left": (near > reference.recorded.limit).mean(axis=0).tolist(),
        "frames_per_second": float(len(long) * long.rew.shape[1] / seconds),
    }
    start, steps = far.num_start_frames - 1, far.rew.shape[1]
    return table, far.obs[0, [start + step for step in SHOWN if step <= steps]]


def over_noises(model: WorldModel, real: Rollouts, seed: int = 0) -> tuple[dict[str, float], _Frames]:
    """One next frame dreamed from many noises, in one denoising step and in three (the paper's figure 4).

    Args:
        model: The world model.
        real: Held-out play; the window in which most moves is taken.
        seed: Seeds the noises.

    Returns:
        `variance_n`, the mean variance of pixels in [0, 1] over noises; and a line of frames, uint8 (7, C, h, w): what
        really followed, then for one step and for three an example, the mean, and ten times the standard deviation.
    """
    moved = np.abs(real.after[:, 0].astype(np.int16) - real.last[:, 0]).mean(axis=(1, 2, 3))
    start = real[np.full(_NOISES, int(moved.argmax()))]
    table, line = {}, [start.after[0, 0]]
    for n in COMPARED:
        frames = dream_rollouts(model, start, SamplerConfig(num_denoising_steps=n), None, seed, None, 1).after[:, 0]
        pixels = frames.astype(np.float64) / 255
        table[f"variance_{n}"] = float(pixels.var(axis=0, ddof=1).mean())
        images = pixels[0], pixels.mean(axis=0), 10 * pixels.std(axis=0, ddof=1)
        line += [(image.clip(0, 1) * 255).round().astype(np.uint8) for image in images]
    return table, np.stack(line)


def steps_begun_with(folder: Path) -> int | None:
    """How many recorded steps the fits in a study's folder are made with; None before the first is begun."""
    for objective in OBJECTIVES:
        for path in sorted(folder.glob(f"{objective}-*/{SETTINGS}")):
            steps: int | None = json.loads(path.read_text(encoding="utf-8")).get("steps")
            return steps
    return None


class Study:
    """The fits of a study, each in a folder of its own, which go on where they stopped.

    Args:
        folder: For the fits.
        config: What is compared.
        configs: How each objective is fitted.
        store: The experience to fit.
        updates: Of each fit.
        say: Is handed lines on how it goes.
        device: Where they are fitted and dream.
        precision: "float32" or "bfloat16", of both.
    """

    def __init__(
        self,
        folder: Path,
        config: StudyConfig,
        configs: Mapping[str, WorldModelConfig],
        store: EpisodeStore,
        updates: int,
        say: Callable[[str], object],
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.folder, self.config, self.configs = folder, config, configs
        self.store, self.updates, self._say = store, updates, say
        self.device, self.precision = torch.device(device), precision

    def fits(self) -> list[tuple[str, int]]:
        """Objective and seed of each, in the order in which they are made: seed by seed."""
        return [(objective, seed) for seed in range(self.config.seeds) for objective in self.config.objectives]

    def fit(self, objective: str, seed: int, minutes: float | None = None) -> WorldModel | None:
        """Fits, or goes on fitting; None where it was stopped, as by Ctrl-C or after so many minutes."""
        config = self.configs[objective]
        with RunFolder(self.folder / f"{objective}-{seed}", tensorboard=False) as run:
            settings = {"fit": asdict(config), "updates": self.updates, "seed": seed, "steps": self.store.num_steps}
            run.settle(settings | {"precision": self.precision})
            trainer = WorldModelTrainer(config, self.store, self.updates, seed, self.device, self.precision)
            if (state := run.load()) is not None:
                with run.resuming():
                    trainer.load_state_dict(state)
            if trainer.step < self.updates:
                self._say(f"{objective}, seed {seed}: from update {trainer.step:,} to {self.updates:,}")
            reason = train(trainer, run, minutes)
        return trainer.averaged() if reason == "steps" else None

    def measure(
        self, objective: str, seed: int, model: WorldModel, reference: Reference, until: float | None = None
    ) -> bool:
        """Measures a fit with each number of denoising steps that has not been yet; what there is, is kept.

        Args:
            objective: The fit's.
            seed: The fit's.
            model: What was fitted.
            reference: What it is measured against; what was measured against another one is dropped.
            until: No measurement begins after this time (`time.monotonic`).

        Returns:
            Whether all has been measured.
        """
        name, folder = f"{objective}-{seed}", self.folder / f"{objective}-{seed}"
        result = self.result(name, reference) or {"reference": reference.fingerprint, "n": {}}
        pictures = self.pictures(name, reference)
        model.use_kernels()
        for n in self.config.denoising_steps:
            if str(n) not in result["n"]:
                if until is not None and time.monotonic() > until:
                    return False
                self._say(f"{objective}, seed {seed}: measuring with {n} denoising steps")
                result["n"][str(n)], pictures[str(n)] = measure_fit(model, reference, n, seed)
                _keep(folder, result, pictures)
        if "over_noises" not in result:
            if until is not None and time.monotonic() > until:
                return False
            result["over_noises"], pictures["over_noises"] = over_noises(model, reference.windows, seed)
            _keep(folder, result, pictures)
        return True

    def result(self, name: str, reference: Reference) -> dict[str, Any]:
        """What was measured of a fit, by its name, such as edm-0; nothing where that was against another reference."""
        path = self.folder / name / MEASURED
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return result if result.get("reference") == reference.fingerprint else {}

    def results(self, reference: Reference) -> dict[str, dict[str, Any]]:
        """What was measured of each fit with the numbers of denoising steps that are wanted, as far as it was."""
        found = {}
        for name in (f"{objective}-{seed}" for objective, seed in self.fits()):
            result = self.result(name, reference)
            tables = {str(n): result["n"][str(n)] for n in self.config.denoising_steps if str(n) in result.get("n", {})}
            if tables:
                found[name] = {**result, "n": tables}
        return found

    def pictures(self, name: str, reference: Reference) -> dict[str, _Frames]:
        """The frames of a fit by its name: those shown for each number of denoising steps, and `over_noises`."""
        path = self.folder / name / PICTURES
        return dict(np.load(path)) if self.result(name, reference) and path.exists() else {}


def _keep(folder: Path, result: Mapping[str, Any], pictures: Mapping[str, Any]) -> None:
    with atomic_path(folder / PICTURES) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **pictures)
    with atomic_write(folder / MEASURED, "w") as file:
        json.dump(result, file)
