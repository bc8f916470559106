"""One game's course through the loop of `benchmarks.gpu.run worlds`: its play, its curve, its files."""

import argparse
import json
import tarfile
import tempfile
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from benchmarks.gpu.about import about
from benchmarks.gpu.play import Play, Players, Task
from benchmarks.gpu.recipe import Recipe
from benchmarks.gpu.worlds import World
from diamond_gym.starts import save_starts


@dataclass
class Course:
    """One game's course through the loop."""

    world: World
    pending: "list[Future[Path]]"
    fit_until: float
    """Seconds from the beginning."""
    turns: int
    """Windows of dreams in which its agent is trained, a round."""
    fits: int = 4
    """Updates of its world model, a round."""
    real_steps: int = 0
    rounds: int = 0
    played_at: int = 0
    """Windows after which the agent played last."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def play_on(players: Players, course: Course, args: argparse.Namespace) -> "list[Future[Path]]":
    """Begins to play with the agent as it is now."""
    agent = course.world.agent.module
    weights = {key: value.detach().cpu() for key, value in agent.state_dict().items()}
    course.rounds += 1
    course.played_at = course.world.windows
    about_agent = {"config": agent.config, "weights": weights}
    return [players.start(Task(course.world.game, args.more_steps, 8, 100 * course.rounds + k, "agent", about_agent))
            for k in range(args.parts)]  # fmt: skip


def take(course: Course) -> None:
    """Takes in what has been played."""
    left = []
    for future in course.pending:
        if future.done() and (error := future.exception()) is not None:
            print(f"{course.world.game}: a play failed: {error}"[:300], flush=True)
        elif future.done():
            played = Play.load(future.result())
            with course.world.on_stream():
                course.real_steps += course.world.experience.add(played)
            if course.rounds:
                course.scores += played.scores.tolist()
        else:
            left.append(future)
    course.pending = left


def note(course: Course, seconds: float) -> dict[str, Any]:
    """A point of the curve."""
    world = course.world
    recent = course.scores[-30:]
    line = {"seconds": round(seconds), "real_steps": course.real_steps, "updates": world.updates,
            "windows": world.windows, "score": round(float(np.mean(recent)), 2) if recent else None,
            "games": len(course.scores), **world.read()}  # fmt: skip
    course.curve.append(line)
    return line


def save(
    out: Path, courses: dict[str, Course], recipe: Recipe, args: argparse.Namespace, seconds: float, starts: bool = True
) -> None:
    """Weights (float16), curve and configuration of every game, and the starts, which take a second to compress.

    Two games a file, as few and small files are easily carried.
    """
    games = sorted(courses)
    for first in range(0, len(games), 2):
        path = out / f"worlds-{first // 2}.tar"
        with tarfile.open(path.with_suffix(".part"), "w") as archive, tempfile.TemporaryDirectory() as folder:
            for game in games[first : first + 2]:
                course, world = courses[game], courses[game].world
                weights = {key: value.half() for key, value in world.state().items()}
                save_file(weights, Path(folder) / f"{game}.safetensors")
                if starts and len(world.experience) > recipe.num_starts:
                    save_starts(Path(folder) / f"{game}.starts.npz", world.starts())
                facts = {"about": about(), "game": game, "seconds": round(seconds), "recipe": asdict(world.recipe),
                         "args": {k: v for k, v in vars(args).items() if k != "out"}, "curve": course.curve,
                         "frames": len(world.experience), "scores": course.scores,
                         "denoiser": asdict(world.denoiser.module.config),
                         "reward_end": asdict(world.reward_end.module.config),
                         "agent": asdict(world.agent.module.config)}  # fmt: skip
                (Path(folder) / f"{game}.json").write_text(json.dumps(facts))
            archive.add(folder, ".")
        path.with_suffix(".part").replace(path)
