"""Curves of `diamond-gym train`: `python -m benchmarks.whole_loop --out docs/whole-loop.png`.

    python -m benchmarks.whole_loop --add RUN --game KungFuMaster --machine "one H200" --command "diamond-gym train ..."

puts a run's metrics into `benchmarks/results/whole_loop.json` first. Scores of real games over real steps, dreamed
steps and hours: those that were played to collect, and test collections, which nothing learns from.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from diamond_gym.registry import game, games
from diamond_gym.trainers.plots import figure_file

RESULTS = Path(__file__).parent / "results" / "whole_loop.json"
_KEPT = {
    "real/steps": "real_steps", "real/score": "score", "test/score": "test", "agent/policy_entropy": "entropy",
    "agent/reward_per_step": "reward_per_step",
}  # fmt: skip
AXES = {"real_steps": "real steps", "dreamed_steps": "dreamed steps (millions)", "hours": "hours"}


def curve(run: Path) -> list[dict[str, float]]:
    """An epoch a line, of the folder of a run."""
    settings = json.loads((run / "settings.json").read_text())["loop"]
    horizon, dreams = settings["agent"]["horizon"], settings["agent"]["optimizer"]["batch_size"]
    epochs: dict[int, dict[str, float]] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        epochs.setdefault(line["step"], {}).update(line)
    lines, seconds = [], 0.0
    for number, figures in sorted(epochs.items()):
        seconds += figures.get("speed/epoch_seconds", 0.0)
        windows = settings["first_agent_steps"] + (number - 1) * settings["agent_steps"]
        line = {"epoch": float(number), "dreamed_steps": windows * horizon * dreams / 1e6, "hours": seconds / 3600}
        lines.append(line | {short: figures[name] for name, short in _KEPT.items() if name in figures})
    return [{name: round(value, 5) for name, value in line.items()} for line in lines]


def draw(path: Path, runs: list[dict[str, Any]]) -> None:
    """A row of panels a run: scores over each of the axes."""
    with figure_file(path, (11, 2.8 * len(runs))) as figure:
        for row, run in zip(figure.subplots(len(runs), len(AXES), squeeze=False), runs, strict=True):
            for axes, (name, label) in zip(row, AXES.items(), strict=True):
                for what, style in (("score", "o"), ("test", "s-")):
                    points = [(line[name], line[what]) for line in run["curve"] if what in line]
                    axes.plot(*zip(*points, strict=True), style, label={"score": "collecting", "test": "tests"}[what])
                axes.axhline(run["random"], color="grey", linestyle="--", label="random play")
                axes.set_xlabel(label)
                axes.locator_params(axis="x", nbins=5)
                axes.grid(alpha=0.3)
            row[0].set_ylabel(f"{run['game']}: score")
            row[0].legend(fontsize=7)
            row[1].set_title(f"{run['game']}, {run['machine'].split(',')[0]}", fontsize=9)


def main() -> None:
    """Adds a run, or draws all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the PNG to draw")
    parser.add_argument("--add", type=Path, help="a run's folder")
    parser.add_argument("--game", choices=games(), metavar="NAME", help="of the run that is added")
    parser.add_argument("--machine", default="", help="on which it ran")
    parser.add_argument("--command", default="", help="that made it")
    args = parser.parse_args()
    runs = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    if args.add is not None:
        if not (args.add / "metrics.jsonl").exists() or args.game is None:
            parser.error("--add takes the folder of a run of train, and --game its game")
        random = game(args.game).random
        runs.append({"game": args.game, "machine": args.machine, "command": args.command, "random": random,
                     "curve": curve(args.add)})  # fmt: skip
        RESULTS.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
    if args.out is not None:
        if not runs:
            parser.error(f"there is no run in {RESULTS}: --add RUN puts one there")
        draw(args.out, runs)


if __name__ == "__main__":
    main()
