"""Strips, videos and pages of figures (which need matplotlib): dreams beside the real game, and agents' scores.

Scores are drawn as Agarwal et al. 2021 (arXiv 2108.13264) recommend.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from PIL import Image, ImageDraw, ImageFont

from diamond_gym.files import atomic_path, atomic_write
from diamond_gym.frames import tile, to_pixels
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.trainers.aggregate import STATISTICS, Aggregates, Runs, human_normalised
from diamond_gym.trainers.fidelity import mse, over
from diamond_gym.trainers.policies import AgentPolicy, DreamPolicy
from diamond_gym.trainers.rollouts import Rollouts
from diamond_gym.trainers.start_states import replay_starts

if TYPE_CHECKING:
    from diamond_gym.trainers.diamond import DiamondTrainer
    from diamond_gym.trainers.measuring import Fidelity
    from diamond_gym.trainers.worlds import World

_Frames = npt.NDArray[np.uint8]

FPS = 8
GAP = 2
_DPI = 110
_DREAM, _REAL, _COPY = "tab:blue", "black", "tab:orange"
_COLUMNS = ("reality", "dream", "difference")
_INK, _PAPER, _HEAD, _MARGIN = (230, 230, 230), (24, 24, 24), 22, 56
SHEET_STEPS = (1, 5, 10, 25, 50, 100, 150, 200)
_HOLD = 6  # frames for which the last real frame stands before the dream begins
_STATISTICS = ("mean", "median", "interquartile mean", "optimality gap (less is better)")
_PROFILE_TO = 4.0
_TICKS = (-1, 0, 0.25, 0.5, 0.75, 1, 2, 5, 10)


def strip(real: Rollouts, dreamed: Rollouts, rows: int = 3, columns: int = 9, scale: int = 2) -> _Frames:
    """Real frames above dreamed ones, rollout below rollout, in time from left to right: uint8 (height, width, C).

    The first column is the last real frame before the dream, in both lines; the others are spread evenly.
    """
    shown = np.unique(np.linspace(0, real.rew.shape[1] - 1, columns - 1).round().astype(int))
    both = np.stack([np.concatenate((part.last, part.after[:, shown]), axis=1)[:rows] for part in (real, dreamed)], 1)
    return picture_of(both.reshape(-1, *both.shape[2:]), scale)


def sheet(real: Rollouts, dreamed: Rollouts, rows: int = 3, scale: int = 2) -> _Frames:
    """A contact sheet: real frames above dreamed ones at the steps of `SHEET_STEPS`, uint8 (height, width, 3)."""
    shown = np.array([step for step in SHEET_STEPS if step <= real.rew.shape[1]])
    both = np.stack([np.concatenate((side.last, side.after[:, shown - 1]), 1)[:rows] for side in (real, dreamed)], 1)
    picture = picture_of(both.reshape(-1, *both.shape[2:]), scale)
    picture = picture[..., :3] if picture.shape[2] > 2 else picture[..., :1].repeat(3, axis=2)
    height, width, _ = picture.shape
    page = Image.new("RGB", (width + _MARGIN, height + _HEAD), _PAPER)
    page.paste(Image.fromarray(picture), (_MARGIN, _HEAD))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    across, down = (width + GAP) / (1 + len(shown)), (height + GAP) / (2 * len(both))
    for i, title in enumerate(("the start", *(f"step {step}" for step in shown))):
        pen.text((_MARGIN + across * (i + 0.5), _HEAD // 2), title, _INK, font, anchor="mm")
    for i in range(2 * len(both)):
        pen.text((_MARGIN // 2, _HEAD + down * (i + 0.5)), ("game", "dream")[i % 2], _INK, font, anchor="mm")
    return np.asarray(page)


def picture_of(frames: _Frames, scale: int) -> _Frames:
    """Frames uint8 (rows, columns, C, H, W) on one picture, uint8 (height, width, C)."""
    return tile(frames.reshape(-1, *frames.shape[2:]).transpose(0, 2, 3, 1), frames.shape[1], scale, GAP)


def png(image: _Frames) -> bytes:
    """A picture as a PNG file's content, grey where it has one or two channels."""
    return iio.imwrite("<bytes>", image[..., :3] if image.shape[2] > 2 else image[..., 0], extension=".png")


def write_png(path: Path, image: _Frames) -> None:
    """Writes a picture, whole or not at all."""
    with atomic_write(path) as file:
        file.write(png(image))


def difference(real: _Frames, dreamed: _Frames) -> _Frames:
    """Absolute difference of frames, twice as bright: black where they agree."""
    apart = np.abs(real.astype(np.int16) - dreamed.astype(np.int16))
    return np.asarray((2 * apart).clip(max=255), np.uint8)


def comparison(
    real: Rollouts, dreamed: Rollouts, action_meanings: tuple[str, ...] = (), scale: int = 4
) -> list[_Frames]:
    """A video of dreams beside what really followed, rollout below rollout: frames uint8 (height, width, 3).

    First the last real frame, where dream and reality are one, then a frame for each step with its actions in words.
    """
    both = [np.concatenate((part.last, part.after), axis=1) for part in (real, dreamed)]
    film = np.stack((*both, difference(*both)), axis=1).transpose(2, 0, 1, 3, 4, 5)  # (H+1, N, 3, C, h, w)
    steps, column = len(film) - 1, scale * real.obs.shape[-1] + GAP
    video = []
    for step, frames in enumerate(film):
        words = [f"step {step} of {steps}" if step else "the last real frame before the dream"]
        if action_meanings and real.act.ndim == 2:
            acts = real.act[:, real.num_start_frames - 2 + step]
            words.append("actions: " + ", ".join(action_meanings[act] for act in acts) if step else "")
        picture = picture_of(frames, scale)
        height, width, channels = picture.shape
        page = Image.new("RGB", (width, height + _HEAD * (1 + len(words))), _PAPER)
        page.paste(Image.fromarray(picture.repeat(3, axis=2) if channels == 1 else picture), (0, _HEAD))
        pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
        for i, title in enumerate(_COLUMNS):
            pen.text((i * column + column // 2, _HEAD // 2), title, _INK, font, anchor="mm")
        for i, line in enumerate(words):
            pen.text((6, height + _HEAD * (1 + i) + _HEAD // 2), line, _INK, font, anchor="lm")
        video += [np.asarray(page)] * (1 if step else _HOLD)
    return video


def dream_film(training: "DiamondTrainer", rows: int = 4, steps: int = 90) -> list[_Frames]:
    """A video of what the agent sees in dreams of the world model as it is by now, several side by side."""
    model = training.world_model.averaged()
    rng = np.random.default_rng([training.seed, training.epoch, 17])
    model.starts = replay_starts(training.store, model.denoiser.num_steps_conditioning, rows, rng)
    dream = model.dream(rows, sampler=training.config.sampler)
    dream.reset(training.epoch)
    policy = DreamPolicy(training.agent.agent, dream, rng)
    first, pictures = np.ones(rows, np.bool_), []
    for _ in range(steps):
        frames = to_pixels(dream.obs).cpu().numpy()
        pictures.append(_side_by_side(frames))
        step = dream.step(dream.steps.new_tensor(policy(frames, first)))
        first = (step.end | step.trunc).cpu().numpy()
    return pictures


def real_film(world: "World", agent: ActorCritic, seed: int, rows: int = 4, steps: int = 90) -> list[_Frames]:
    """A video of the agent in real games; a pure function of agent and seed, which touches no training."""
    policy = AgentPolicy(agent, rows, np.random.default_rng([seed, 19]))
    with closing(world.envs(rows, AutoresetMode.SAME_STEP)) as envs:
        obs, _ = envs.reset(seed=seed)
        first, pictures = np.ones(rows, np.bool_), []
        for _ in range(steps):
            pictures.append(_side_by_side(obs))
            obs, _, terminations, truncations, _ = envs.step(policy(obs, first))
            first = terminations | truncations
    return pictures


def _side_by_side(frames: _Frames) -> _Frames:
    """Frames (B, H, W, C) side by side in three channels, whatever C is."""
    frames = frames[..., :3] if frames.shape[3] > 2 else frames[..., :1].repeat(3, axis=3)
    return tile(frames, len(frames), 3, GAP)


@contextmanager
def figure_file(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A figure to draw on, which is then written as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")


def draw_page(path: Path, result: "Fidelity", title: str) -> None:
    """Draws and writes a PNG: a row for each part that was measured."""
    rows = [draw for draw, there in (
        (_strips, result.replays), (_errors, result.loops), (_outcomes, "reward_f1" in result.table),
        (_returns, "returns" in result.table), (_drift, result.courses),
    ) if there]  # fmt: skip
    with figure_file(path, (13, 0.4 + 2.8 * len(rows))) as figure:
        figure.suptitle(title)
        for part, draw in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
            draw(part, result)


def _strips(part: Any, result: "Fidelity") -> None:
    """Reality, dream and difference of the first start."""
    assert result.replays is not None
    real, dreamed = (side.after[0] for side in result.replays)
    steps = np.unique(np.geomspace(1, len(real), 14).round().astype(int))
    real, dreamed = real[steps - 1], dreamed[steps - 1]
    picture = picture_of(np.stack((real, dreamed, difference(real, dreamed))), 2)
    axes = part.subplots()
    axes.imshow(picture)
    cell, row = (picture.shape[1] + GAP) / len(steps), (picture.shape[0] + GAP) / 3
    axes.set_xticks([cell * (i + 0.5) for i in range(len(steps))], [f"step {step}" for step in steps], fontsize="small")
    axes.set_yticks([row * (i + 0.5) for i in range(3)], _COLUMNS)
    axes.tick_params(length=0)


def _errors(part: Any, result: "Fidelity") -> None:
    """Errors by step, of dreams and of copying the last real frame."""
    left, right = part.subplots(1, 2)
    for style, (label, (real, dreamed)) in zip(("-", "--", ":") * 9, result.loops.items(), strict=False):
        dream, copy = mse(real.after, dreamed.after), mse(real.after, real.last)
        steps = np.arange(1, len(dream) + 1)
        left.plot(steps, dream, style, color=_DREAM, label=f"dream, {label}")
        left.plot(steps, copy, style, color=_COPY, label=f"last frame copied, {label}")
        right.plot(steps, over(dream, copy), style, color=_DREAM, label=label)
    left.set(title="mean squared error", yscale="log", xlabel="steps dreamed")
    right.axhline(1, color=_COPY)
    right.set(title="error over that of copying", ylim=(0, None), xlabel="steps dreamed")
    left.legend(fontsize="x-small")


def _outcomes(part: Any, result: "Fidelity") -> None:
    """Precision, recall and F1 of rewards and ends at their exact step."""
    axes = part.subplots()
    names = [f"{kind}_{score}" for kind in ("reward", "end") for score in ("precision", "recall", "f1")]
    values = [result.table[name] for name in names]
    labels = ["undefined" if np.isnan(value) else f"{value:.2f}" for value in values]
    axes.bar_label(axes.bar(names, np.nan_to_num(values), color=_DREAM), labels)
    axes.set(ylim=(0, 1.2), title=f"{result.table['rewards']} rewards and {result.table['ends']} ends")


def _returns(part: Any, result: "Fidelity") -> None:
    """Returns of each policy in dream and game."""
    axes, returns = part.subplots(), result.table["returns"]
    for shift, side, colour in ((-0.1, "dream", _DREAM), (0.1, "real", _REAL)):
        means = np.array([row[side] for row in returns.values()])
        between = [np.broadcast_to(row[f"{side}_interval_95"], 2) for row in returns.values()]  # NaN of a single start
        error = np.nan_to_num(np.abs(np.array(between).T - means))
        axes.errorbar(np.arange(len(means)) + shift, means, yerr=error, fmt="o", color=colour, capsize=4, label=side)
    axes.set_xticks(range(len(returns)), [f"{name} play" for name in returns])
    axes.set(xlim=(-0.6, len(returns) - 0.4), title="sum of reward signs up to the first end, with 95 % intervals")
    axes.legend(fontsize="x-small")


def _drift(part: Any, result: "Fidelity") -> None:
    """Simple statistics of free dreams by step."""
    assert result.courses is not None
    real, dreamed = result.courses
    for axes, name in zip(part.subplots(1, len(real)), real, strict=True):
        for side, colour, label in ((real, _REAL, "the game"), (dreamed, _DREAM, "free dreams")):
            axes.plot(np.arange(1, len(side[name]) + 1), side[name], color=colour, linewidth=0.9, label=label)
        axes.set(title=name, xlabel="steps")
    axes.legend(fontsize="x-small")


def draw_scores(path: Path, methods: Mapping[str, Runs], aggregates: Mapping[str, Aggregates]) -> None:
    """Draws and writes a PNG of statistics with intervals, performance profiles and scores game by game.

    Args:
        path: The file.
        methods: Runs by game, of each method by its name.
        aggregates: Of each method.
    """
    games = sorted({game for result in aggregates.values() for game in result.normalised})
    with figure_file(path, (12, 5.5 + 0.35 * len(methods))) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(1 + 0.25 * len(methods), 2.4))
        panels = above.subplots(1, len(STATISTICS), sharey=True)
        for axes, statistic, title in zip(panels, STATISTICS, _STATISTICS, strict=True):
            for i, result in enumerate(aggregates.values()):
                estimate = result.estimates[statistic]
                axes.barh(i, estimate.high - estimate.low, 0.6, estimate.low, color=f"C{i}", alpha=0.6)
                axes.vlines(estimate.value, i - 0.3, i + 0.3, color="black")
            axes.set_title(title, fontsize="small")
            axes.set_yticks(range(len(aggregates)), list(aggregates))
            axes.use_sticky_edges = False  # a bar that ends where the panel does hides its end
            axes.margins(x=0.1)
            axes.set_ylim(len(aggregates) - 0.4, -0.6)
        left, right = below.subplots(1, 2, width_ratios=(1, 1.6))
        width = 0.8 / len(methods)
        for i, (name, result) in enumerate(aggregates.items()):
            left.plot(*profile(human_normalised(methods[name])), color=f"C{i}", label=name)
            places = [games.index(game) + (i - (len(methods) - 1) / 2) * width for game in result.normalised]
            right.bar(places, list(result.normalised.values()), width, color=f"C{i}")
        left.set(xlabel="human-normalised score τ", ylabel="share of runs above τ", xlim=(0, _PROFILE_TO), ylim=(0, 1))
        left.legend(fontsize="small")
        right.set_yscale("symlog", linthresh=1)
        right.set_ylabel("human-normalised score")
        low, high = right.get_ylim()
        right.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
        right.set_ylim(low, high)  # the ticks must not widen it
        right.minorticks_off()
        right.set_xticks(range(len(games)), games, rotation=90, fontsize="small")


def profile(scores: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The performance profile: of scores (games, runs) the share above each of 201 thresholds from 0 to 4."""
    tau = np.linspace(0, _PROFILE_TO, 201)
    return tau, (scores.ravel()[:, None] > tau).mean(axis=0)
