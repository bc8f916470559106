"""The page of a study: curves, strips of frames and a table, as HTML, PNG and JSON (needs matplotlib)."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.files import atomic_write
from diamond_gym.trainers.plots import GAP, figure_file, picture_of
from diamond_gym.trainers.study import COMPARED, Study, StudyConfig
from diamond_gym.trainers.study_reference import SHOWN, Reference

_Frames = npt.NDArray[np.uint8]

COLUMNS = (
    "mse_over_copy_1", "mse_over_copy_4", "mse_over_copy_16", "reward_f1", "drift_100", "drift_1000", "nearest_100",
    "nearest_1000", "left_100", "left_1000", "frames_per_second",
)  # fmt: skip
"""The figures of a line of the table."""
HEADS = {
    "objective": "", "reward_f1": "F1", "frames_per_second": "fps", "drift_1000": "drift 1k", "nearest_100": "near 100",
    "nearest_1000": "near 1k", "left_1000": "left 1k", "left_100": "left 100", "drift_100": "drift 100",
    **{f"mse_over_copy_{h}": f"mse {h}" for h in (1, 4, 16)},
}  # fmt: skip
"""What stands above them where there is little room."""
_CURVES = {
    "drift": "distance to real play under the same actions",
    "nearest": "distance to the nearest recorded frame",
    "left": "share of dreams that left the data",
}
_COLOURS = {"edm": "tab:blue", "ddpm": "tab:red", "flow": "tab:green"}
_STYLES = ("-", "--", "-.", ":", (0, (1, 4)))
_SIDE, _DOTS = 128, 140  # pixels of a frame that is shown, and of the figure's strips per inch
_EXPLAINED = (
    "Means over seeds, ± their standard deviation. mse over copy: squared error at that step of dreams of held-out "
    "play under its own actions, over that of repeating the last real frame. drift: mean absolute difference of pixels "
    "in [0, 1] to real play under the same actions, where that is still the same game. nearest: that to the nearest "
    "of 4,000 recorded frames. left: share of dreams that are farther from it than any two recorded frames are from "
    "each other. Frames per second are those of long dreams, reward and end included, on this machine."
)


def write_page(folder: Path, study: Study, reference: Reference, about: Mapping[str, Any]) -> list[Path]:
    """Writes study.json, study.png and study.html into a folder; returns their paths.

    Args:
        folder: Made if there is none.
        study: What has been measured of it is shown.
        reference: Against which.
        about: What is said of how it was made, plain data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"study.{suffix}" for suffix in ("json", "png", "html")]
    results = study.results(reference)
    rows = summary(results, study.config)
    with atomic_write(paths[0], "w") as file:
        json.dump({"about": about, "summary": rows, "fits": results}, file, indent=1)
    _draw(paths[1], study, results, {name: study.pictures(name, reference) for name in results}, about)
    picture = base64.b64encode(paths[1].read_bytes()).decode()
    with atomic_write(paths[2], "w") as file:
        file.write(_html(rows, about, picture))
    return paths


def _draw(
    path: Path,
    study: Study,
    results: Mapping[str, Mapping[str, Any]],
    strips: Mapping[str, Mapping[str, _Frames]],
    about: Mapping[str, Any],
) -> None:
    """Curves by step, strips of the first seed's dreams, and one frame over noises."""
    first = [name for name in results if name.endswith("-0")]
    lines = [(name, n) for name in first for n in study.config.denoising_steps if str(n) in strips[name]]
    scale = max(1, _SIDE // about["frames"][0])
    side = about["frames"][0] * scale / _DOTS
    tall = 0.45 + 0.02 * len(lines) + len(lines) * side, 0.8 + len(first) * side
    with figure_file(path, (14, 4.6 + sum(tall))) as figure:
        figure.suptitle(f"{about['world']}: {about['updates']:,} updates of {about['preset']}")
        above, middle, below = figure.subfigures(3, 1, height_ratios=(4, *tall))
        for axes, (key, title) in zip(above.subplots(1, 3), _CURVES.items(), strict=True):
            _curve(axes, study, results, key, title)
        above.axes[-1].legend(fontsize="xx-small", ncols=len(first))
        shown = np.stack([strips[name][str(n)] for name, n in lines])
        at = [s for s in SHOWN if s <= about["long_dreams"][1]]
        _pictures(middle, shown, scale, [f"{name}, n = {n}" for name, n in lines], [f"step {s}" for s in at])
        noises = [name for name in first if "over_noises" in strips[name]]
        titles = [f"{what}, n = {n}" for n in COMPARED for what in ("one noise", "mean", "deviation x10")]
        if noises:
            frames = np.stack([strips[name]["over_noises"] for name in noises])
            _pictures(below, frames, scale, noises, ["what followed", *titles])


def _curve(axes: Any, study: Study, results: Mapping[str, Mapping[str, Any]], key: str, title: str) -> None:
    for objective in study.config.objectives:
        for style, n in zip(_STYLES * 9, study.config.denoising_steps, strict=False):
            steps = over_seeds(results, objective, n, "steps")
            curves = [[np.nan if v is None else v for v in c] for c in over_seeds(results, objective, n, key)]
            if not curves:
                continue
            mean = np.array(curves).mean(axis=0)
            label = f"{objective}, n = {n}"
            axes.plot(steps[0], mean, linestyle=style, color=_COLOURS[objective], linewidth=1, label=label)
    axes.set(title=title, xscale="log", xlabel="steps dreamed", ylim=(0, None))
    axes.title.set_fontsize("small")


def _pictures(part: Any, frames: _Frames, scale: int, rows: list[str], columns: list[str]) -> None:
    """Frames uint8 (rows, columns, C, h, w) with their titles."""
    picture, axes = picture_of(frames, scale), part.subplots()
    axes.imshow(picture)
    height, width = (size + GAP for size in picture.shape[:2])
    places = [width / len(columns) * (i + 0.5) for i in range(len(columns))]
    axes.set_xticks(places, columns, fontsize="x-small")
    axes.set_yticks([height / len(rows) * (i + 0.5) for i in range(len(rows))], rows, fontsize="x-small")
    axes.tick_params(length=0)
    axes.xaxis.tick_top()


def _html(rows: list[dict[str, Any]], about: Mapping[str, Any], picture: str) -> str:
    columns = [key for key in COLUMNS if any(key in row for row in rows)]
    head = "".join(f"<th>{key.replace('_', ' ')}</th>" for key in ("objective", "n", "seeds", *columns))
    body = ""
    for row in rows:
        cells = [str(row[key]) for key in ("objective", "n", "seeds")]
        for key in columns:
            spread = f" ± {row[f'{key}_sd']:.2g}" if f"{key}_sd" in row else ""
            cells.append(f"{row[key]:.3g}{spread}" if key in row else "")
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
    facts = "".join(f"<li>{html.escape(f'{key}: {value}')}</li>" for key, value in about.items())
    title = html.escape(f"Which objective dreams of {about['world']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>'
        "body{font:14px sans-serif;margin:2em auto;max-width:1200px}table{border-collapse:collapse}"
        "td,th{border:1px solid #bbb;padding:3px 8px;text-align:right}img{max-width:100%}</style></head><body>"
        f"<h1>{title}</h1><p>{_EXPLAINED}</p><table><tr>{head}</tr>\n{body}</table>"
        f'<p><img alt="Curves by step, and strips of frames" src="data:image/png;base64,{picture}"></p>'
        f"<ul>{facts}</ul></body></html>\n"
    )


def over_seeds(results: Mapping[str, Mapping[str, Any]], objective: str, n: int, key: str) -> list[Any]:
    """A figure of each seed's fit of an objective; of curves those at the same steps."""
    found = [result["n"].get(str(n), {}) for name, result in results.items() if name.rpartition("-")[0] == objective]
    return [table[key] for table in found if key in table]


def summary(results: Mapping[str, Mapping[str, Any]], config: StudyConfig) -> list[dict[str, Any]]:
    """A row for each objective and number of denoising steps: means over seeds, and standard deviations as `_sd`."""
    rows = []
    for objective in config.objectives:
        for n in config.denoising_steps:
            row: dict[str, Any] = {"objective": objective, "n": n}
            row["seeds"] = len(over_seeds(results, objective, n, "steps"))
            for key in ("mse_over_copy_1", "mse_over_copy_4", "mse_over_copy_16", "reward_f1", "frames_per_second"):
                _mean_of(row, key, over_seeds(results, objective, n, key))
            steps = over_seeds(results, objective, n, "steps")
            for key in ("drift", "nearest", "left"):
                for shown in SHOWN[1:]:
                    curves = over_seeds(results, objective, n, key)
                    values = [c[s.index(shown)] for c, s in zip(curves, steps, strict=True) if shown in s]
                    _mean_of(row, f"{key}_{shown}", [value for value in values if value is not None])
            if row["seeds"]:
                rows.append(row)
    return rows


def _mean_of(row: dict[str, Any], key: str, values: Sequence[float]) -> None:
    if values:
        row[key] = float(np.mean(values))
        if len(values) > 1:
            row[f"{key}_sd"] = float(np.std(values, ddof=1))
