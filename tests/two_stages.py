"""Recordings of two stages, and a configuration for them, small enough for tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import worlds

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.networks.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.world_model_config import UpsamplerConfig

INNER = InnerModelConfig(
    num_steps_conditioning=1, cond_channels=8, depths=[1], channels=[8], attn_depths=[0], patch_size=2
)
UPSAMPLER = UpsamplerConfig(
    2,
    DenoiserConfig(INNER, sigma_offset_noise=0.1, residual=True),
    OptimizerConfig(lr=1e-3, batch_size=2, grad_acc_steps=2, warmup_steps=5),
    every=2,
)
SIDE = 2 * worlds.SIZE
CONFIG = replace(worlds.CONFIG, upsampler=UPSAMPLER, age_weights=(1.0,), past_noise=0.1, motion_weight=0.0).for_frames(
    (SIDE, SIDE, 3), worlds.ACTIONS
)


def store(folder: Path, factor: int = 2, name: str = "Walk", episodes: int = 6, seed: int = 0) -> EpisodeStore:
    """Walks of twice the size, with a pattern that small frames do not show."""
    rng, size = np.random.default_rng(seed), factor * worlds.SIZE
    fine = np.indices((size, size)).sum(0)[None, :, :, None] % 2 * 20
    with EpisodeStore(folder, "a", About(name, (size, size, 3), worlds.ACTIONS)) as writer:
        for _ in range(episodes):
            walk = worlds.walk(rng, 30)
            obs = np.clip(walk.obs.repeat(factor, 1).repeat(factor, 2).astype(int) // 2 + fine, 0, 255).astype(np.uint8)
            writer.append(Episode(obs, walk.act, walk.rew, walk.end, walk.trunc, {"first": True}))
    return EpisodeStore(folder)
