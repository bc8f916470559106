"""How well numbers of a dreamed frame tell that the dream has left the game: areas under the ROC curve.

    python -m benchmarks.hallucination pong-nano

A dreamed frame counts as left if something that matters is not alive in it (`diamond_gym.trainers.things`), or if more
than one per cent of its pixels are artefacts by held-out play (`diamond_gym.trainers.looks`). The numbers know neither:
they are computed from the frame, the model, and the real frames that the model brings to begin from.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import Tensor

from diamond_gym.cli.collect import store_folder
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.frames import SeenColours, to_pixels
from diamond_gym.networks.inference import prepared
from diamond_gym.registry import load_world_model, resolve
from diamond_gym.sampler import SamplerConfig, karras_sigmas
from diamond_gym.trainers.looks import distances
from diamond_gym.trainers.things import Detector
from diamond_gym.world_model import WorldModel

_ARTEFACTS, _NOISES, _RESAMPLES = 0.01, 4, 300

Measure = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the past (B, T, C, H, W), its actions (B, T) and the frame (B, C, H, W) to a number for each row (B,)."""


def measures(model: WorldModel, sampler: SamplerConfig) -> dict[str, Measure]:
    """The numbers to compare, by what they are."""
    denoiser, noise = prepared(model.denoiser, torch.float32), torch.Generator().manual_seed(0)
    starts = torch.from_numpy(model.starts.obs).flatten(0, 1).movedim(-1, 1).contiguous()
    seen, largest = SeenColours(starts), karras_sigmas(sampler)[0]

    def spread(past: Tensor, act: Tensor, frame: Tensor) -> Tensor:
        denoise = denoiser.condition(past, act, None, (largest,))
        images = [denoise(torch.randn(frame.shape, generator=noise), largest) for _ in range(_NOISES)]
        return torch.stack(images).std(0).flatten(1).mean(1)

    def error(sigma: float) -> Measure:
        def measure(past: Tensor, act: Tensor, frame: Tensor) -> Tensor:
            denoise = denoiser.condition(past, act, None, (sigma,))
            noisy = frame + sigma * torch.randn(frame.shape, generator=noise)
            return (denoise(noisy, sigma) - frame).square().flatten(1).mean(1).sqrt()

        return measure

    def pixels(frame: Tensor) -> Tensor:
        return to_pixels(frame).movedim(-1, 1)

    return {
        "unseen colours": lambda past, act, frame: seen.artefacts(pixels(frame)),
        "nearest start": lambda past, act, frame: distances(pixels(frame), starts),
        f"spread of {_NOISES} noises": spread,
        "error at sigma 0.1": error(0.1),
        "error at sigma 1": error(1.0),
    }


def auc(value: npt.NDArray[np.float64], left: npt.NDArray[np.bool_]) -> float:
    """The chance that a frame that left has the larger value than one that did not; ties count half."""
    from scipy.stats import rankdata

    n, m = int(left.sum()), int((~left).sum())
    return float((rankdata(value)[left].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


@dataclass(frozen=True)
class Hallucination:
    """Compares numbers that may tell when a dream has left the game."""

    name: tyro.conf.Positional[str]
    """A model of a game whose things are counted."""
    dreams: int = 16
    """Dreams under random play."""
    steps: int = 200
    """Steps of each."""
    every: int = 10
    """After so many steps the numbers are taken."""
    data: str | None = None
    """Held-out play (default: <home>/data/<game>-test)."""
    seed: int = 0
    """Seeds dreams and actions."""

    @torch.no_grad()
    def run(self) -> dict[str, Any]:
        """Dreams, measures, and sets the numbers against what was lost."""
        entry = resolve(self.name)
        game = entry.card.game
        model = load_world_model(entry, "cpu", "float32")
        model.use_kernels()
        store = EpisodeStore(store_folder(self.data or f"{game.lower()}-test"))
        real = np.concatenate([episode.obs.transpose(0, 3, 1, 2) for episode in store])
        detector, seen = Detector(game, real), SeenColours(torch.from_numpy(real))
        if not detector.things:
            raise BadArgument(f"nothing is counted in {game}")
        sampler = SamplerConfig(**entry.card.sampler)
        compared, rng = measures(model, sampler), np.random.default_rng(self.seed)
        dream = model.dream(self.dreams, sampler=sampler, horizon=None)
        dream.reset(self.seed)
        assert dream.obs_window is not None
        assert dream.act_window is not None
        frames = list(dream.obs_window.unbind(1))
        acts, known = list(dream.act_window[:, :-1].unbind(1)), len(frames)
        values: dict[str, list[Tensor]] = {name: [] for name in compared}
        seconds = dict.fromkeys(("a step", *compared), 0.0)
        for step in range(1, self.steps + 1):
            act = torch.from_numpy(rng.integers(0, model.num_actions, self.dreams))
            past, actions = dream.obs_window.clone(), torch.cat((dream.act_window[:, :-1], act[:, None]), 1)
            began = time.perf_counter()
            dream.step(act, restart=False)
            seconds["a step"] += (time.perf_counter() - began) * self.every / self.steps
            frames.append(dream.obs)
            acts.append(act)
            for name, measure in compared.items() if step % self.every == 0 else ():
                began = time.perf_counter()
                values[name].append(measure(past, actions, frames[-1]))
                seconds[name] += (time.perf_counter() - began) / (self.steps // self.every) * self.every
        obs = np.stack([to_pixels(frame).numpy() for frame in frames], 1).transpose(0, 1, 4, 2, 3)
        alive = np.logical_and.reduce(list(detector.alive(obs, torch.stack(acts, 1).numpy()).values()))
        at = slice(known - 1 + self.every, None, self.every)
        shares = torch.stack([seen.artefacts(torch.from_numpy(column)) for column in obs[:, at].swapaxes(0, 1)], 1)
        lost, strange = ~alive[:, at], shares.numpy() > _ARTEFACTS
        left = lost | strange
        table: dict[str, Any] = {"frames": left.size, "left": float(left.mean()), "lost": float(lost.mean())}
        for name, columns in values.items():
            value = torch.stack(columns, 1).double().numpy()
            low, high = _interval(value, left)
            table[name] = {
                "auc": round(auc(value.ravel(), left.ravel()), 3), "interval_95": [round(low, 3), round(high, 3)],
                "auc_lost": round(auc(value.ravel(), lost.ravel()), 3),
                "auc_artefacts": round(auc(value.ravel(), strange.ravel()), 3),
                "time_over_a_step": round(seconds[name] / seconds["a step"], 3),
            }  # fmt: skip
        return table


def _interval(value: npt.NDArray[np.float64], left: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """A bootstrap interval over whole dreams, whose frames are alike."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(value), len(value)) for _ in range(_RESAMPLES)]
    low, high = np.nanquantile([auc(value[rows].ravel(), left[rows].ravel()) for rows in drawn], (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    try:
        print(json.dumps(tyro.cli(Hallucination).run(), indent=2))
    except DiamondGymError as error:
        raise SystemExit(str(error)) from None
