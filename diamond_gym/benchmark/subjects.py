"""The two models that are measured: one of the paper's size, and a bundled small one."""

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.registry import Card, game, load_world_model, now
from diamond_gym.starts import Starts
from diamond_gym.world_model import WorldModel

GAME, NANO = "Breakout", "breakout-nano"
SIZES = ("nano", "paper")


def world_model(size: str, device: torch.device, precision: str, compile: bool = False) -> WorldModel:
    """A model on its device: "nano" is a bundled one, "paper" has the paper's sizes and random weights."""
    model = load_world_model(NANO, str(device), "float32") if size == "nano" else _of_the_papers_size()
    model.to_device(device, precision)
    if compile:
        model.compile_networks()
    return model


def _of_the_papers_size() -> WorldModel:
    num_actions, side = game(GAME).num_actions, RewardEndConfig.img_size
    config = DenoiserConfig(InnerModelConfig(num_actions=num_actions))
    spaces = {"obs_shape": [side, side, 3], "num_actions": num_actions}
    card = Card("paper", GAME, now(), spaces, asdict(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = Denoiser(config)
        reward_end = RewardEnd(RewardEndConfig(num_actions=num_actions))
        for parameter in (*denoiser.parameters(), *reward_end.parameters()):
            if parameter.ndim > 1 and not parameter.any():  # what begins silent would be silent for ever
                nn.init.normal_(parameter, std=0.02)
    h, w, c = card.obs_shape
    rng, t = np.random.default_rng(0), denoiser.num_steps_conditioning
    starts = Starts(
        rng.integers(0, 256, (8, t, h, w, c), dtype=np.uint8),
        rng.integers(0, card.num_actions, (8, t - 1)),
        np.ones(8, bool),
    )
    return WorldModel(denoiser.eval(), reward_end.eval(), card=card, starts=starts)


def agent(size: str, model: WorldModel, device: torch.device) -> ActorCritic:
    """An agent of the paper's size, or a smaller one, with random weights."""
    config = ActorCriticConfig(num_actions=model.num_actions, img_size=model.obs_shape[0])
    if size == "nano":
        config = ActorCriticConfig(
            **{**asdict(config), "lstm_dim": 256, "channels": [16, 16, 32, 32], "down": [1, 1, 1, 1]}
        )
    return ActorCritic(config).to(device)


def inputs(model: WorldModel, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Past frames (B, T, C, H, W), actions (B, T) and noise (B, C, H, W), random, on the model's device."""
    h, w, c = model.obs_shape
    t, chance = model.denoiser.num_steps_conditioning, torch.Generator().manual_seed(0)
    obs = torch.rand(batch, t, c, h, w, generator=chance, dtype=torch.float32) * 2 - 1
    act = torch.randint(model.num_actions, (batch, t), generator=chance)
    noise = torch.randn(batch, c, h, w, generator=chance, dtype=torch.float32)
    return obs.to(model.device), act.to(model.device), noise.to(model.device)


def gflop_per_call(model: WorldModel) -> float:
    """GFLOP of denoising one image once, all of the network counted."""
    obs, act, noise = inputs(model, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.denoiser.condition(obs, act)(noise, 1.0)
    return float(counter.get_total_flops()) / 1e9
