"""The outer loop on Catch with networks as small as they can be, for the tests of the loop."""

from dataclasses import replace

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

import diamond_gym  # noqa: F401
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.networks.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.networks.reward_end import RewardEndConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.world_model_config import WorldModelConfig
from diamond_gym.trainers.worlds import find_world

ID = "DiamondGym/Catch-v0"
WORLD = find_world(env=ID)
OPTIMIZER = OptimizerConfig(lr=1e-3, batch_size=2, warmup_steps=1)
TINY = DiamondConfig(
    fit=WorldModelConfig(
        DenoiserConfig(InnerModelConfig(num_steps_conditioning=2, cond_channels=8, depths=[1], channels=[8],
                                        attn_depths=[0], patch_size=4), residual=True),
        RewardEndConfig(lstm_dim=8, cond_channels=8, depths=[1], channels=[8], attn_depths=[0], patch_size=4),
        OPTIMIZER, OPTIMIZER, reward_end_length=4, focus=0.5,
    ),
    agent=AgentFitConfig(
        ActorCriticConfig(lstm_dim=8, channels=[4, 4], down=[1, 1]),
        optimizer=replace(OPTIMIZER, weight_decay=0), horizon=3,
    ),
    sampler=SamplerConfig(num_denoising_steps=1),
    epochs=4, real_steps=40, first_steps=20, first_steps_at_most=30, first_rewards=3, steps_per_epoch=8,
    world_model_steps=2, agent_steps=2, first_world_model_steps=3, first_agent_steps=3, epsilon=0.3, num_starts=4,
)  # fmt: skip


def begin(run, config=TINY):
    return DiamondTrainer(config, run, WORLD.about, WORLD.envs(config.num_envs))


def train(folder, epochs, kill=False):
    """Trains up to an epoch; `kill` leaves it in the midst of the next, with experience that no checkpoint knows."""
    with RunFolder(folder, tensorboard=False) as run:
        diamond = begin(run)
        figures = [diamond.train_epoch() for _ in range(diamond.epoch, epochs)]
        if kill:
            diamond.collector.collect(5)
            diamond.world_model.train_step()
        diamond.close()
    torch.manual_seed(999)
    weights = diamond.world_model.world_model.weights() | diamond.agent.agent.state_dict()
    return figures, weights, list(diamond.store)


def games(rows):
    return gym.make_vec(ID, rows, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})
