"""Does an agent that learnt in dreams alone play the real game?

A random policy, PPO trained only in dreams, and the same PPO with the same budget trained in the real game, all
scored over full games of the real one:

    python benchmarks/reality_check.py --game Pong --steps 100000 --episodes 30 --seeds 0 1 2

prints the rows of a Markdown table and appends all that was measured to benchmarks/results/reality_check.json.
Several seeds are scored over `episodes` games each; the interval is then that of all their games together, and
says nothing about how much one training differs from the next.
"""

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import tyro

from diamond_gym.cli.terminal import console, counting
from diamond_gym.errors import DiamondGymError
from diamond_gym.files import atomic_write
from diamond_gym.trainers.evaluate import Scores, score_random
from diamond_gym.trainers.sb3 import score_agent, train_agent
from diamond_gym.trainers.sb3_agents import AgentConfig
from diamond_gym.trainers.sb3_files import open_agent

RESULTS = Path(__file__).parent / "results" / "reality_check.json"
HEADER = (
    "| Game | Policy | Steps | Wall time | Seeds | Games | Score (95 % interval) | Human-normalised |\n"
    "|---|---|---:|---:|---|---:|---:|---:|"
)


@dataclass(frozen=True)
class RealityCheck:
    """Scores random play, PPO from dreams and PPO from the real game in the real game."""

    game: str = "Pong"
    """One of the 26 Atari 100k games."""
    steps: int = 50_000
    """Training steps of each PPO, over all rows."""
    episodes: int = 30
    """Full real games that score each agent."""
    seeds: tuple[int, ...] = (0,)
    """One training of each kind per seed."""
    model: str | None = None
    """The world model, instead of the one that the game's id means."""
    quality: str | None = "fast"
    """How carefully dreams are sampled: fast, paper or fine."""
    n_envs: int = 16
    """Dreams or games side by side."""
    max_episode_steps: int = 50
    """The dreams' horizon."""
    minutes: float | None = None
    """Stop each training in dreams after so many minutes; the real one then gets as many steps as it did."""
    algo: str = "ppo"
    """ppo, a2c or dqn."""
    keep: Path | None = None
    """Keep the agents in this folder."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    results: Path = RESULTS
    """The JSON file to append to."""


def main(check: RealityCheck) -> None:
    """Trains, scores, prints and appends."""
    folder = check.keep or Path(tempfile.mkdtemp())
    dreamt: list[dict[str, Any]] = []
    real: list[dict[str, Any]] = []
    config = AgentConfig(
        game=check.game,
        algo=check.algo,  # type: ignore[arg-type]
        model=check.model,
        steps=check.steps,
        n_envs=check.n_envs,
        max_episode_steps=check.max_episode_steps,
        quality=check.quality,
        device=check.device,
    )
    for seed in check.seeds:
        trained = one(check, replace(config, seed=seed), folder, check.minutes)
        dreamt.append(trained)
        same = replace(config, seed=seed, steps=trained["steps"], model=None, real=True)
        real.append(one(check, same, folder, None))
    games = check.episodes * len(check.seeds)
    played = counted(games, f"{check.game} at random", lambda told: score_random(check.game, games, progress=told))
    policies = [
        {"policy": "random", "steps": 0, "seconds": 0.0, **played.table()},
        together(check.game, f"{check.algo.upper()}, dreams only", dreamt),
        together(check.game, f"{check.algo.upper()}, real game", real),
    ]
    print(HEADER)
    for policy in policies:
        print(row(check, policy))
    append(check, policies, config)


def one(check: RealityCheck, config: AgentConfig, folder: Path, minutes: float | None) -> dict[str, Any]:
    """Trains and scores a single agent."""
    where = "real" if config.real else "dreams"
    out = folder / f"{check.game.lower()}-{config.algo}-{where}-{config.seed}.zip"
    with counting(f"{check.game}, {where}, seed {config.seed}", config.steps, "steps") as advance:
        training = train_agent(config, out, minutes, advance)
    if training.reason == "interrupted":
        raise KeyboardInterrupt
    agent = open_agent(out, check.device)
    scores = counted(
        check.episodes,
        f"{check.game}, scoring",
        lambda told: score_agent(agent, check.game, check.episodes, seed=1000 + config.seed, progress=told),
    )
    console.print(f"{where}, seed {config.seed}: score {scores.mean:.2f}, training return {training.recent_return}")
    return {
        "seed": config.seed,
        "steps": training.steps,
        "seconds": round(training.seconds, 1),
        "training_return": training.recent_return,
        "model": training.card.model,
        "model_sha256": training.card.model_sha256,
        "settings": training.card.settings,
        "lengths": list(scores.lengths),
        **scores.table(),
    }


def counted(games: int, what: str, score: Callable[[Callable[[int], None]], Scores]) -> Scores:
    """Scores with a bar on the terminal."""
    with counting(what, games, "games") as advance:
        return score(advance)


def together(game: str, policy: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of several seeds as one row: the mean steps and seconds, and the scores of all games."""
    scores = tuple(chain.from_iterable(run["scores"] for run in runs))
    lengths = tuple(chain.from_iterable(run["lengths"] for run in runs))
    all_games = Scores(game, scores, lengths, sum(run["truncated"] for run in runs))
    n = len(runs)
    means = {name: sum(run[name] for run in runs) / n for name in ("steps", "seconds")}
    return {"policy": policy, **means, **all_games.table(), "runs": runs}


def row(check: RealityCheck, policy: dict[str, Any]) -> str:
    """A row of the Markdown table."""
    low, high = policy["interval_95"]
    seeds = " ".join(map(str, check.seeds)) if policy["steps"] else "0"
    minutes, seconds = divmod(round(policy["seconds"]), 60)
    return (
        f"| {check.game} | {policy['policy']} | {policy['steps']:,.0f} | {minutes}:{seconds:02d} | {seeds} | "
        f"{policy['episodes']} | {policy['mean']:.2f} ({low:.2f} to {high:.2f}) | {policy['human_normalised']:.3f} |"
    )


def append(check: RealityCheck, policies: list[dict[str, Any]], config: AgentConfig) -> None:
    """Adds a record to the results, which stay whole whatever happens."""
    try:
        records = json.loads(check.results.read_text(encoding="utf-8")) if check.results.exists() else []
    except ValueError:
        raise DiamondGymError(f"{check.results} is no JSON: move it away") from None
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and check.device != "cpu" else platform.machine()
    records.append(
        {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git.stdout.strip(),
            "machine": f"{os.cpu_count()} CPUs, {device}",
            "torch": torch.__version__,
            "config": asdict(config) | {"seeds": list(check.seeds), "minutes": check.minutes},
            "policies": policies,
        }
    )
    with atomic_write(check.results, "w") as file:
        file.write(json.dumps(records, indent=1) + "\n")
    console.print(f"appended to {check.results}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(RealityCheck))
    except DiamondGymError as error:
        raise SystemExit(str(error)) from None
