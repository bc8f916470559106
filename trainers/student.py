"""A distilled student: held against its teacher on held-out play, and its card."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import cut, to_tensors
from diamond_gym.device import PRECISIONS
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import FoldedDenoiser, prepared
from diamond_gym.registry import Card, Entry
from diamond_gym.registry.card import now
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.trainers.batches import Appearances
from diamond_gym.trainers.distill import DistillConfig
from diamond_gym.trainers.fidelity import Table, figures, rounded
from diamond_gym.trainers.register import made_here, unlike_the_papers
from diamond_gym.trainers.rollouts import Progress, Rollouts, dream_rollouts
from diamond_gym.world_model import WorldModel


def boundaries(store: EpisodeStore, t: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pasts after which something appears, as when a ball is served: where what follows is least certain.

    Returns:
        Up to n windows: frames in [-1, 1], float32 (n, T, C, H, W), and actions, (n, T); none where nothing appears.
    """
    events: npt.NDArray[np.int64] = np.unique(Appearances(across_lives=True)(store), axis=0)
    events = np.random.default_rng(seed).permutation(events)[:n]
    batch = to_tensors(cut(store, events[:, 0], events[:, 1] - (t - 1), t, across_lives=True))
    return batch.obs, batch.act


@torch.no_grad()
def spread(
    denoiser: Denoiser | FoldedDenoiser, obs: Tensor, act: Tensor, sampler: SamplerConfig, k: int = 8, seed: int = 0
) -> Tensor:
    """The next frames of each window from k noises, which are the same for whoever is asked with the same seed.

    Args:
        denoiser: Whose.
        obs: Windows in [-1, 1], float32 (N, T, C, H, W).
        act: Their actions, (N, T).
        sampler: How frames are sampled.
        k: Noises of each window, at least 2.
        seed: Seeds the noises.

    Returns:
        float32 (N, k, C, H, W), on the windows' device.
    """
    dice = torch.Generator().manual_seed(seed)
    frames = []
    for window, acts in zip(obs.split(4), act.split(4), strict=True):
        noise = torch.randn((len(window) * k, *window.shape[2:]), generator=dice).to(obs.device)
        past, actions = window.repeat_interleave(k, dim=0), acts.repeat_interleave(k, dim=0)
        frames.append(sample(denoiser.condition, past, actions, noise, sampler)[0].float().unflatten(0, (-1, k)))
    return torch.cat(frames)


def compare(
    config: DistillConfig,
    teacher: WorldModel,
    student: WorldModel,
    held_out: EpisodeStore,
    windows: int,
    horizon: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """Holds the student against its teacher, in several steps and in one, on held-out play.

    Args:
        config: Who samples how.
        teacher: On the device.
        student: There, too.
        held_out: Real play that neither has learnt from.
        windows: Windows to dream over again with the actions that were really taken; of boundaries, half as many.
        horizon: Steps of each.
        seed: Seeds the choice of windows and the noise.
        progress: Called with the number of frames dreamed since the last call.

    Returns:
        The figures of a card: the student's by their plain names, those of the `teacher` and of the
        `teacher_in_one_step` in tables, and in `spread` the variance of the next frame over noises at boundaries
        (`boundaries`; pixels in [0, 1]) of all three, and the student's over the teacher's.
    """
    t = teacher.denoiser.num_steps_conditioning
    real = Rollouts.held_out(held_out, windows, t, horizon, seed)
    obs, act = (part.to(teacher.device) for part in boundaries(held_out, t, max(1, windows // 2), seed))
    tables, variances = dict[str, Table](), dict[str, float]()
    sides = (student, config.student), (teacher, config.teacher), (teacher, config.student)
    for name, (model, sampler) in zip(("student", "teacher", "teacher_in_one_step"), sides, strict=True):
        model.use_kernels()
        began = time.perf_counter()
        dreamed = dream_rollouts(model, real, sampler, None, seed, progress)
        speed = len(real) * horizon / (time.perf_counter() - began)
        tables[name] = figures(real, dreamed) | {"frames_per_second": speed}
        if len(obs):
            frames = spread(prepared(model.denoiser, PRECISIONS[model.precision]), obs, act, sampler, seed=seed)
            variances[name] = float(frames.var(dim=1).mean()) / 4  # of pixels in [0, 1]
    result = tables.pop("student") | tables
    if variances:
        ratio = variances["student"] / variances["teacher"] if variances["teacher"] else float("nan")
        result["spread"] = {"boundaries": len(obs), **variances, "student_over_teacher": ratio}
    return result


def student_card(
    name: str,
    teacher: Entry,
    config: DistillConfig,
    training: Mapping[str, Any],
    store: EpisodeStore,
    measured: Mapping[str, Any],
    command: str,
    origin: str,
) -> Card:
    """The card of a student: its teacher's but for what it was fitted to, how, and what was measured.

    Args:
        name: The registry name.
        teacher: The model that it was fitted to.
        config: How.
        training: What else to say about the training.
        store: The play that it dreamed on from.
        measured: What `compare` returned; may be empty.
        command: The command that made it.
        origin: Where the play is from.
    """
    card, steps = teacher.card, config.teacher.num_denoising_steps
    return replace(
        card,
        name=name,
        created=now(),
        summary=f"A student of {teacher.name}: it dreams {card.game} in one denoising step, as its teacher does in "
        f"{steps}, and has its teacher's rewards, ends and starts.",
        source=command,
        actor_critic=None,  # the agent has learnt in other dreams
        sampler=unlike_the_papers(config.student),
        training={
            **training,
            "teacher": {
                "name": teacher.name,
                "weights": card.files["weights"].sha256,
                "sampler": {key: value for key, value in asdict(config.teacher).items() if np.isfinite(value)},
            },
            "data": {"steps": store.num_steps, "episodes": len(store), "source": origin},
            **made_here(),
        },
        figures=rounded(measured),
        files={},
    )
