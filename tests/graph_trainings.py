"""Trainings small enough to be recorded in a test, and how far two of them came apart."""

from dataclasses import replace

import worlds

from diamond_gym.cuda_graphs import WARM_UP
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.trainers.world_model import WorldModelTrainer

STEPS = 4 * WARM_UP  # of which the last are replays, after a change of the batch's shape in the middle
CONFIG = replace(
    worlds.CONFIG, reward_end_every=1, num_autoregressive_steps=1, autoregressive_from=0.5, past_noise=0.2, focus=0.3
)
AGENT = AgentFitConfig(
    ActorCriticConfig(lstm_dim=8, img_size=worlds.SIZE, channels=[8, 8], down=[1, 1], num_actions=worlds.ACTIONS),
    optimizer=OptimizerConfig(lr=1e-3, weight_decay=0, warmup_steps=4, max_grad_norm=100, batch_size=4),
    horizon=3,
)
# Rounding alone. Of two frames that were rounded apart, one differs by a level of 255, and Adam makes much of little.
CLOSE = 0.02


def tensors(module):
    return [tensor.detach().cpu().clone() for tensor in module.state_dict().values()]


def apart(first, second, begun):
    """How far two trainings came apart, as a part of the way that they went."""
    distance, way = (
        sum(float((a - b).square().sum()) for a, b in zip(first, other, strict=True)) ** 0.5
        for other in (second, begun)
    )
    assert way > 0
    return distance / way


def dream(store, device):
    """Of a model that has learnt a little, in training with all in one process."""
    model = WorldModelTrainer(worlds.CONFIG, store, 4, seed=1, device=device).averaged()
    model.starts = draw_starts(store, worlds.INNER.num_steps_conditioning, 40)
    return model.dream(AGENT.optimizer.batch_size, sampler=SamplerConfig(num_denoising_steps=1), horizon=3)
