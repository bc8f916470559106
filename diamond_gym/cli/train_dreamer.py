"""`diamond-gym train-agent --algo diamond`: DIAMOND's agent in the dreams of a registered model."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_gym.cli.progress import console, counting, fitting
from diamond_gym.device import keep_memory, pick_device, pick_precision
from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, home_folder, resolve, update_card
from diamond_gym.registry.loading import read_model
from diamond_gym.sampler import QUALITIES, SamplerConfig
from diamond_gym.trainers.actor_critic import (
    AgentFit,
    AgentFitConfig,
    agent_for,
    begin_with_agent_of,
    world_to_dream_in,
)
from diamond_gym.trainers.evaluate import Scores, score_actor_critic, score_random
from diamond_gym.trainers.loop import Rhythm, sit
from diamond_gym.trainers.register import register_agent
from diamond_gym.trainers.run import RunFolder

if TYPE_CHECKING:
    from diamond_gym.cli.train_agent import TrainAgent

# what a resumed run may be told differently
_FREE = frozenset({"steps", "minutes", "device", "precision", "compile", "episodes", "score_minutes", "model"})
_GAMES = 10  # that score the agent on the way, if none do at the end


def train_dreamer(wishes: "TrainAgent") -> int:
    """Trains the agent, registers it with its model, and scores it; returns the exit code."""
    entry = _entry(wishes)
    config = _config(wishes, entry)
    sampler = _sampler(wishes, entry)
    folder = wishes.run_folder or home_folder() / "runs" / f"{entry.name}-agent-{wishes.preset}"
    device = pick_device(wishes.device)
    precision = pick_precision(wishes.precision, device)
    per_step = config.horizon * config.optimizer.batch_size
    assert wishes.steps is not None, "every preset says how many"
    keep_memory()
    with RunFolder(folder) as run:
        model = world_to_dream_in(entry, device, precision, wishes.compile)
        defaults = {"fit": asdict(AgentFitConfig()), "sampler": asdict(SamplerConfig())}
        run.settle(_settings(wishes, config, sampler) | {"world_model": model.fingerprint}, _FREE, defaults)
        fit = AgentFit(config, -(-wishes.steps // per_step), wishes.seed, device)
        state = run.load()
        if state is None and wishes.init is not None:
            begin_with_agent_of(fit, read_model(resolve(wishes.init))[1], wishes.init)
        dream = model.dream(config.optimizer.batch_size, sampler=sampler, horizon=config.horizon)
        fit.dream_in(dream, wishes.seed)
        if state is not None:
            fit.load_state_dict(state)
        size = sum(p.numel() for p in fit.agent.parameters()) / 1e6
        console.print(
            f"{folder}: window {fit.step:,} of {fit.total_steps:,}, each of {per_step} dreamed steps of {entry.name}, "
            f"{sampler.num_denoising_steps} denoising steps, on {device} in {precision} (agent {size:.2f} M)",
            soft_wrap=True,
        )

        def check(step: int) -> None:
            scores = _play(fit, wishes)
            run.log(step, {"real/score": scores.mean})
            console.print(f"window {step:,}: {scores.mean:.2f} in {len(scores.scores)} real games")

        rhythm = Rhythm(log_steps=10, picture_seconds=60 * wishes.score_minutes)
        with fitting(fit, wishes.minutes) as report:
            sitting = sit(fit, run, wishes.minutes, rhythm, report, check if wishes.score_minutes else None)
        if sitting.reason != "steps":
            console.print(f"stopped at window {fit.step:,} of {fit.total_steps:,}; repeat the command to go on")
            if sitting.reason == "interrupted":
                return 130
        facts = {
            "algo": "diamond",
            "preset": wishes.preset,
            "steps": fit.step * per_step,
            "windows": fit.step,
            "sampler": asdict(sampler),
            "seed": wishes.seed,
            **{name: asdict(getattr(config, name)) for name in ("loss", "optimizer")},
            "horizon": config.horizon,
        }
        entry = register_agent(entry, fit.agent, facts)
        console.print(f"registered the agent with {entry.name} in {entry.folder}", soft_wrap=True)
        if wishes.episodes:
            _score(fit, wishes, entry, facts)
    return 0


def _entry(wishes: "TrainAgent") -> Entry:
    entry = resolve(wishes.model or wishes.game)
    if entry.card.game != wishes.game:
        raise BadArgument(f"the model {entry.name} dreams {entry.card.game}, not {wishes.game}")
    return entry


def _config(wishes: "TrainAgent", entry: Entry) -> AgentFitConfig:
    config = agent_for(wishes.fit, entry)
    if wishes.n_envs is not None:
        config = replace(config, optimizer=replace(config.optimizer, batch_size=wishes.n_envs))
    return config


def _sampler(wishes: "TrainAgent", entry: Entry) -> SamplerConfig:
    if wishes.quality is not None and wishes.quality not in QUALITIES:
        raise BadArgument(f"{entry.name} dreams in qualities {', '.join(QUALITIES)}, not {wishes.quality}")
    sampler = SamplerConfig(**entry.card.sampler) if wishes.quality is None else QUALITIES[wishes.quality]
    if wishes.num_denoising_steps is not None:
        sampler = replace(sampler, num_denoising_steps=wishes.num_denoising_steps)
    return sampler


def _settings(wishes: "TrainAgent", config: AgentFitConfig, sampler: SamplerConfig) -> dict[str, Any]:
    settings = {f.name: getattr(wishes, f.name) for f in fields(wishes)}
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items() if k not in ("run_folder", "out")}
    return settings | {"fit": asdict(config), "sampler": asdict(sampler)}


def _play(fit: AgentFit, wishes: "TrainAgent", progress: Callable[[int], None] | None = None) -> Scores:
    return score_actor_critic(fit.agent, wishes.game, wishes.episodes or _GAMES, seed=wishes.seed, progress=progress)


def _score(fit: AgentFit, wishes: "TrainAgent", entry: Entry, facts: dict[str, Any]) -> None:
    from diamond_gym.cli.evaluate import print_scores

    games = wishes.episodes
    with counting(f"playing {wishes.game}", 2 * games, "games") as advance:
        scores = {entry.name: _play(fit, wishes, advance)}
        scores["random"] = score_random(wishes.game, games, seed=wishes.seed, progress=lambda n: advance(games + n))
    mine, random = scores[entry.name], scores["random"]
    said = {"score": mine.mean, "score_std": mine.std, "episodes": games, "random_score": random.mean}
    said = {key: float(f"{value:.4g}") for key, value in said.items()}
    update_card(entry, replace(entry.card, training={**entry.card.training, "agent": {**facts, **said}}))
    print_scores(scores)
