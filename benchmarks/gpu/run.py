"""Stages of a run on a GPU: `python -m benchmarks.gpu.run ablation|worlds --out DIR`.

`ablation` fits variants of the denoiser at an equal number of updates and measures how long dreams stay on the data.
`worlds` runs DIAMOND's loop on several games at once: processes play with the latest agents while the GPU fits the
world models and trains the agents in their dreams. Every result is written as soon as there is one.
"""

import argparse
import json
import os
import platform
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.gpu.drift import drift
from benchmarks.gpu.experience import Experience
from benchmarks.gpu.play import Play, Players, Task
from benchmarks.gpu.worlds import Recipe, World
from diamond_gym.hallucination import SeenColours
from diamond_gym.registry import load_world_model
from diamond_gym.registry.games import game as find_game
from diamond_gym.starts import save_starts
from diamond_gym.trainers.optim import lr_factor
from diamond_gym.trainers.scripted import PLAYERS

VARIANTS: dict[str, dict[str, Any]] = {
    "residual": {},
    "residual, no threshold": {"change_threshold": 0.0},
    "paper output": {"residual": False},
    "residual, 3 autoregressive steps": {"autoregressive": 3},
    "residual, noise": {"past_noise": 0.3},
    "residual, noise told": {"past_noise": 0.3, "noise_cond": True},
    "paper output, noise": {"residual": False, "past_noise": 0.3},
}


def about() -> dict[str, Any]:
    """The machine and the versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": gpu, "cpus": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version(),
            "commit": os.environ.get("COMMIT", "")}  # fmt: skip


def tasks_of(game: str, steps: int, seed: int, num_envs: int) -> list[Task]:
    """First play: mixed, and half of it scripted where the game has a script."""
    if game in PLAYERS:
        return [Task(game, steps // 2, num_envs, seed), Task(game, steps // 2, num_envs, seed + 1, "scripted")]
    return [Task(game, steps // 2, num_envs, seed), Task(game, steps // 2, num_envs, seed + 1)]


def ablation(args: argparse.Namespace, out: Path, device: torch.device, recipe: Recipe) -> None:
    """Variants of the denoiser, side by side on their own streams."""
    players = Players(args.processes)
    begin = time.perf_counter()
    plays = {g: [players.start(t) for t in tasks_of(g, args.steps, 10, 8)] for g in args.games}
    held = {g: players.start(Task(g, args.steps // 5, 8, 999)) for g in args.games}
    lines: list[dict[str, Any]] = []
    for game in args.games:
        experience = Experience(args.steps + 1000, (3, 64, 64), device)
        held_out = Experience(args.steps // 5 + 100, (3, 64, 64), device)
        for future in plays[game]:
            experience.add(Play.load(future.result()))
        held_out.add(Play.load(held[game].result()))
        seen = SeenColours(experience.frames[: len(experience)])
        reality = 100 * float(seen.artefacts(held_out.frames[: len(held_out)]).mean())
        print(game, "data after", round(time.perf_counter() - begin, 1), "s; real artefacts", reality, flush=True)
        actions = find_game(game).num_actions
        worlds = {
            (name, seed): World(game, actions, replace(recipe, **change), device, seed, experience=experience)
            for name, change in VARIANTS.items()
            for seed in range(args.seeds)
        }
        experience.find()
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        chunk = min(50, args.updates)
        for done in range(0, args.updates, chunk):
            for world in worlds.values():
                world.set_lr(lr_factor(done, 0, args.updates - done, args.updates))
                for _ in range(chunk):
                    world.fit_denoiser()
            if device.type == "cuda" and done % 500 == 0:
                torch.cuda.synchronize()
                rate = (done + chunk) * len(worlds) / (time.perf_counter() - start)
                print(f"{game}: {done} updates of {len(worlds)}, {rate:.0f}/s in all", flush=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        for (name, seed), world in worlds.items():
            figures = drift(world, held_out, seen, args.drift_steps, args.dreams)
            line = {"game": game, "variant": name, "seed": seed, "updates": world.updates, **figures,
                    "loss": world.read()["denoiser"], "reality": round(reality, 4)}  # fmt: skip
            lines.append(line)
            print(json.dumps(line), flush=True)
        (out / "ablation.json").write_text(json.dumps({"about": about(), "lines": lines}, indent=1))
    players.close()


@dataclass
class Course:
    """One game's course through the loop."""

    world: World
    pending: "list[Future[Path]]"
    acts: bool = True
    """Whether its agent is trained, and plays."""
    real_steps: int = 0
    rounds: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    drift: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Seconds since the beginning, and turns of a given length."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._begin

    def turn(self, seconds: float, courses: list[Course], what: Any, device: torch.device) -> None:
        """Does `what` for all courses side by side, again and again, for so many seconds."""
        until = self() + seconds
        while courses and self() < until:
            for _ in range(4):
                for course in courses:
                    what(course)
            if device.type == "cuda":
                torch.cuda.synchronize()


def worlds(args: argparse.Namespace, out: Path, device: torch.device, recipe: Recipe) -> None:
    """DIAMOND's loop on all games at once, for `args.seconds`."""
    clock, players = Clock(), Players(args.processes)
    futures = {g: [players.start(t) for t in tasks_of(g, args.steps, 10, 8)] for g in args.games}
    held = {g: players.start(Task(g, args.held_out, 8, 999)) for g in args.games}
    courses: dict[str, Course] = {}
    for game in args.games:
        begin = load_world_model(game, "cpu", "float32") if args.init else None
        actions, acts = find_game(game).num_actions, game in (args.agents or args.games)
        world = World(game, actions, recipe, device, args.seed, begin=begin, compiled=args.compile)
        courses[game] = Course(world, futures[game], acts)
        if game in args.control:
            plain = replace(recipe, past_noise=0.0)
            other = World(game, actions, plain, device, args.seed, (3, 64, 64), world.experience, begin, args.compile)
            courses[f"{game}-control"] = Course(other, [], acts=False)
    seen: dict[str, tuple[Experience, SeenColours]] = {}
    for name, course in courses.items():
        game = course.world.game
        take(course, wait=True)
        course.world.experience.find()
        if game not in seen:
            held_out = Experience(args.held_out + 100, (3, 64, 64), device)
            held_out.add(Play.load(held[game].result()))
            seen[game] = held_out, SeenColours(course.world.experience.frames[: len(course.world.experience)])
            real = 100 * float(seen[game][1].artefacts(held_out.frames[: len(held_out)]).mean())
            course.drift["real"] = real
        measure(course, "before", seen[game], args)
        print(f"{clock():.0f} s {name}: {json.dumps(course.drift)}", flush=True)
        course.world.fit(recipe.reward_every)  # records the graphs
    print(f"{clock():.0f} s: graphs", flush=True)
    everyone, agents = list(courses.values()), [course for course in courses.values() if course.acts]
    fit_until, begun = args.fit_until * args.seconds, clock()
    log = last_save = clock()
    while clock() < args.seconds:
        fit = clock() < fit_until
        if fit:
            for course in everyone:
                course.world.set_lr(lr_factor(1, 0, fit_until - clock(), fit_until - begun))
            clock.turn(args.fit_seconds, everyone, lambda course: course.world.fit(1), device)
        if clock() > args.agent_from * args.seconds:
            clock.turn(args.agent_seconds, agents, lambda course: course.world.imagine(1), device)
        for course in agents:
            take(course)
            room = len(course.world.experience) < recipe.capacity
            if not course.pending and course.world.windows >= args.play_after and room:
                course.pending = play_on(players, course, args)
        if clock() - log > args.log_every:
            log = clock()
            for name, course in courses.items():
                print(f"{log:.0f} s {name}: {json.dumps(note(course, clock()))}", flush=True)
        if clock() - last_save > args.save_every:
            save(out, courses, recipe, args, clock(), starts=False)
            last_save = clock()
    for name, course in courses.items():
        note(course, clock())
        measure(course, "after", seen[course.world.game], args)
        print(f"{clock():.0f} s {name}: {json.dumps(course.drift)}", flush=True)
    save(out, courses, recipe, args, clock())
    players.close()
    print(f"{clock():.0f} s: done", flush=True)


def measure(course: Course, when: str, data: tuple[Experience, SeenColours], args: argparse.Namespace) -> None:
    """How long its dreams stay on the data."""
    dreams = min(args.dreams, course.world.recipe.num_dreams)
    course.drift[when] = drift(course.world, *data, args.drift_steps, dreams)


def play_on(players: Players, course: Course, args: argparse.Namespace) -> "list[Future[Path]]":
    """Begins to play with the agent as it is now."""
    agent = course.world.agent.module
    weights = {key: value.detach().cpu() for key, value in agent.state_dict().items()}
    course.rounds += 1
    about_agent = {"config": agent.config, "weights": weights}
    return [players.start(Task(course.world.game, args.more_steps, 8, 100 * course.rounds + k, "agent", about_agent))
            for k in range(args.parts)]  # fmt: skip


def take(course: Course, wait: bool = False) -> None:
    """Takes in what has been played."""
    left = []
    for future in course.pending:
        if wait or future.done():
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
    """Weights (float16), curve and configuration of every game, and the starts, which take a second to compress."""
    for game, course in courses.items():
        world = course.world
        if game.endswith("-control"):
            (out / f"{game}.json").write_text(json.dumps({"drift": course.drift, "curve": course.curve}))
            continue
        weights = {key: value.half() for key, value in world.state().items()}
        save_file(weights, out / f"{game}.safetensors")
        if starts:
            save_starts(out / f"{game}.starts.npz", world.starts())
        facts = {"about": about(), "game": game, "seconds": round(seconds), "recipe": asdict(recipe),
                 "args": {k: v for k, v in vars(args).items() if k != "out"}, "curve": course.curve,
                 "frames": len(world.experience), "scores": course.scores, "drift": course.drift,
                 "denoiser": asdict(world.denoiser.module.config), "reward_end": asdict(world.reward_end.module.config),
                 "agent": asdict(world.agent.module.config)}  # fmt: skip
        (out / f"{game}.json").write_text(json.dumps(facts))


def main(argv: list[str] | None = None) -> None:
    """Runs a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("ablation", "worlds"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--games", nargs="+", default=["Pong", "Boxing"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--steps", type=int, default=40_000, help="first steps of real play, a game")
    parser.add_argument("--more-steps", type=int, default=6_000, help="later steps, a part and round")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--updates", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drift-steps", type=int, default=200)
    parser.add_argument("--dreams", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--fit-seconds", type=float, default=10, help="of a turn of the world models")
    parser.add_argument("--agent-seconds", type=float, default=15, help="of a turn of the agents")
    parser.add_argument("--play-after", type=int, default=100, help="windows before the agent plays")
    parser.add_argument("--agent-from", type=float, default=0.3, help="part of the time before the agent is trained")
    parser.add_argument("--fit-until", type=float, default=0.7)
    parser.add_argument("--init", action="store_true", help="begin with the bundled models' networks")
    parser.add_argument("--agents", nargs="*", help="games with an agent; all by default")
    parser.add_argument("--control", nargs="*", default=[], help="games fitted a second time without noise")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--held-out", type=int, default=4_000)
    parser.add_argument("--save-every", type=float, default=60)
    parser.add_argument("--log-every", type=float, default=20)
    parser.add_argument("--recipe", type=json.loads, default={}, help="fields of Recipe as JSON")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    torch._dynamo.config.recompile_limit = 64
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    stage = ablation if args.stage == "ablation" else worlds
    stage(args, args.out, device, replace(Recipe(), **args.recipe))


if __name__ == "__main__":
    main()
