"""Pages of figures: all that was measured of a world model, and agents' scores. Needs matplotlib.

The first two as Agarwal et al. 2021 (arXiv 2108.13264) recommend them; needs matplotlib.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.files import atomic_path
from diamond_gym.trainers.aggregate import STATISTICS, Aggregates, Runs, human_normalised
from diamond_gym.trainers.closed_loop import Reliability, detection
from diamond_gym.trainers.fidelity import ClosedLoop, Diversity, Drift, UnderPolicy
from diamond_gym.trainers.measuring import Fidelity
from diamond_gym.trainers.pictures import tile
from diamond_gym.trainers.videos import difference

_Said = tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]  # rewards' signs and ends

_DPI = 110
_DREAM, _REAL, _COPY = "tab:blue", "black", "tab:orange"
_STRIP = 14  # frames of the picture at the top


def draw_page(path: Path, result: Fidelity) -> None:
    """Draws and writes a PNG: a row for each part that was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: list[tuple[float, Callable[[Any], None]]] = []
    if (diversity := result.diversity) is not None:
        rows.append((3.1, lambda part: _strips(part, diversity)))
    if result.loops:
        rows.append((2.7, lambda part: _closed_loop(part, result)))
        loop = next(iter(result.loops.values()))
        rollout, judged = loop.rollout, loop.judged
        if rollout.rew_probs is not None and rollout.end_probs is not None and judged is not None:
            dreamed = rollout.rew_probs.argmax(-1) - 1, rollout.end_probs > 0.5
            on_real = judged[0].argmax(-1) - 1, judged[1] > 0.5
            rows.append((2.7, lambda part: _outcomes(part, loop, dreamed, on_real)))
    if result.under or diversity is not None:
        rows.append((2.7, lambda part: _policies(part, result.under, diversity)))
    if (drift := result.drift) is not None:
        rows.append((2.7, lambda part: _drift(part, drift)))
    figure = Figure(figsize=(13, 0.6 + sum(height for height, _ in rows)), layout="constrained")
    FigureCanvasAgg(figure)
    about = "; ".join(f"{label}: {info['steps']:,} steps" for label, info in result.held_out.items())
    figure.suptitle(
        f"{result.name}: dreams of {result.game} against the real game" + (f"\nheld-out {about}" * bool(about))
    )
    parts: Any = figure.subfigures(len(rows), 1, height_ratios=[height for height, _ in rows], squeeze=False)
    for part, (_, draw) in zip(parts[:, 0], rows, strict=True):
        draw(part)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")


def _strips(part: Any, result: Diversity) -> None:
    """Reality, dream and difference of the first start."""
    steps = np.unique(np.geomspace(1, result.real.shape[1], _STRIP).round().astype(int))
    real, dreamed = result.real[0, steps - 1], result.dreamed[0, 0, steps - 1]
    axes = part.subplots()
    sheet = tile(np.stack((real, dreamed, difference(real, dreamed))).transpose(0, 1, 3, 4, 2), 2)
    axes.imshow(sheet)
    cell = (sheet.shape[1] + 2) / len(steps)
    axes.set_xticks([cell * (i + 0.5) for i in range(len(steps))], [f"step {step}" for step in steps], fontsize="small")
    row = (sheet.shape[0] + 2) / 3
    axes.set_yticks([row * (i + 0.5) for i in range(3)], ["reality", "dream", "difference"])
    axes.tick_params(length=0)
    axes.set_title("one start, with the actions that were really taken", fontsize="medium")


def _closed_loop(part: Any, result: Fidelity) -> None:
    """Errors by horizon."""
    left, ratio, middle, right = part.subplots(1, 4)
    styles = ("-", "--", ":")
    for style, (label, loop) in zip(styles * len(result.loops), result.loops.items(), strict=False):
        steps = np.arange(1, len(loop.dream.mse) + 1)
        message = f", {label}" if len(result.loops) > 1 else ""
        for name, axes in (("mse", left), ("psnr", middle), ("ssim", right)):
            axes.plot(steps, getattr(loop.dream, name), style, color=_DREAM, label=f"dream{message}")
            axes.plot(steps, getattr(loop.copy, name), style, color=_COPY, label=f"last frame copied{message}")
        ratio.plot(steps, loop.dream.mse / loop.copy.mse, style, color=_DREAM, label=f"dream{message}")
    left.set(title="mean squared error", yscale="log", ylabel="pixels in [0, 1]")
    ratio.axhline(1, color=_COPY)
    ratio.plot((1, 4, 16), (0.4, 0.6, 0.9), "v", color="tab:red", label="aimed at: below")
    ratio.set(title="error over that of copying", ylim=(0, None))
    ratio.legend(fontsize="x-small")
    middle.set(title="PSNR", ylabel="dB")
    right.set(title="SSIM")
    left.legend(fontsize="x-small")
    for axes in (left, ratio, middle, right):
        axes.set_xlabel("steps dreamed")


def _outcomes(part: Any, loop: ClosedLoop, dreamed: _Said, on_real: _Said) -> None:
    """Rewards and ends: found at their step, and whether their chances are what they say."""
    left, middle, right = part.subplots(1, 3)
    real = loop.play.rew, loop.play.end
    names = ("precision", "recall", "f1")
    for i, (label, says, colour) in enumerate(
        (("in the dream", dreamed, _DREAM), ("on the real frames", on_real, "tab:cyan"))
    ):
        scores = [
            getattr(detection(truth, message), name)
            for truth, message in zip(real, says, strict=True)
            for name in names
        ]
        bars = left.bar(np.arange(6) + np.repeat((0, 0.4), 3) + 0.4 * i, scores, 0.4, color=colour, label=label)
        left.bar_label(bars, fmt="%.2f", fontsize=6)
    left.set_xticks(
        np.arange(6) + np.repeat((0.2, 0.6), 3), [f"{kind}\n{name}" for kind in ("reward", "end") for name in names]
    )
    left.tick_params(axis="x", labelsize="x-small")
    left.set(ylim=(0, 1.3), title=f"{(real[0] != 0).sum()} rewards and {real[1].sum()} ends, at their exact step")
    left.legend(fontsize="x-small", ncols=2, loc="upper center")
    for axes, (name, result) in zip((middle, right), loop.reliability().items(), strict=True):
        _reliability(axes, name, result)


def _reliability(axes: Any, name: str, result: Reliability) -> None:
    axes.plot((1e-4, 1), (1e-4, 1), color="grey", linewidth=0.8, label="chances are what they say")
    filled = result.count > 0
    # a bin in which it never happened has no place on a logarithmic axis: it is drawn at the foot
    happened = np.maximum(result.happened[filled], 1e-4)
    axes.plot(result.said[filled].clip(1e-4), happened, "o-", color=_DREAM, label="the model's, by bins")
    for x, y, n in zip(result.said[filled].clip(1e-4), happened, result.count[filled], strict=True):
        axes.annotate(f"{n:,}", (x, y), xytext=(0, 5), textcoords="offset points", fontsize=7, ha="center")
    axes.set(
        xscale="log", yscale="log", xlim=(7e-5, 1.5), ylim=(7e-5, 1.5), xlabel="chance given", ylabel="it happened"
    )
    axes.set_title(f"{name}: calibration error {result.ece:.4f}, Brier {result.brier:.4f}", fontsize="medium")
    axes.legend(fontsize="x-small", loc="upper left")


def _policies(part: Any, result: list[UnderPolicy], diversity: Diversity | None) -> None:
    """Returns in dream and game, and how different dreams of one start become."""
    panels = iter(part.subplots(1, bool(result) + (diversity is not None), squeeze=False)[0])
    if result:
        axes = next(panels)
        for i, under in enumerate(result):
            told = under.returns()
            for shift, side, colour in ((-0.1, "dream", _DREAM), (0.1, "real", _REAL)):
                low, high = told[f"{side}_interval_95"]
                error = [[told[side] - low], [high - told[side]]]
                label = {"dream": "in dreams", "real": "in the game"}[side] if i == 0 else None
                axes.errorbar(i + shift, told[side], yerr=error, fmt="o", color=colour, capsize=4, label=label)
        axes.set_xticks(range(len(result)), [f"{under.policy} play" for under in result])
        axes.set(xlim=(-0.6, len(result) - 0.4), ylabel="sum of reward signs, to the first end")
        first = result[0].returns()
        axes.set_title(f"return over {first['steps']} steps, {first['starts']} starts each, 95 %", fontsize="medium")
        axes.legend(fontsize="x-small")
    if diversity is not None:
        axes = next(panels)
        steps = np.arange(1, len(diversity.spread) + 1)
        axes.plot(steps, diversity.error, color=_REAL, label="a dream and what really followed")
        axes.plot(steps, diversity.spread, color=_DREAM, label="two dreams of one start")
        axes.set(yscale="log", xlabel="steps dreamed", ylabel="mean squared distance")
        starts, dreams = diversity.dreamed.shape[:2]
        title = f"{dreams} dreams of each of {starts} starts\n(the game itself knows one future: 0)"
        axes.set_title(title, fontsize="medium")
        axes.legend(fontsize="x-small")


def _drift(part: Any, result: Drift) -> None:
    """Simple statistics of free dreams by step."""
    titles = {
        "brightness": "mean brightness",
        "contrast": "standard deviation of pixels",
        "moving": "share of moving pixels",
        "energy": "mean squared change of frames",
    }
    for axes, (name, title) in zip(part.subplots(1, 4), titles.items(), strict=True):
        steps = np.arange(1, len(result.real.brightness) + 1)
        axes.plot(steps, getattr(result.real, name), color=_REAL, linewidth=0.9, label="the game")
        axes.plot(steps, getattr(result.dreamed, name), color=_DREAM, linewidth=0.9, label="free dreams")
        axes.set(title=title, xlabel="steps")
        if name in ("brightness", "contrast"):  # nearly constant: room for a tenth of it above and below
            low, high = axes.get_ylim()
            axes.set_ylim(0.9 * low, 1.1 * high)
        else:
            axes.set_ylim(0, None)
    axes.legend(fontsize="x-small")


_TITLES = {
    "mean": "mean",
    "median": "median",
    "iqm": "interquartile mean",
    "optimality_gap": "optimality gap (less is better)",
}
_PROFILE_TO = 4.0
_TICKS = (-1, 0, 0.25, 0.5, 0.75, 1, 2, 5, 10)
_SCORES_DPI = 120


def draw_scores(path: Path, methods: Mapping[str, Runs], aggregates: Mapping[str, Aggregates]) -> None:
    """Draws and writes a PNG.

    Args:
        path: The file.
        methods: Runs by game, of each method by its name.
        aggregates: Of each method.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    games = sorted({game for result in aggregates.values() for game in result.games})
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
    for i, (name, result) in enumerate(aggregates.items()):
        places = [games.index(game) + (i - (len(methods) - 1) / 2) * width for game in result.games]
        right.bar(places, [result.normalised[game] for game in result.games], width, color=colours[name], label=name)
    right.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    right.set_yscale("symlog", linthresh=1)
    right.set_ylabel("human-normalised score")
    low, high = right.get_ylim()
    right.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    right.set_ylim(low, high)  # the ticks must not widen it
    right.minorticks_off()
    right.set_xticks(range(len(games)), games, rotation=90, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_SCORES_DPI)


def profile(scores: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The performance profile: of scores (games, runs) the share above each of 201 thresholds from 0 to 4."""
    tau = np.linspace(0, _PROFILE_TO, 201)
    return tau, (scores.ravel()[:, None] > tau).mean(axis=0)


def _intervals(figure: Any, aggregates: Mapping[str, Aggregates], colours: Mapping[str, str]) -> None:
    for axes, statistic in zip(figure.subplots(1, len(STATISTICS), sharey=True), STATISTICS, strict=True):
        for i, (name, result) in enumerate(aggregates.items()):
            estimate = result.estimates[statistic]
            axes.barh(i, estimate.high - estimate.low, 0.6, estimate.low, color=colours[name], alpha=0.6)
            axes.vlines(estimate.value, i - 0.3, i + 0.3, color="black")
        axes.set_title(_TITLES[statistic], fontsize="small")
        axes.set_yticks(range(len(aggregates)), list(aggregates))
        axes.use_sticky_edges = False  # a bar that ends where the panel does hides its end
        axes.margins(x=0.1)
        axes.set_ylim(len(aggregates) - 0.4, -0.6)
        axes.tick_params(labelsize="small")
