"""`diamond-gym train-agent --algo ppo|a2c|dqn`: an agent of Stable-Baselines3 in the dreams of a registered model."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_gym.cli.terminal import console, counting, fitting
from diamond_gym.device import keep_memory
from diamond_gym.registry import home_folder, resolve
from diamond_gym.trainers.evaluate import score_random
from diamond_gym.trainers.loop import train
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.sb3 import RHYTHM, SB3Trainer, register_file, score_agent, world_of
from diamond_gym.trainers.sb3_agents import AgentConfig
from diamond_gym.trainers.sb3_files import open_agent

if TYPE_CHECKING:
    from diamond_gym.cli.train_agent import TrainAgent

_STEPS, _ENVS = 100_000, 16


def train_sb3(args: "TrainAgent") -> int:
    """Trains the agent, saves and scores it, and registers it if that was asked for; returns the exit code."""
    config = _config(args)
    entry = world_of(config)
    world, where = (entry.name, "dreams") if entry is not None else (f"{config.game.lower()}-real", "the real game")
    folder = args.run_folder or home_folder() / "runs" / f"{world}-agent-{config.algo}"
    out = args.out or _out(config)
    out.parent.mkdir(parents=True, exist_ok=True)  # better now than after hours
    keep_memory()
    with RunFolder(folder) as run, SB3Trainer(config, run) as trainer:
        console.print(
            f"{folder}: step {trainer.step:,} of {trainer.total_steps:,} of {config.algo.upper()} in "
            f"{where if entry is None else f'dreams of {world}'}, {config.n_envs} at a time, on {trainer.agent.device}",
            soft_wrap=True,
        )
        with fitting(trainer, args.minutes) as report:
            reason = train(trainer, run, args.minutes, RHYTHM, report).reason
        trainer.save(out)
    console.print(f"saved {out} after {trainer.step:,} steps", soft_wrap=True)
    if trainer.recent_return is not None:
        console.print(f"mean return of its last episodes in {where}: {trainer.recent_return:.2f}")
    if reason != "steps":
        console.print(f"stopped at step {trainer.step:,} of {config.steps:,}; repeat the command to go on")
        if reason == "interrupted":
            return 130
    if args.register:
        registered = register_file(resolve(args.model or args.game), out)
        console.print(f"registered the agent with {registered.name} in {registered.folder}", soft_wrap=True)
    if args.episodes:
        _score(args, out)
    return 0


def _config(args: "TrainAgent") -> AgentConfig:
    assert args.algo != "diamond"
    same = {f.name: getattr(args, f.name) for f in fields(AgentConfig) if f.name not in ("steps", "n_envs")}
    steps = _STEPS if args.steps is None else args.steps
    return AgentConfig(**same, steps=steps, n_envs=_ENVS if args.n_envs is None else args.n_envs)


def _out(config: AgentConfig) -> Path:
    return home_folder() / "agents" / f"{config.game.lower()}-{config.algo}{'-real' if config.real else ''}.zip"


def _score(args: "TrainAgent", out: Path) -> None:
    from diamond_gym.cli.evaluate import print_scores

    agent = open_agent(out, args.device)
    game, episodes, seed = args.game, args.episodes, args.seed
    with counting(f"playing {game}", 2 * episodes, "games") as advance:
        scores = {out.name: score_agent(agent, game, episodes, seed=seed, progress=advance)}
        scores["random"] = score_random(game, episodes, seed=seed, progress=lambda n: advance(episodes + n))
    print_scores(scores)
