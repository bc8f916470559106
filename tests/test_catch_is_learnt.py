"""The whole loop learns Catch, in dreams alone."""

import time
from dataclasses import replace

import pytest
from catch_loop import begin, games

from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.networks.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.networks.reward_end import RewardEndConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.actor_critic import ActorCriticLossConfig, AgentFitConfig
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.evaluate import score
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.world_model_config import WorldModelConfig

FAST = OptimizerConfig(lr=1e-3, batch_size=32, warmup_steps=50)
CATCH = DiamondConfig(
    fit=WorldModelConfig(
        DenoiserConfig(InnerModelConfig(num_steps_conditioning=2, cond_channels=32, depths=[1], channels=[32],
                                        attn_depths=[0], patch_size=2), residual=True),
        RewardEndConfig(lstm_dim=64, cond_channels=32, depths=[1], channels=[16], attn_depths=[0], patch_size=2),
        FAST, replace(FAST, max_grad_norm=100.0, batch_size=16), num_autoregressive_steps=0, reward_end_length=8,
        reward_end_every=2, focus=0.5, ema_decay=0.99,
    ),
    agent=AgentFitConfig(
        ActorCriticConfig(lstm_dim=64, channels=[16, 16], down=[1, 1]),
        ActorCriticLossConfig(weight_entropy_loss=0.01),
        OptimizerConfig(lr=3e-3, weight_decay=0, max_grad_norm=100, batch_size=32), horizon=8,
    ),
    sampler=SamplerConfig(num_denoising_steps=1),
    epochs=5, real_steps=8000, first_steps=3000, first_steps_at_most=3000, steps_per_epoch=500,
    world_model_steps=100, agent_steps=100, first_world_model_steps=1200, first_agent_steps=150,
    num_envs=4, epsilon=0.1,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_catch_is_learnt_in_dreams_alone(tmp_path):
    """From nothing to a real return of 0.8 over 100 games; pytest's `-m slow -s` shows the curve."""
    began, worked = time.monotonic(), time.process_time()
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run, CATCH)
        returns = [score(diamond.agent.agent, games(10), "Catch", 100).mean]
        print(f"\nuntrained: real return {returns[-1]:.2f}")
        while diamond.epoch < CATCH.epochs:
            figures = diamond.train_epoch()
            returns.append(score(diamond.agent.agent, games(10), "Catch", 100).mean)
            print(
                f"epoch {diamond.epoch}: real return {returns[-1]:.2f} after {figures['real/steps']:,.0f} real steps, "
                f"{diamond.world_model.step:,} and {diamond.agent.step:,} updates, {time.monotonic() - began:.0f} s, "
                f"{time.process_time() - worked:.0f} s of processor",
                flush=True,
            )
        diamond.close()
    assert returns[0] < 0
    assert returns[-1] >= 0.8, returns
