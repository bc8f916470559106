"""From a finished training to a registered model with its agent."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diamond_gym.registry import Entry, save_model
from diamond_gym.trainers.diamond import Diamond
from diamond_gym.trainers.dreamer import agent_weights, round_agent
from diamond_gym.trainers.registering import draw_starts, half, make_card


def register_run(
    training: Diamond,
    name: str,
    preset: str,
    precision: str,
    command: str,
    source: str | None = None,
    folder: Path | None = None,
) -> Entry:
    """Writes world model, agent, starts and card; from here on the agent is what was stored, rounded to float16.

    Args:
        training: Finished.
        name: The model's.
        preset: What the card calls the numbers of the training.
        precision: Of the world model.
        command: What made it.
        source: Where the experience is from, if not from ALE.
        folder: Where to write instead of into the user's registry.
    """
    config, agent = training.config, training.agent
    facts: dict[str, Any] = {
        "algo": "diamond",
        "windows": agent.step,
        "steps": agent.step * config.agent.horizon * config.agent.optimizer.batch_size,
        "horizon": config.agent.horizon,
        **{part: asdict(getattr(config.agent, part)) for part in ("loss", "optimizer")},
    }
    numbers = asdict(config)
    loop = {key: value for key, value in numbers.items() if not isinstance(value, dict)}
    about: dict[str, Any] = {"preset": preset, "precision": precision, "seed": training.seed, "epochs": training.epoch}
    about |= {"steps": training.world_model.step, "loop": loop}
    card = make_card(name, training.store, config.fit, about, {}, command, config.sampler)
    model = training.world_model.averaged()
    data = card.training["data"] if source is None else {**card.training["data"], "source": source}
    card = replace(
        card,
        summary=f"A DIAMOND world model of {card.game} and the agent that was trained in it while it was fitted, "
        f"with {training.store.num_steps} steps of real play.",
        spaces={key: value for key, value in card.spaces.items() if value != []},  # not every game names its actions
        actor_critic=asdict(agent.agent.config),
        training={**card.training, "data": data, "agent": facts},
    )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    weights = {**half(model), **agent_weights(agent.agent)}
    entry = save_model(card, weights, draw_starts(training.store, model.denoiser.num_steps_conditioning), folder)
    round_agent(agent.agent)
    return entry
