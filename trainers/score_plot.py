"""A picture of aggregates: interval estimates, performance profiles, and every game by itself.

The first two as Agarwal et al. 2021 (arXiv 2108.13264) recommend them; needs matplotlib.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.files import atomic_path
from diamond_gym.trainers.aggregates import STATISTICS, Aggregates, human_normalised
from diamond_gym.trainers.score_files import Runs

_TITLES = {
    "mean": "mean",
    "median": "median",
    "iqm": "interquartile mean",
    "optimality_gap": "optimality gap (less is better)",
}
_PROFILE_TO = 4.0
_TICKS = (-1, 0, 0.25, 0.5, 0.75, 1, 2, 5, 10)
_DPI = 120


def draw_scores(path: Path, methods: Mapping[str, Runs], aggregates: Mapping[str, Aggregates]) -> None:
    """Draws and writes a PNG.

    Args:
        path: The file.
        methods: Runs by game, of each method by its name.
        aggregates: Of each method.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    games = sorted({game for found in aggregates.values() for game in found.games})
    figure = Figure(figsize=(12, 5.5 + 0.35 * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {name: f"C{i}" for i, name in enumerate(methods)}
    parts: Any = figure.subfigures(2, 1, height_ratios=(1 + 0.25 * len(methods), 2.4))
    above, below = parts
    _intervals(above, aggregates, colours)
    left, right = below.subplots(1, 2, width_ratios=(1, 1.6))
    for name, runs in methods.items():
        tau, share = profile(human_normalised(runs))
        left.plot(tau, share, color=colours[name], label=name)
    left.set(xlabel="human-normalised score τ", ylabel="share of runs above τ", xlim=(0, _PROFILE_TO), ylim=(0, 1))
    left.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    left.legend(fontsize="small")
    width = 0.8 / len(methods)
    for i, (name, found) in enumerate(aggregates.items()):
        places = [games.index(game) + (i - (len(methods) - 1) / 2) * width for game in found.games]
        right.bar(places, [found.normalised[game] for game in found.games], width, color=colours[name], label=name)
    right.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    right.set_yscale("symlog", linthresh=1)
    right.set_ylabel("human-normalised score")
    low, high = right.get_ylim()
    right.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    right.set_ylim(low, high)  # the ticks must not widen it
    right.minorticks_off()
    right.set_xticks(range(len(games)), games, rotation=90, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def profile(scores: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The performance profile: of scores (games, runs) the share above each of 201 thresholds from 0 to 4."""
    tau = np.linspace(0, _PROFILE_TO, 201)
    return tau, (scores.ravel()[:, None] > tau).mean(axis=0)


def _intervals(figure: Any, aggregates: Mapping[str, Aggregates], colours: Mapping[str, str]) -> None:
    for axes, statistic in zip(figure.subplots(1, len(STATISTICS), sharey=True), STATISTICS, strict=True):
        for i, (name, found) in enumerate(aggregates.items()):
            estimate = found.estimates[statistic]
            axes.barh(i, estimate.high - estimate.low, 0.6, estimate.low, color=colours[name], alpha=0.6)
            axes.vlines(estimate.value, i - 0.3, i + 0.3, color="black")
        axes.set_title(_TITLES[statistic], fontsize="small")
        axes.set_yticks(range(len(aggregates)), list(aggregates))
        axes.use_sticky_edges = False  # a bar that ends where the panel does hides its end
        axes.margins(x=0.1)
        axes.set_ylim(len(aggregates) - 0.4, -0.6)
        axes.tick_params(labelsize="small")
