"""Fitting steps, imagination and replay."""

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diamond_gym.benchmark.machine import peak_megabytes, reset_peak
from diamond_gym.benchmark.plain import PlainDenoiser
from diamond_gym.benchmark.run import Row, Settings
from diamond_gym.benchmark.subjects import GAME, agent, world_model
from diamond_gym.data.episode_files import About, Episode
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import SegmentSampler, to_tensors
from diamond_gym.networks.preconditioning import SigmaDistribution
from diamond_gym.sampler import QUALITIES
from diamond_gym.trainers.imagination import Imagination
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.world_model import WorldModelConfig, WorldModelTrainer
from diamond_gym.world_model import WorldModel

_EPISODES, _STEPS = 10, 200
HORIZON = 15


def experience(folder: Path, model: WorldModel) -> EpisodeStore:
    """Episodes of noise, which cost as much as others."""
    rng = np.random.default_rng(0)
    with EpisodeStore(folder, "a", About(GAME, model.obs_shape, model.num_actions)) as writer:
        for _ in range(_EPISODES):
            end = np.zeros(_STEPS, bool)
            end[-1] = True
            writer.append(
                Episode(
                    rng.integers(0, 256, (_STEPS + 1, *model.obs_shape), dtype=np.uint8),
                    rng.integers(0, model.num_actions, _STEPS),
                    rng.integers(-1, 2, _STEPS).astype(np.float32),
                    end,
                    np.zeros(_STEPS, bool),
                    {},
                )
            )
    return EpisodeStore(folder)


class _PlainFit:
    """A denoiser's fitting step as it would first be written: eager float32, AdamW in its default form."""

    def __init__(self, model: WorldModel, batches: SegmentSampler, config: OptimizerConfig) -> None:
        self.denoiser = PlainDenoiser(model.denoiser, model.device, train=True)
        self.parameters = [p for key, p in self.denoiser.weights.items() if not key.startswith("noise_emb")]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr)
        self.batches, self.device = batches, model.device

    def step(self) -> None:
        """One update."""
        batch = to_tensors(self.batches.sample(), self.device)
        loss = self.denoiser.loss(batch.obs, batch.act, lambda n: SigmaDistribution().sample(n, self.device))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def fitting(settings: Settings) -> Iterable[Row]:
    """Denoiser updates per second, two predictions each, beside plain ones; the replay's part of the fastest."""
    for size in settings.sizes:
        model = world_model(size, settings.device, "float32")
        assert model.reward_end is not None
        size_of_batch = (32 if size == "paper" else 16) if not settings.quick else 4
        optimizer = OptimizerConfig(batch_size=size_of_batch)
        with tempfile.TemporaryDirectory() as folder:
            store = experience(Path(folder), model)
            config = WorldModelConfig(model.denoiser.config, model.reward_end.config, optimizer)
            ways = {p: WorldModelTrainer(config, store, 10**6, 0, settings.device, p) for p in settings.precisions}
            if settings.compile:
                ways |= {
                    f"{p} compiled": WorldModelTrainer(config, store, 10**6, 0, settings.device, p, True)
                    for p in settings.precisions
                }
            batches = SegmentSampler(store, 6, size_of_batch, False, np.random.default_rng(0))
            functions: dict[str, Callable[[], object]] = {"plain float32": _PlainFit(model, batches, optimizer).step}
            functions |= {name: fit._denoiser_step for name, fit in ways.items()}
            reset_peak(settings.device)
            seconds = settings.clock.medians(functions, settings.budget, least=2 if size == "paper" else 3)
            megabytes = peak_megabytes(settings.device)
            for name, value in seconds.items():
                yield Row(
                    "fit", size, f"batch {size_of_batch}, {name}", 1 / value, "steps/s",
                    seconds["plain float32"] / value, megabytes=megabytes,
                )  # fmt: skip

            def replayed(batches: SegmentSampler = batches) -> None:
                to_tensors(batches.sample(), settings.device)

            replay = settings.clock.medians({"": replayed}, 2.0)[""]
            yield Row("fit", size, f"batch {size_of_batch}: replay's part", 100 * replay / min(seconds.values()), "%")
            store.close()


def imagining(settings: Settings) -> Iterable[Row]:
    """Frames per second of windows in which an agent acts, forward only."""
    for size in settings.sizes:
        precision, batch = settings.precisions[-1], 8 if settings.quick or size == "paper" else 32
        quality, steps = ("fast", "1 step") if settings.quick else ("paper", "3 steps")
        length = 3 if settings.quick or size == "paper" else HORIZON
        functions: dict[str, Callable[[], object]] = {}
        for compiled in (False, True)[: 1 + settings.compile]:
            model = world_model(size, settings.device, precision, compiled)
            dream = model.dream(batch, sampler=QUALITIES[quality], horizon=HORIZON)
            imagination = Imagination(agent(size, model, settings.device), dream)
            functions[f"{precision} compiled" if compiled else precision] = partial(imagination.window, length)
        for name, seconds in settings.clock.medians(functions, settings.budget, least=2).items():
            yield Row("imagine", size, f"batch {batch}, {name}, {steps}", batch * length / seconds, "frames/s")


def replaying(settings: Settings) -> Iterable[Row]:
    """Segments per second out of the store, as tensors on the device."""
    model = world_model("nano", settings.device, "float32")
    with tempfile.TemporaryDirectory() as folder:
        store = experience(Path(folder), model)
        for length, beyond, name in ((6, False, "denoiser's"), (19, True, "reward and end model's")):
            batches = SegmentSampler(store, length, 32, beyond, np.random.default_rng(0))

            def draw(batches: SegmentSampler = batches, beyond: bool = beyond) -> None:
                to_tensors(batches.sample(), settings.device, next_obs=beyond)

            seconds = settings.clock.medians({"": draw}, 2.0, most=50)[""]
            yield Row("replay", "", f"batch 32, the {name} ({length} frames)", 32 / seconds, "segments/s")
        store.close()
