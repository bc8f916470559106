"""Stages of a run on a GPU: `python -m benchmarks.gpu.run ablation|worlds --out DIR`.

`ablation` fits variants of the denoiser at an equal number of updates and measures how long dreams stay on the data.
`worlds` runs DIAMOND's loop on several games at once: processes play with the latest agents while the GPU fits the
world models and trains the agents in their dreams. Every result is written as soon as there is one.
"""

import argparse
import json
import time
from concurrent.futures import Future
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.about import about, settle
from benchmarks.gpu.course import Course, note, play_on, save, take
from benchmarks.gpu.drift import drift
from benchmarks.gpu.experience import Experience
from benchmarks.gpu.norms import check_norms, without_fused_norms
from benchmarks.gpu.play import Play, Players, Task, noise_play, tasks_of
from benchmarks.gpu.recipe import Recipe
from benchmarks.gpu.worlds import World
from diamond_gym.errors import DiamondGymError
from diamond_gym.hallucination import SeenColours
from diamond_gym.registry import load_world_model
from diamond_gym.registry.games import game as find_game
from diamond_gym.trainers.optim import lr_factor

VARIANTS: dict[str, dict[str, Any]] = {
    "residual": {},
    "residual, no threshold": {"change_threshold": 0.0},
    "paper output": {"residual": False},
    "residual, 3 autoregressive steps": {"autoregressive": 3},
    "residual, noise": {"past_noise": 0.3},
    "residual, noise told": {"past_noise": 0.3, "noise_cond": True},
    "paper output, noise": {"residual": False, "past_noise": 0.3},
}


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


def worlds(args: argparse.Namespace, out: Path, device: torch.device, recipe: Recipe) -> None:
    """DIAMOND's loop on all games at once, for `args.seconds`."""
    clock, players = Clock(), Players(args.processes)
    tasks = {g: tasks_of(g, args.steps, 10, 8, args.part) for g in args.games}
    futures: dict[str, list[Future[Path]]] = {g: [] for g in args.games}
    for row in zip_longest(*tasks.values()):  # some of all games first
        for task in row:
            if task is not None:
                futures[task.game].append(players.start(task))
    courses: dict[str, Course] = {}
    for game in args.games:
        begin = load_world_model(game, "cpu", "float32") if game in args.init else None
        own = replace(recipe, **args.recipes.get(game, {}))
        world = World(game, find_game(game).num_actions, own, device, args.seed, begin=begin, compiled=args.compile)
        world.record(noise_play(find_game(game).num_actions))
        turns = args.agents.count(game)
        until = args.seconds * (args.fit_until if turns else args.fit_only_until)
        courses[game] = Course(world, futures[game], until, turns, args.fits.get(game, args.fit_turn))
        print(f"{clock():.0f} s: recorded {game}", flush=True)
    log = last_save = clock()
    while clock() < args.seconds:
        for course in courses.values():
            take(course)
        ready = [c for c in courses.values() if len(c.world.experience) >= args.begin_with]
        fitting = [c for c in ready if clock() < c.fit_until]
        for course in ready:
            left, decay = course.fit_until - clock(), course.fit_until * args.decay
            agent = lr_factor(1, 0, args.seconds - clock(), args.seconds * args.agent_decay)
            course.world.set_lr(lr_factor(1, 0, left, decay), agent)
            course.world.early = course.world.game not in args.init and clock() < args.early * course.fit_until
        for i in range(max((c.fits for c in fitting), default=0)):
            for course in fitting:
                if i < course.fits:
                    course.world.fit(1)
        if clock() > args.agent_from * args.seconds:
            for i in range(max(c.turns for c in courses.values())):
                for course in ready:
                    if i < course.turns:
                        course.world.imagine(1)
        if device.type == "cuda":
            torch.cuda.synchronize()
        for course in ready:
            room = len(course.world.experience) < recipe.capacity
            if not course.pending and course.world.windows >= course.played_at + args.play_after and room:
                course.pending = play_on(players, course, args)
        if clock() - log > args.log_every:
            log = clock()
            for name, course in courses.items():
                print(f"{log:.0f} s {name}: {json.dumps(note(course, clock()))}", flush=True)
        if clock() - last_save > args.save_every:
            save(out, courses, recipe, args, clock(), starts=False)
            last_save = clock()
    for course in courses.values():
        note(course, clock())
    save(out, courses, recipe, args, clock())
    players.close()
    print(f"{clock():.0f} s: done", flush=True)


class Clock:
    """Seconds since the beginning."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._begin


def main(argv: list[str] | None = None) -> None:
    """Runs a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("ablation", "worlds"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--games", nargs="+", default=["Pong", "Boxing"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--steps", type=int, default=40_000, help="first steps of real play, a game")
    parser.add_argument("--part", type=int, default=5_000, help="of them that a process plays at once")
    parser.add_argument("--more-steps", type=int, default=6_000, help="later steps, a part and round")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--updates", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drift-steps", type=int, default=200)
    parser.add_argument("--dreams", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--begin-with", type=int, default=8_000, help="frames from which on a world is fitted")
    parser.add_argument("--fit-turn", type=int, default=4, help="updates of each world, a round")
    parser.add_argument("--fits", type=json.loads, default={}, help="the same of games that have another, as JSON")
    parser.add_argument("--decay", type=float, default=0.6, help="part of the fitting in which learning rates fall")
    parser.add_argument("--agent-decay", type=float, default=0.2, help="the same of the agents', of the time")
    parser.add_argument("--early", type=float, default=0.5, help="part of a new world's fitting with single steps")
    parser.add_argument("--play-after", type=int, default=100, help="windows between an agent's plays")
    parser.add_argument("--agent-from", type=float, default=0.1, help="part of the time before agents are trained")
    parser.add_argument("--fit-until", type=float, default=0.85, help="part of the time, worlds with an agent")
    parser.add_argument("--fit-only-until", type=float, default=0.5, help="part of the time, other worlds")
    parser.add_argument("--init", nargs="*", default=[], help="games that begin with the bundled models' networks")
    parser.add_argument("--agents", nargs="*", default=[], help="games with an agent, each as often as windows a round")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--plain", action="store_true", help="without the norms in Triton")
    parser.add_argument("--save-every", type=float, default=150)
    parser.add_argument("--log-every", type=float, default=20)
    parser.add_argument("--entropy", type=float, default=0.001, help="weight of the agents' entropy")
    parser.add_argument("--recipe", type=json.loads, default={}, help="fields of Recipe as JSON")
    parser.add_argument("--recipes", type=json.loads, default={}, help="the same by game: {GAME: {...}}")
    args = parser.parse_args(argv)
    try:
        loss = replace(Recipe().loss, weight_entropy_loss=args.entropy)
        recipe = replace(Recipe(), loss=loss, **args.recipe)
        for own in args.recipes.values():
            replace(recipe, **own)
        for game in (*args.games, *args.recipes, *args.fits):
            find_game(game)
    except (AttributeError, TypeError, DiamondGymError) as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    settle()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 5
        if args.plain:
            without_fused_norms()
        else:
            check_norms(device)
    stage = ablation if args.stage == "ablation" else worlds
    stage(args, args.out, device, recipe)


if __name__ == "__main__":
    main()
