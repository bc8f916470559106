"""A world model's dream of what really happened, with the real actions: errors, rewards and ends, calibration."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import cut, windows
from diamond_gym.device import PRECISIONS
from diamond_gym.errors import DiamondGymError
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.world_model import WorldModel


@dataclass(frozen=True)
class RealPlay:
    """Held-out windows of real play.

    Attributes:
        obs: uint8 (N, T + H, C, H, W), T frames to begin from and the H that really followed.
        act: int64 (N, T + H - 1), the action between each two frames.
        rew: float32 (N, H), signs of the rewards of the last H steps.
        end: bool (N, H), whether they ended the episode.
    """

    obs: npt.NDArray[np.uint8]
    act: npt.NDArray[np.int64]
    rew: npt.NDArray[np.float32]
    end: npt.NDArray[np.bool_]

    @classmethod
    def draw(cls, store: EpisodeStore, n: int, t: int, horizon: int, seed: int = 0) -> "RealPlay":
        """Draws n windows of `horizon` steps after T frames, uniformly over a store of held-out episodes.

        The horizon lies in one episode, as does the frame before it; those before may be of earlier lives.
        """
        steps = t + horizon - 1
        chosen = windows(store, n, steps, seed, past=t - 1)
        batch = cut(
            store, chosen.episode, chosen.start, steps + 1, across_lives=True
        )  # one more, for the frame after the last step
        ending = batch.final_index == steps - 1
        batch.obs[ending, -1] = batch.final_obs[ending]
        after = slice(t - 1, steps)
        return cls(batch.obs, batch.act[:, :-1], np.sign(batch.rew[:, after]), batch.end[:, after])


@dataclass(frozen=True)
class Rollout:
    """What was dreamed in place of the real windows.

    Attributes:
        obs: uint8 (N, H, C, H, W).
        rew_probs: float32 (N, H, 3), of the signs -1, 0, 1; None without a reward/end model.
        end_probs: float32 (N, H); None without a reward/end model.
    """

    obs: npt.NDArray[np.uint8]
    rew_probs: npt.NDArray[np.float32] | None
    end_probs: npt.NDArray[np.float32] | None


@torch.no_grad()
def closed_loop(
    model: WorldModel,
    play: RealPlay,
    sampler: SamplerConfig,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Rollout:
    """Dreams on from the first T frames of each window with the actions that were really taken.

    Args:
        model: The world model.
        play: Real windows.
        sampler: How frames are sampled.
        batch_size: Windows dreamed at once.
        seed: Seeds the sampling noise.
        progress: Called with the number of frames dreamed since the last call.
    """
    generator = torch.Generator().manual_seed(seed)
    rollouts = []
    for first in range(0, len(play.obs), batch_size):
        rows = slice(first, first + batch_size)
        rollouts.append(_closed_loop(model, play.obs[rows], play.act[rows], sampler, generator, progress))
    columns = list(zip(*rollouts, strict=True))
    obs, rew, end = (None if column[0] is None else np.concatenate(column) for column in columns)
    assert obs is not None
    return Rollout(obs, rew, end)


def _closed_loop(
    model: WorldModel,
    real_obs: npt.NDArray[np.uint8],
    real_act: npt.NDArray[np.int64],
    sampler: SamplerConfig,
    generator: torch.Generator,
    progress: Callable[[int], None] | None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
    device, t = model.device, model.denoiser.num_steps_conditioning
    act = torch.from_numpy(real_act).to(device)
    window = torch.from_numpy(real_obs[:, :t]).to(device).float() / 255 * 2 - 1
    horizon = act.shape[1] - t + 1

    def noise(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)

    frames, rews, ends, state = [], [], [], None
    with torch.autocast(device.type, PRECISIONS[model.precision], enabled=model.precision != "float32"):
        if model.reward_end is not None and t > 1:
            _, _, state = model.reward_end(window[:, :-1], act[:, : t - 1], window[:, 1:])
        for i in range(horizon):
            x0 = noise((len(window), *window.shape[2:]))
            frame, _ = sample(model.denoiser.condition, window, act[:, i : i + t], x0, sampler, noise)
            if model.reward_end is not None:
                now = act[:, i + t - 1 : i + t]
                rew, end, state = model.reward_end(window[:, -1:], now, frame[:, None], state)
                rews.append(rew.softmax(-1)[:, 0])
                ends.append(end.softmax(-1)[:, 0, 1])
            window = torch.cat((window[:, 1:], frame[:, None]), dim=1)
            frames.append(frame.add(1).mul(127.5).round().byte())
            if progress is not None:
                progress(len(frame))
    if not rews:
        return torch.stack(frames, 1).cpu().numpy(), None, None
    probs = torch.stack(rews, 1).cpu().numpy(), torch.stack(ends, 1).cpu().numpy()
    return torch.stack(frames, 1).cpu().numpy(), *probs


def frame_errors(play: RealPlay, rollout: Rollout) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean squared errors by horizon, pixels in [0, 1]: of the dream, and of repeating the last real frame; (H,)."""
    t = play.obs.shape[1] - rollout.obs.shape[1]
    last = play.obs[:, t - 1].astype(np.float32)
    dream, copy = [], []
    for i in range(rollout.obs.shape[1]):
        real = play.obs[:, t + i].astype(np.float32)
        dream.append((((rollout.obs[:, i] - real) / 255) ** 2).mean(dtype=np.float64))
        copy.append((((last - real) / 255) ** 2).mean(dtype=np.float64))
    return np.array(dream), np.array(copy)


@dataclass(frozen=True)
class Detection:
    """How well rare events were found at their exact step."""

    precision: float
    recall: float
    f1: float
    events: int


def detection(real: npt.NDArray[np.generic], result: npt.NDArray[np.generic]) -> Detection:
    """Scores found events (non-zero entries, which must be of the same kind) against real ones, of one shape."""
    hits = int(((real == result) & (real != 0)).sum())
    num_real, num_found = int((real != 0).sum()), int((result != 0).sum())
    precision = hits / num_found if num_found else 0.0
    recall = hits / num_real if num_real else 0.0
    f1 = 2 * hits / (num_real + num_found) if num_real + num_found else 0.0
    return Detection(precision, recall, f1, num_real)


def figures(play: RealPlay, rollout: Rollout, horizons: tuple[int, ...] = (1, 4, 16)) -> dict[str, float]:
    """The figures of a card: error over that of copying the last frame, and reward and end detection.

    Rewards and ends count as found where they are the most probable outcome, at the exact step; `_sampled` are
    the same with outcomes sampled as a dream samples them.
    """
    if max(horizons) > rollout.obs.shape[1]:
        raise DiamondGymError(f"a horizon of {max(horizons)} needs windows of that length")
    dream, copy = frame_errors(play, rollout)
    table: dict[str, float] = {"windows": len(play.obs)}
    for h in horizons:
        table[f"mse_{h}"] = float(dream[h - 1])
        table[f"mse_over_copy_{h}"] = float(dream[h - 1] / copy[h - 1])
    if rollout.rew_probs is None or rollout.end_probs is None:
        return table
    rng = np.random.default_rng(0)
    u = rng.random(play.rew.shape)
    likely = rollout.rew_probs.argmax(-1) - 1
    sampled = (u[..., None] >= rollout.rew_probs.cumsum(-1)[..., :2]).sum(-1) - 1
    scores = {
        "reward": detection(play.rew, likely),
        "reward_sampled": detection(play.rew, sampled),
        "end": detection(play.end, rollout.end_probs > 0.5),
        "end_sampled": detection(play.end, rng.random(play.end.shape) < rollout.end_probs),
    }
    for name, score in scores.items():
        table |= {f"{name}_precision": score.precision, f"{name}_recall": score.recall, f"{name}_f1": score.f1}
    return table | {"rewards": scores["reward"].events, "ends": scores["end"].events}


_Floats = npt.NDArray[np.float64]

# Rewards and ends are rare: with even bins nearly all chances would lie in the first.
EDGES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_BATCH = 64


@dataclass(frozen=True)
class Reliability:
    """Chances that were given, beside how often it happened.

    Attributes:
        said: float64 (bins,), the mean chance in each bin; NaN where the bin is empty.
        happened: float64 (bins,), the share in which it happened.
        count: int64 (bins,).
        ece: The expected calibration error, the mean of |said - happened| over all chances by their bins
            (Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning").
        brier: The mean squared difference of chance and outcome (Brier 1950).
        skill: 1 - brier / that of always saying how often it happens on the whole: 1 is perfect, 0 is no better than
            that; NaN where it never or always happens.
    """

    said: _Floats
    happened: _Floats
    count: npt.NDArray[np.int64]
    ece: float
    brier: float
    skill: float


def reliability(
    chance: npt.NDArray[np.floating], happened: npt.NDArray[np.bool_], edges: tuple[float, ...] = EDGES
) -> Reliability:
    """Holds chances in [0, 1] against what happened, both of any one shape."""
    p, y = chance.ravel().astype(np.float64), happened.ravel().astype(np.float64)
    bins = len(edges) - 1
    place = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        message, share = (np.bincount(place, weights=w, minlength=bins) / count for w in (p, y))
    filled = count > 0
    ece = float((count[filled] * np.abs(message - share)[filled]).sum() / len(p))
    brier, base = float(((p - y) ** 2).mean()), float(y.mean() * (1 - y.mean()))
    return Reliability(message, share, count.astype(np.int64), ece, brier, 1 - brier / base if base else float("nan"))


@torch.no_grad()
def judge(model: WorldModel, play: RealPlay) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """What the reward/end model says of the real frames themselves, so that no dreamed frame blurs its judgement.

    Returns:
        Chances of the signs -1, 0, 1 (N, H, 3) and of an end (N, H); None without a reward/end model.
    """
    if model.reward_end is None:
        return None
    device, first = model.device, play.obs.shape[1] - play.rew.shape[1] - 1
    rews, ends = [], []
    for i in range(0, len(play.obs), _BATCH):
        obs = torch.from_numpy(play.obs[i : i + _BATCH]).to(device).float() / 255 * 2 - 1
        act = torch.from_numpy(play.act[i : i + _BATCH]).to(device)
        with torch.autocast(device.type, PRECISIONS[model.precision], enabled=model.precision != "float32"):
            rew, end, _ = model.reward_end(obs[:, :-1], act, obs[:, 1:])
        rews.append(rew.float().softmax(-1)[:, first:].cpu().numpy())
        ends.append(end.float().softmax(-1)[:, first:, 1].cpu().numpy())
    return np.concatenate(rews), np.concatenate(ends)
