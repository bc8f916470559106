"""Dream frames per second, what bfloat16 changes in them, and what the environment around them costs."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from diamond_gym import dream as dream_module
from diamond_gym.benchmark.machine import DTYPES, peak_megabytes, reset_peak
from diamond_gym.benchmark.plain import PlainDenoiser, plain_sample
from diamond_gym.benchmark.run import Row, Settings
from diamond_gym.benchmark.subjects import gflop_per_call, inputs, world_model
from diamond_gym.device import compile_network
from diamond_gym.envs.vector_env import DreamVectorEnv
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.sampler import QUALITIES, SamplerConfig, sample

LEVELS = 127.5  # of 8-bit levels per unit of a frame in [-1, 1]
_LONGEST = 40.0  # seconds of one plain call, beyond which a batch size is left out
_HORIZONS = (1, 10, 25, 50)


def _calls(config: SamplerConfig) -> int:
    """Calls of the denoiser per frame."""
    return config.order * (config.num_denoising_steps - 1) + 1


def _ways(settings: Settings, denoiser: Denoiser) -> dict[str, tuple[str, FoldedDenoiser]]:
    """The ways to dream, by name: the precision of each, and the denoiser."""
    ways = {name: (name, FoldedDenoiser(denoiser, DTYPES[name])) for name in settings.precisions}
    if settings.compile:
        for name in settings.precisions:
            compiled = copy.deepcopy(denoiser)
            compile_network(compiled.inner_model)
            ways[f"{name} compiled"] = (name, FoldedDenoiser(compiled, DTYPES[name]))
    return ways


def frames(settings: Settings) -> Iterable[Row]:
    """Frames per second of the sampler by size, quality and batch, each beside the plain one in the same minutes."""
    for size in settings.sizes:
        model = world_model(size, settings.device, "float32")
        plain, ways = PlainDenoiser(model.denoiser, settings.device), _ways(settings, model.denoiser)
        gflop, slowest = gflop_per_call(model), 0.0
        for batch in settings.batches:
            arguments = inputs(model, batch)
            if slowest * batch > _LONGEST:
                continue
            for quality in ("paper", "fast", "fine"):
                if quality != "paper" and (settings.quick or batch != 8 or (size, quality) == ("paper", "fine")):
                    continue
                config = QUALITIES[quality]
                gflops = gflop * _calls(config) * batch

                functions: dict[str, Callable[[], object]] = {
                    "plain float32": partial(plain_sample, plain, *arguments, config)
                }
                for name, (_, way) in ways.items():
                    functions[name] = partial(sample, way.condition, *arguments, config)
                reset_peak(settings.device)
                with torch.no_grad():
                    seconds = settings.clock.medians(functions, settings.budget, least=2 if settings.quick else 3)
                slowest = max(slowest, seconds["plain float32"] / batch)
                for name, value in seconds.items():
                    precision = ways[name][0] if name in ways else "float32"
                    yield Row(
                        "dream", size, f"batch {batch}, {quality}, {name}", batch / value, "frames/s",
                        seconds["plain float32"] / value,
                        gflops / value / settings.convolution[precision] if precision in settings.convolution else None,
                        peak_megabytes(settings.device),
                    )  # fmt: skip


def error(settings: Settings) -> Iterable[Row]:
    """What bfloat16 and compiling change: pixels of single frames, and dreams of 50 steps, in 8-bit levels.

    The dreams are of the same starts, actions and noise; what a dream drifts that differs in its noise alone stands
    beside them, for measure.
    """
    steps = 10 if settings.quick else max(_HORIZONS)
    for size in settings.sizes if not settings.quick else settings.sizes[:1]:
        batch, other = 16 if size == "nano" else 2, "float32 with other noise"
        models = {precision: world_model(size, settings.device, precision) for precision in DTYPES}
        if settings.compile:
            models |= {f"{name} compiled": world_model(size, settings.device, name, compile=True) for name in DTYPES}
        models[other] = models["float32"]
        dreams = {name: model.dream(batch, sampler=QUALITIES["paper"], horizon=None) for name, model in models.items()}
        exact = dreams["float32"]
        chance = torch.Generator().manual_seed(0)
        index = torch.randint(exact.num_starts, (batch,), generator=chance)
        for name, dream in dreams.items():
            dream.reset(10_000 if name == other else 0, start=index)
        for i in range(1, steps + 1):
            act = torch.randint(models[other].num_actions, (batch,), generator=chance).to(settings.device)
            for dream in dreams.values():
                dream.step(act, restart=False)
            for name, dream in dreams.items():
                if dream is exact:
                    continue
                levels = ((exact.obs - dream.obs).abs() * LEVELS).flatten().double()
                if i == 1 and name != other:
                    for share in (50, 90, 99, 99.9):
                        value = float(np.quantile(levels.cpu().numpy(), share / 100))
                        yield Row("error", size, f"{name}, one frame, {share} % of the values within", value, "levels")
                    yield Row("error", size, f"{name}, one frame, largest", float(levels.max()), "levels")
                if i in _HORIZONS:
                    rms = float((levels**2).mean().sqrt())
                    yield Row("error", size, f"{name}, after {i} steps, root mean square", rms, "levels")


def environment(settings: Settings) -> Iterable[Row]:
    """The environment's part of a step: all that is neither sampler nor reward and end model, in the same steps."""
    for size in settings.sizes:
        precision = settings.precisions[-1]
        model, batch = world_model(size, settings.device, precision), 8 if settings.quick else 32
        envs = DreamVectorEnv(model=model, num_envs=batch, quality="paper", autoreset_mode="SameStep")
        envs.reset(seed=0)
        outcome = envs.dream._outcome
        assert outcome is not None
        inside = [0.0]

        def timed(function: Callable[..., Any], inside: list[float] = inside) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                kept: list[Any] = []
                inside[0] += settings.clock.seconds(lambda: kept.append(function(*args, **kwargs)))
                return kept[0]

            return wrapper

        act, parts = np.zeros(batch, np.int64), []
        with (
            patch.object(dream_module, "sample", timed(sample)),
            patch.object(envs.dream, "_outcome", timed(outcome)),
        ):
            envs.step(act)
            for _ in range(3 if size == "paper" else 10):
                inside[0] = 0.0
                whole = settings.clock.seconds(partial(envs.step, act))
                parts.append((whole, 1 - inside[0] / whole))
        whole, overhead = (float(np.median(column)) for column in zip(*parts, strict=True))
        yield Row("environment", size, f"batch {batch}, {precision}: steps of all rows", batch / whole, "frames/s")
        yield Row("environment", size, f"batch {batch}, {precision}: overhead", 100 * overhead, "%")
        envs.close()
