"""Videos of an agent: in dreams, and in the real game."""

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.trainers.agent_policy import AgentPolicy
from diamond_gym.trainers.diamond import Diamond, replay_starts
from diamond_gym.trainers.dream_players import DreamPolicy
from diamond_gym.trainers.grounds import Ground
from diamond_gym.trainers.pictures import tile

_ROWS, _STEPS, _HORIZON, _SCALE = 4, 90, 50, 3


def dream_film(training: Diamond, rows: int = _ROWS, steps: int = _STEPS) -> list[npt.NDArray[np.uint8]]:
    """What the agent sees in dreams of the world model as it is by now, several side by side.

    Args:
        training: Whose model and agent.
        rows: Dreams.
        steps: Frames.

    Returns:
        Pictures uint8 (H, W, C).
    """
    with torch.random.fork_rng(devices=[]):  # networks are built with random weights first; the training's go on
        model = training.world_model.averaged()
    rng = np.random.default_rng([training.seed, training.epoch, 17])
    model.starts = replay_starts(training.store, model.denoiser.num_steps_conditioning, rows, rng)
    dream = model.dream(rows, sampler=training.config.sampler, horizon=_HORIZON)
    dream.reset(training.epoch)
    policy = DreamPolicy(training.agent.agent, dream, rng)
    first = np.ones(rows, np.bool_)
    pictures = []
    for _ in range(steps):
        frames = dream.obs.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        pictures.append(_sheet(frames))
        step = dream.step(dream.steps.new_tensor(policy(frames, first)))
        first = (step.end | step.trunc).cpu().numpy()
    return pictures


def real_film(
    ground: Ground, agent: ActorCritic, seed: int, rows: int = _ROWS, steps: int = _STEPS
) -> list[npt.NDArray[np.uint8]]:
    """The same in real games; a pure function of agent and seed, which touches no training.

    Args:
        ground: Makes the games.
        agent: Plays.
        seed: Of games and actions.
        rows: Games.
        steps: Frames.
    """
    policy = AgentPolicy(agent, rows, np.random.default_rng([seed, 19]))
    envs = ground.whole(rows)
    try:
        obs, _ = envs.reset(seed=seed)
        first = np.ones(rows, np.bool_)
        pictures = []
        for _ in range(steps):
            pictures.append(_sheet(obs))
            obs, _, terminations, truncations, _ = envs.step(policy(obs, first))
            first = terminations | truncations
        return pictures
    finally:
        envs.close()


def _sheet(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Frames (B, H, W, C) side by side in three channels, whatever C is."""
    frames = frames[..., :3] if frames.shape[3] > 2 else frames[..., :1].repeat(3, axis=3)
    return tile(frames[None], _SCALE)
