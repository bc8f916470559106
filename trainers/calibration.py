"""Whether chances are what they say: reliability bins, expected calibration error, Brier score."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.device import PRECISIONS
from diamond_gym.trainers.evaluation import RealPlay
from diamond_gym.world_model import WorldModel

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
        said, share = (np.bincount(place, weights=w, minlength=bins) / count for w in (p, y))
    filled = count > 0
    ece = float((count[filled] * np.abs(said - share)[filled]).sum() / len(p))
    brier, base = float(((p - y) ** 2).mean()), float(y.mean() * (1 - y.mean()))
    return Reliability(said, share, count.astype(np.int64), ece, brier, 1 - brier / base if base else float("nan"))


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
