"""Videos: an agent in a dream and in the game, and a dream beside what really happened."""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.fidelity import Diversity
from diamond_gym.trainers.grounds import Ground
from diamond_gym.trainers.pictures import tile
from diamond_gym.trainers.policies import AgentPolicy, DreamPolicy
from diamond_gym.trainers.start_states import replay_starts

_ROWS, _STEPS, _HORIZON, _SCALE = 4, 90, 50, 3


def dream_film(training: DiamondTrainer, rows: int = _ROWS, steps: int = _STEPS) -> list[npt.NDArray[np.uint8]]:
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


FPS = 8
_COMPARISON_SCALE, _GAP, _HEAD = 4, 2, 22
_TITLES = ("reality", "dream", "difference")
_INK, _PAPER = (230, 230, 230), (24, 24, 24)
_HOLD = 6  # frames for which the last real frame stands before the dream begins

_Frames = npt.NDArray[np.uint8]


def difference(real: _Frames, dreamed: _Frames) -> _Frames:
    """Absolute difference of frames uint8 (..., C, H, W), twice as bright: black where they agree."""
    apart = np.abs(real.astype(np.int16) - dreamed.astype(np.int16))
    return np.asarray((2 * apart).clip(max=255), np.uint8)


def comparison(
    result: Diversity, action_meanings: tuple[str, ...] = (), scale: int = _COMPARISON_SCALE
) -> list[_Frames]:
    """The first dream of each start beside what really followed, start below start.

    Args:
        result: Dreams of some starts with the actions that were really taken.
        action_meanings: Words for the actions, to be shown.
        scale: Screen pixels per pixel.

    Returns:
        Frames uint8 (height, width, 3): at first the last real frame, where dream and reality are one, then a frame
        for each step.
    """
    real = np.concatenate((result.before[:, None], result.real), axis=1)
    dreamed = np.concatenate((result.before[:, None], result.dreamed[:, 0]), axis=1)
    both = np.stack((real, dreamed, difference(real, dreamed)), axis=1).transpose(2, 0, 1, 4, 5, 3)  # (H+1, K, 3, ...)
    steps = both.shape[0] - 1
    film = []
    for step, sheet in enumerate(both):
        words = [f"step {step} of {steps}" if step else "the last real frame before the dream"]
        if action_meanings:
            acts = result.act[:, step - 1] if step else ()
            words.append(("actions: " + ", ".join(action_meanings[act] for act in acts)) if step else "")
        film += [_labelled(tile(sheet, scale), scale * real.shape[-1] + _GAP, words)] * (1 if step else _HOLD)
    return film


def _labelled(sheet: _Frames, column: int, words: list[str]) -> _Frames:
    """Puts the titles above the columns, and words below."""
    height, width, _ = sheet.shape
    if sheet.shape[2] == 1:
        sheet = sheet.repeat(3, axis=2)
    page = Image.new("RGB", (width, height + _HEAD * (1 + len(words))), _PAPER)
    page.paste(Image.fromarray(sheet), (0, _HEAD))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for i, title in enumerate(_TITLES):
        pen.text((i * column + column // 2, _HEAD // 2), title, _INK, font, anchor="mm")
    for i, line in enumerate(words):
        pen.text((6, height + _HEAD * (1 + i) + _HEAD // 2), line, _INK, font, anchor="lm")
    return np.asarray(page)
