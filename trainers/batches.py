"""The batches of a world model's training: segments drawn from anywhere, and around what is rare."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import SegmentSampler
from diamond_gym.trainers.appearances import Appearances
from diamond_gym.trainers.focus import Focus, FocusedSampler, PrioritizedSteps, find_events, split
from diamond_gym.trainers.loop import Processes, own_rows
from diamond_gym.trainers.world_model_config import WorldModelConfig

LEAD = 10  # how many steps before a reward or an end a focused denoiser segment may stop


def denoiser_batches(
    config: WorldModelConfig,
    store: EpisodeStore,
    fabric: Processes,
    rngs: Sequence[np.random.Generator],
    prioritized: PrioritizedSteps | None,
) -> FocusedSampler:
    """Draws the denoiser's batches, this process's rows of them.

    Args:
        config: Of the training.
        store: The experience.
        fabric: The processes that train together.
        rngs: Two sources of chance: of segments from anywhere, and of those around events.
        prioritized: Finds the steps that are predicted worst, if they are wanted.
    """
    t = config.denoiser.inner_model.num_steps_conditioning
    length = t + 1 + config.num_autoregressive_steps
    # from the step that brings the event back to those that lead to it, each as a predicted frame
    leading, predicted = (t - 1, length - 2 + LEAD), (t - 1, t - 1)
    batch = own_rows(fabric, config.denoiser_optimizer.batch_size)
    parts = config.denoiser_focus, config.appearance_focus, config.prioritized
    batch, around, appearing, worst = split(batch, *parts)
    focuses = [
        Focus(around, leading, find_events),
        Focus(appearing, predicted, Appearances(config.across_lives)),
        Focus(worst, predicted, prioritized or find_events),
    ]
    return FocusedSampler(SegmentSampler(store, length, batch, False, rngs[0], **_how(config)), focuses, rngs[1])


def reward_end_batches(
    config: WorldModelConfig, store: EpisodeStore, fabric: Processes, rngs: Sequence[np.random.Generator]
) -> FocusedSampler:
    """Draws the reward and end model's batches; arguments as those of `denoiser_batches`."""
    length = config.reward_end_length
    batch, around = split(own_rows(fabric, config.reward_end_optimizer.batch_size), config.focus)
    base = SegmentSampler(store, length, batch, True, rngs[0], **_how(config))
    return FocusedSampler(base, [Focus(around, (0, length - 2), find_events)], rngs[1])


def _how(config: WorldModelConfig) -> dict[str, Any]:
    how: dict[str, Any] = {"across_lives": config.across_lives}
    return how if config.age_weights is None else how | {"weights": config.age_weights}
