"""Card, starts and files of a finished training or of an imported checkpoint, registered as a model."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diamond_gym import __version__
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.registry import Card, Entry, entries, save_model, with_agent, with_agent_file
from diamond_gym.registry.card import now
from diamond_gym.registry.models import local_folder
from diamond_gym.sampler import SamplerConfig
from diamond_gym.starts import Starts
from diamond_gym.trainers.fidelity import rounded
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.world_model import PREFIXES, WorldModel

if TYPE_CHECKING:
    from diamond_gym.registry.released import Released
    from diamond_gym.trainers.diamond import DiamondTrainer, Learnt
    from diamond_gym.trainers.world_model_config import WorldModelConfig


# What of an agent's card goes into that of its world model.
_FACTS = ("algo", "steps", "seconds", "seed", "frame_stack", "quality", "max_episode_steps", "data", "settings")


def make_card(
    name: str,
    store: EpisodeStore,
    config: "WorldModelConfig",
    training: Mapping[str, Any],
    figures: Mapping[str, Any],
    command: str,
    sampler: SamplerConfig,
    origin: str,
    began_with: Entry | None = None,
) -> Card:
    """The card of a fitted model.

    Args:
        name: The registry name.
        store: The experience it was fitted to.
        config: What was fitted, and how.
        training: What else to say about the training.
        figures: What was measured.
        command: The command that made it.
        sampler: How it samples frames unless a user says otherwise; the card names what is not the paper's.
        origin: Where the experience is from.
        began_with: The model whose weights the training began with.
    """
    about, codec = store.about, store.codec
    assert codec is not None, "whoever fitted to them knew what the actions mean"
    two_stages, small = config.upsampler.factor is not None, config.upsampler.small(about.frame_shape[:2])
    kind = "DIAMOND world model of two stages" if two_stages else "small DIAMOND world model"
    summary = f"A {kind} of {about.game}, fitted to {store.num_steps} steps of real play."
    if config.without_rewards:
        summary += " Nothing is known of rewards and ends: its dreams pay 0, and end by their horizon alone."
    if began_with is not None:
        earlier = began_with.card.training.get("stages", [began_with.card.source])
        training = {**training, "stages": [*earlier, command]}
        summary = f"{summary[:-1]} in {len(earlier) + 1} stages: it began with the weights of {began_with.name}."
    return Card(
        name=name,
        game=about.game,
        created=now(),
        summary=summary,
        source=command,
        spaces={
            "obs_shape": list(about.frame_shape),
            "num_actions": codec.num_inputs,
            **({"actions": codec.table} if codec.table else {}),
            **({"low_res_shape": [*small, about.frame_shape[2]]} if two_stages else {}),
            **({"action_meanings": list(about.action_meanings)} if about.action_meanings else {}),
        },
        denoiser=asdict(config.denoiser),
        reward_end=None if config.without_rewards else asdict(config.reward_end),
        upsampler=asdict(config.upsampler.denoiser) if two_stages else None,
        sampler=unlike_the_papers(sampler),
        training={
            **training,
            "data": {
                "steps": store.num_steps,
                "episodes": len(store),
                "source": origin,
                **({"env": about.env} if about.env not in ("", about.game) else {}),
                **{f"versions.{package}": number for package, number in about.versions.items()},
            },
            **made_here(),
        },
        figures=rounded(figures),
    )


def unlike_the_papers(sampler: SamplerConfig) -> dict[str, Any]:
    """The fields of a sampler that are not the paper's, for a card."""
    paper = asdict(SamplerConfig())
    return {key: value for key, value in asdict(sampler).items() if value != paper[key]}


def made_here() -> dict[str, Any]:
    """The machine and the versions with which something is made, for cards and reports.

    This package's own is not asked of its metadata: a source tree that was not installed has none.
    """
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"diamond-gym": __version__} | {name: version(name) for name in ("torch", "numpy", "gymnasium")},
    }


def half(model: WorldModel) -> dict[str, torch.Tensor]:
    """A model's weights as float16, half the file; an error of 2^-11 of each weight, far below training's own noise."""
    return {key: value.half().cpu().contiguous() for key, value in model.weights().items()}


def check_free(name: str, agent: object = None) -> None:
    """Refuses to put an imported model in place of one that was trained here, or got its agent here.

    Args:
        name: The name it would take.
        agent: What the card of the model to come tells of its agent, if it does.

    Raises:
        BadArgument: There is such a model, or no place for one.
    """
    local_folder(name)
    for training in (entry.card.training for entry in entries() if entry.name == name and not entry.bundled):
        if not {"imported", "pulled"} & set(training):
            raise BadArgument(
                f"there is a model '{name}' of your own already: choose another --name, or `diamond-gym remove {name}`"
            )
        if training.get("agent") not in (None, agent):
            raise BadArgument(
                f"the agent of '{name}' was trained here and would be lost: "
                f"keep it with `diamond-gym export {name} FOLDER`, then `diamond-gym remove {name}`"
            )


def register(model: "Released", starts: Starts | None, metadata: Mapping[str, Any]) -> Entry:
    """Writes an imported model into the user's registry, whole or not at all.

    Args:
        model: What was read.
        starts: Where its dreams begin; None for a model that is only loaded.
        metadata: Fields of its card that say more than the checkpoint does, such as `source` and `license`; tables
            are added to those that are there.

    Raises:
        BadArgument: A model of that name was trained here.
        DiskFull: There is no room left; nothing has changed.
    """
    check_free(model.card.name)
    changes: dict[str, Any] = {
        key: {**getattr(model.card, key), **value} if isinstance(value, Mapping) else value
        for key, value in metadata.items()
    }
    return save_model(replace(model.card, **changes), model.weights, starts)


def register_agent(entry: Entry, agent: ActorCritic, facts: Mapping[str, Any]) -> Entry:
    """Registers a model together with an agent, which is rounded to what is stored.

    Args:
        entry: The model it was trained in.
        agent: The agent.
        facts: What its card says of the training.
    """
    return with_agent(entry, asdict(agent.config), _rounded(agent), facts)


def register_file(entry: Entry, path: Path) -> Entry:
    """Registers a model together with a saved agent as its own, made as small as it can be; `path` stays as it is.

    Raises:
        DiamondGymError: The agent cannot be opened, cannot play the model's game, or did not learn in this model's
            dreams.
    """
    from diamond_gym.trainers.sb3_files import open_agent, packed

    saved, card = open_agent(path, "cpu"), entry.card
    saved.check(card.game, card.obs_shape, card.codec)
    if saved.card is None or saved.card.model_sha256 != card.files["weights"].sha256:
        raise BadArgument(f"{path} was not trained in the dreams of {entry.name} as it is now")
    facts = asdict(saved.card)
    return with_agent_file(entry, packed(path), {key: facts[key] for key in _FACTS if facts[key] is not None})


def _rounded(agent: ActorCritic) -> dict[str, torch.Tensor]:
    """Rounds an agent to float16, so that what is scored is what is stored: its weights by the keys of a file."""
    weights = {key: value.half() for key, value in agent.state_dict().items()}
    agent.load_state_dict(weights)
    return {PREFIXES["actor_critic"] + key: value.cpu().contiguous() for key, value in weights.items()}


def register_run(
    training: "DiamondTrainer",
    learnt: "Learnt",
    name: str,
    preset: str,
    command: str,
    origin: str,
    folder: Path | None = None,
) -> Entry:
    """Writes world model, agent, starts and card; from here on the agent is what was stored, rounded to float16.

    Args:
        training: Finished, or of at least one epoch.
        learnt: What it has learnt, to be registered.
        name: The model's.
        preset: What the card calls the numbers of the training.
        command: What made it.
        origin: Where the experience is from.
        folder: Where to write instead of into the user's registry.
    """
    config, counts, agent = training.config, learnt.counts, training.config.agent
    facts: dict[str, Any] = {
        "algo": "diamond",
        "windows": counts["windows"],
        "steps": counts["windows"] * agent.horizon * agent.optimizer.batch_size,
        "horizon": agent.horizon,
        **{part: asdict(getattr(agent, part)) for part in ("loss", "optimizer")},
    }
    numbers = asdict(config)
    loop = {key: value for key, value in numbers.items() if not isinstance(value, dict)}
    about: dict[str, Any] = {"preset": preset, "precision": training.world_model.precision, "seed": training.seed}
    about |= {"epochs": counts["epochs"], "steps": counts["updates"], "loop": loop}
    if learnt.score is not None:
        about["test_score"] = learnt.score
    card = make_card(name, training.store, config.fit, about, {}, command, config.sampler, origin)
    early = ""
    if learnt.score is not None:
        early = f" It is of epoch {counts['epochs']} of {config.epochs}, whose test had the best score."
    elif counts["epochs"] < config.epochs:
        early = f" It was finished after {counts['epochs']} of {config.epochs} epochs."
    data = card.training["data"] | {key: counts[key] for key in ("steps", "episodes")}
    card = replace(
        card,
        summary=f"A DIAMOND world model of {card.game} and the agent that was trained in it while it was fitted, "
        f"with {counts['steps']} steps of real play.{early}",
        actor_critic=asdict(learnt.agent.config),
        training={**card.training, "data": data, "agent": facts},
    )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    starts = draw_starts(training.store, learnt.world_model.denoiser.num_steps_conditioning)
    return save_model(card, half(learnt.world_model) | _rounded(learnt.agent), starts, folder)
