"""A toy world for the trainers: tiny networks, and episodes whose frames follow from the actions."""

from pathlib import Path

import numpy as np

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.networks.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.networks.reward_end import RewardEndConfig
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.world_model_config import WorldModelConfig

SIZE, ACTIONS = 8, 3
ABOUT = About("Walk", (SIZE, SIZE, 3), ACTIONS)
INNER = InnerModelConfig(
    num_steps_conditioning=2,
    cond_channels=8,
    depths=[1],
    channels=[8],
    attn_depths=[0],
    num_actions=ACTIONS,
    patch_size=2,
)
CONFIG = WorldModelConfig(
    denoiser=DenoiserConfig(INNER, residual=True),
    reward_end=RewardEndConfig(
        lstm_dim=8, img_size=SIZE, cond_channels=8, depths=[1], channels=[8], attn_depths=[0], num_actions=ACTIONS
    ),
    denoiser_optimizer=OptimizerConfig(lr=1e-3, batch_size=4, warmup_steps=5),
    reward_end_optimizer=OptimizerConfig(lr=1e-3, batch_size=4, warmup_steps=5, max_grad_norm=100),
    reward_end_length=5,
    reward_end_every=2,
    decay_fraction=0.5,
    ema_decay=0.9,
    motion_weight=2.0,
    focus=0.5,
)


def walk(rng: np.random.Generator, steps: int) -> Episode:
    """A bright column that action 1 moves left and action 2 right; reaching a side pays -1 or 1 and ends."""
    column, frames, acts, rews = SIZE // 2, [], [], []

    def frame() -> np.ndarray:
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[:, column] = 255
        return image

    frames.append(frame())
    for _ in range(steps):
        act = int(rng.integers(ACTIONS))
        column = int(np.clip(column + (0, -1, 1)[act], 0, SIZE - 1))
        acts.append(act)
        rews.append(float((column == SIZE - 1) - (column == 0)))
        frames.append(frame())
        if rews[-1]:
            break
    end = np.zeros(len(acts), bool)
    end[-1] = bool(rews[-1])
    return Episode(
        np.stack(frames), np.array(acts), np.array(rews, np.float32), end, np.zeros(len(acts), bool), {"first": True}
    )


def store(folder: Path, episodes: int = 12, seed: int = 0) -> EpisodeStore:
    """A store of walks, opened for reading."""
    rng = np.random.default_rng(seed)
    with EpisodeStore(folder, "a", ABOUT) as writer:
        for _ in range(episodes):
            writer.append(walk(rng, 30))
    return EpisodeStore(folder)
