"""The curves of docs/actor-critic.png: `python -m benchmarks.gpu.curves --out docs/actor-critic.png`.

Reward per dreamed step, a running mean over some fifty windows, as `benchmarks/results/gpu_worlds.json` has it: what
`benchmarks/gpu.sh worlds` wrote at commit 6a2e841, with a trainer of its own that `diamond-gym train` has replaced.
"""

import argparse
import json
from pathlib import Path

from diamond_gym.trainers.plots import figure_file

RESULTS = Path(__file__).parents[1] / "results" / "gpu_worlds.json"


def draw(path: Path, games: list[str]) -> None:
    """A panel for each game."""
    results = json.loads(RESULTS.read_text())
    recipe = results["about"]["recipe"]
    steps_of_a_window = recipe["num_dreams"] * recipe["horizon"]
    with figure_file(path, (4.5 * len(games), 3)) as figure:
        for axes, game in zip(figure.subplots(1, len(games), squeeze=False)[0], games, strict=True):
            # the running mean has forgotten where it began after some fifty windows
            points = [point for point in results["curves"][game] if point["windows"] >= 50]
            dreamed = [point["windows"] * steps_of_a_window / 1e6 for point in points]
            axes.plot(dreamed, [point["reward_per_step"] for point in points], marker="o", markersize=3)
            axes.set_title(game)
            axes.set_xlabel("dreamed steps (millions)")
            axes.set_ylabel("reward per dreamed step")
            axes.grid(alpha=0.3)


def main() -> None:
    """Draws the games that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--games", nargs="+", default=["Pong", "Breakout"])
    args = parser.parse_args()
    known = json.loads(RESULTS.read_text())["curves"]
    if unknown := [game for game in args.games if game not in known]:
        parser.error(f"no curve of {', '.join(unknown)}: there are those of {', '.join(known)}")
    draw(args.out, args.games)


if __name__ == "__main__":
    main()
