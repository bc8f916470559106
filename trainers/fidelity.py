"""Figures of a world model: errors, rewards and ends, calibration, returns, drift and diversity."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.device import PRECISIONS
from diamond_gym.frames import to_frames
from diamond_gym.networks.inference import prepared
from diamond_gym.trainers.evaluate import interval
from diamond_gym.trainers.rollouts import Rollouts
from diamond_gym.world_model import WorldModel

_Frames = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]
Table = dict[str, Any]

HORIZONS = (1, 4, 16)
"""Steps, counted from 1, at which errors are taken, as far as rollouts reach."""
UNDEFINED = "undefined"
"""The name under which a card lists the figures that could not be defined on its held-out play."""
PSNR_LIMIT = 100.0  # dB, of frames that agree to the last bit
_BATCH = 16  # windows scored at once: few enough for a CPU's cache
_SSIM_WINDOW = 11
_MOVED = 16  # levels by which a pixel has to change to count as moving


def mse(a: _Frames, b: _Frames) -> _Floats:
    """Mean squared errors by step, pixels in [0, 1], of frames uint8 (N, H, C, h, w): (H,)."""
    # step by step: all at once would take gigabytes
    pairs = ((a[:, i].astype(np.float32), b[:, i if b.shape[1] > 1 else 0]) for i in range(a.shape[1]))
    return np.array([(((x - y) / 255) ** 2).mean(dtype=np.float64) for x, y in pairs])


def over(error: _Floats, other: _Floats) -> _Floats:
    """Errors over others, NaN where the other is 0: where nothing moves, copying has no error to be compared with."""
    result: _Floats = np.divide(error, other, out=np.full(error.shape, np.nan), where=other > 0)
    return result


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error with pixels in [0, 1], at most `PSNR_LIMIT`."""
    return float(-10 * np.log10(max(error, 10 ** (-PSNR_LIMIT / 10))))


def ssim(a: _Frames, b: _Frames) -> float:
    """Mean structural similarity of frames uint8 (N, C, h, w), with the settings of Wang et al. 2004 (IEEE TIP 13).

    NaN where frames are smaller than its window of 11×11 pixels.
    """
    from skimage.metrics import structural_similarity

    n, c, h, w = a.shape
    if min(h, w) < _SSIM_WINDOW:
        return float("nan")
    # all frames in one call, one below the other: only windows that lie within a frame count
    tall = (frames.swapaxes(0, 1).reshape(c, n * h, w) for frames in (a, b))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, at = structural_similarity(*tall, channel_axis=0, data_range=255, full=True, **settings)
    edge = _SSIM_WINDOW // 2
    return float(at.reshape(c, n, h, w)[..., edge:-edge, edge:-edge].mean())


class Detection(NamedTuple):
    """How well rare events were detected at their exact step; NaN where a figure has nothing to be measured on."""

    precision: float
    recall: float
    f1: float
    events: int


def detection(real: npt.NDArray[np.generic], result: npt.NDArray[np.generic]) -> Detection:
    """Scores detected events (non-zero entries, which must be of the same kind) against real ones, of one shape.

    Without a detection there is no precision, without an event no recall, and without either no F1; where only one of
    them is missing, F1 is 0.
    """
    hits = int(((real == result) & (real != 0)).sum())
    num_real, num_result = int((real != 0).sum()), int((result != 0).sum())
    precision = hits / num_result if num_result else float("nan")
    recall = hits / num_real if num_real else float("nan")
    f1 = 2 * hits / (num_real + num_result) if num_real + num_result else float("nan")
    return Detection(precision, recall, f1, num_real)


def horizons_of(rollouts: Rollouts) -> list[int]:
    """The steps at which errors of rollouts are taken."""
    return [h for h in HORIZONS if h <= rollouts.rew.shape[1]]


def figures(real: Rollouts, dreamed: Rollouts) -> Table:
    """Errors over those of copying the last frame, and detection of rewards and ends, in closed loop.

    Where the real frames at a step are those that the windows begin with, copying makes no error, and `mse_over_copy`
    of that step is NaN; a card leaves it out and names it as undefined (`rounded`).

    Rewards and ends count as detected where they are the most probable outcome, at the exact step; `_sampled` are
    the same with outcomes as the dream sampled them.

    Args:
        real: Real play.
        dreamed: The same dreamed over again with the actions that were really taken.
    """
    dream, copy = mse(real.after, dreamed.after), mse(real.after, real.last)
    table: Table = {"windows": len(real)}
    ratio = over(dream, copy)
    for h in horizons_of(real):
        table |= {f"mse_{h}": float(dream[h - 1]), f"mse_over_copy_{h}": float(ratio[h - 1])}
    if dreamed.rew_prob is None or dreamed.end_prob is None:
        return table
    scores = {
        "reward": detection(real.rew, dreamed.rew_prob.argmax(-1) - 1),
        "reward_sampled": detection(real.rew, dreamed.rew),
        "end": detection(real.end, dreamed.end_prob > 0.5),
        "end_sampled": detection(real.end, dreamed.end),
    }
    for name, score in scores.items():
        table |= {f"{name}_precision": score.precision, f"{name}_recall": score.recall, f"{name}_f1": score.f1}
    return table | {"rewards": scores["reward"].events, "ends": scores["end"].events}


def similarity(real: Rollouts, dreamed: Rollouts) -> Table:
    """PSNR and SSIM of dreams, and of copying the last frame; the PSNR is that of the mean error over all rollouts."""
    table: Table = {}
    for name, other in (("", dreamed.after), ("copy_", np.broadcast_to(real.last, real.after.shape))):
        for h in horizons_of(real):
            a, b = real.after[:, h - 1], other[:, h - 1]
            table[f"psnr_{name}{h}"] = psnr(float(mse(a[:, None], b[:, None])[0]))
            table[f"ssim_{name}{h}"] = ssim(a, b)
    return table


@torch.no_grad()
def chances_on_real_frames(
    model: WorldModel, real: Rollouts
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Chances of reward signs (N, H, 3) and of an end (N, H) given real frames, which no dreamed one blurs."""
    dtype, first, parts = PRECISIONS[model.precision], real.num_start_frames - 1, []
    reward_end = prepared(model.reward_end, dtype)
    for i in range(0, len(real), _BATCH):
        obs = to_frames(torch.from_numpy(real.obs[i : i + _BATCH]).to(model.device).movedim(-3, -1))
        act = torch.from_numpy(real.act[i : i + _BATCH]).to(model.device)
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            logits = reward_end(obs[:, :-1], act, obs[:, 1:])[:2]
        parts.append([part.float().softmax(-1)[:, first:].cpu().numpy() for part in logits])
    rew, end = (np.concatenate(part) for part in zip(*parts, strict=True))
    return rew, end[..., 1]


def brier(chance: npt.NDArray[np.floating], happened: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Brier score of chances (mean squared difference to what happened, 1950), and skill over the base rate's.

    A skill of 1 is perfect and 0 no better than always giving the base rate; NaN where it never or always happens.
    """
    score, rate = float(((chance.astype(np.float64) - happened) ** 2).mean()), float(happened.mean())
    base = rate * (1 - rate)
    return score, 1 - score / base if base else float("nan")


def calibration(model: WorldModel, real: Rollouts) -> Table:
    """F1, Brier score and skill of the reward/end model on real frames; empty without one."""
    if model.reward_end is None:
        return {}
    rew, end = chances_on_real_frames(model, real)
    table: Table = {
        "reward_f1_on_real_frames": detection(real.rew, rew.argmax(-1) - 1).f1,
        "end_f1_on_real_frames": detection(real.end, end > 0.5).f1,
    }
    for name, chance, happened in (("reward", 1 - rew[..., 1], real.rew != 0), ("end", end, real.end)):
        table[f"{name}_brier"], table[f"{name}_brier_skill"] = brier(chance, happened)
    return table


def compare_returns(real: Rollouts, dreamed: Rollouts) -> Table:
    """Mean returns up to the first end in dream and game with bootstrap intervals; the difference start by start.

    Of a single start the intervals are NaN: undefined.
    """
    table: Table = {"steps": real.rew.shape[1], "starts": len(real)}
    sides = {"dream": dreamed.returns, "real": real.returns, "difference": dreamed.returns - real.returns}
    for name, values in sides.items():
        between = interval(values)
        table |= {name: float(values.mean()), f"{name}_interval_95": float("nan") if between is None else list(between)}
    return table


def course(rollouts: Rollouts) -> dict[str, _Floats]:
    """Simple statistics of frames by step, each (H,), means over the rollouts.

    They are the mean pixel in [0, 1] (brightness), the standard deviation of a frame's pixels (contrast), the share
    of pixels that changed by more than 16 of 255 levels since the frame before (moving), and the mean squared change
    (energy).
    """
    film = np.concatenate((rollouts.last, rollouts.after), axis=1)
    going = np.ones(rollouts.rew.shape, np.bool_) if rollouts.going is None else rollouts.going
    # where a new game begins the picture jumps, which is no movement
    steady = ~np.diff(going, axis=1, prepend=True)
    rows: list[tuple[float, ...]] = []
    for h in range(1, film.shape[1]):
        before, now = film[:, h - 1].astype(np.float32), film[:, h].astype(np.float32)
        change = np.abs(now - before)[steady[:, h - 1]]
        contrast = now.reshape(len(now), -1).std(axis=1, dtype=np.float64).mean() / 255
        moving = (change.max(axis=1) > _MOVED).mean() if len(change) else np.nan
        energy = ((change / 255) ** 2).mean(dtype=np.float64) if len(change) else np.nan
        rows.append((now.mean(dtype=np.float64) / 255, contrast, moving, energy))
    return dict(zip(("brightness", "contrast", "moving", "energy"), np.array(rows).T, strict=True))


def drift(real: Mapping[str, _Floats], dreamed: Mapping[str, _Floats]) -> Table:
    """The means of `course` over the last quarter of the steps, in free dreams and over the game's own."""
    steps = len(real["brightness"])
    table: Table = {"steps": steps}
    for name in real:
        dream, game = (float(np.nanmean(side[name][-max(1, steps // 4) :])) for side in (dreamed, real))
        table |= {name: dream, f"{name}_over_real": dream / game if game else float("nan")}
    return table


def diversity(real: Rollouts, dreams: Rollouts, step: int) -> float:
    """How far dreams of one start are from each other, over how far they are from what really followed, at a step.

    Mean squared distances, of K dreams of each of N starts, (N*K,) start by start: 1 where reality looks like one more
    dream, less where dreams are more alike than that.
    """
    truth = real.after[:, None, step - 1].astype(np.float32) / 255
    frames = dreams.after[:, step - 1].reshape(len(real), -1, *truth.shape[2:]).astype(np.float32) / 255
    # twice the variance is the expected squared distance of any two, without going through the pairs
    between = 2 * np.var(frames, axis=1, ddof=1, dtype=np.float64).mean()
    error = ((frames - truth) ** 2).mean(dtype=np.float64)
    return float(between / error) if error else float("nan")


def rounded(table: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of four significant digits, for a card.

    What is no number is left out, and its name stands under `undefined`, nested ones with dots: the play had nothing
    that the figure could be measured on or divided by (nothing moved, no reward came, the frames are too small).
    """
    left_out: list[str] = []
    plain = _rounded(table, "", left_out)
    return plain | ({UNDEFINED: ", ".join(left_out)} if left_out else {})


def _rounded(table: Mapping[str, Any], above: str, left_out: list[str]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            plain[key] = _rounded(value, f"{above}{key}.", left_out)
        elif isinstance(value, list):
            plain[key] = [float(f"{item:.4g}") for item in value]
        elif isinstance(value, str | int):
            plain[key] = value
        elif np.isfinite(value):
            plain[key] = float(f"{value:.4g}")
        else:
            left_out.append(f"{above}{key}")
    return plain
