"""Agents beside their world models: an actor-critic in a registered model's own files."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import BadArgument
from diamond_gym.registry.card import Card
from diamond_gym.registry.checkpoint import check_weights
from diamond_gym.registry.human_card import PREVIEW
from diamond_gym.registry.loading import read_model
from diamond_gym.registry.models import Entry
from diamond_gym.registry.saving import save_model

if TYPE_CHECKING:
    from torch import Tensor


def with_agent(
    entry: Entry,
    config: Mapping[str, Any],
    weights: "Mapping[str, Tensor]",
    facts: Mapping[str, Any],
    folder: str | os.PathLike[str] | None = None,
) -> Entry:
    """Registers a copy of a model together with an agent, in place of one that it may have.

    The copy has the model's name and its time of creation, and lies in the user's registry, where it goes before a
    bundled model. It is written as by `save_model`: whoever reads finds the model without the new agent or with it.
    The scores of the agent that it replaces leave the card: they are another one's.

    Args:
        entry: The model.
        config: The fields of its `ActorCriticConfig`; image size, channels and number of actions may be left out.
        weights: The agent's tensors by state-dict key, with or without the prefix `actor_critic.`, stored in the
            types they have.
        facts: What the card tells of the agent, as its table `training.agent`: how and in which dreams it was trained,
            what it scored.
        folder: Where to write the model's files instead, flat, each atomically, the card last.

    Returns:
        The entry of the copy.

    Raises:
        BadArgument: The agent sees other frames or has other actions than the model.
        DamagedModel: The model is not whole, or the agent's tensors are not those of its configuration.
        DiskFull: There is no room left; the old model is intact.
    """
    from diamond_gym.world_model import COMPILED, PREFIXES

    entry, own, starts = read_model(entry)
    prefix = PREFIXES["actor_critic"]
    agent = {prefix + key.removeprefix(prefix).replace(COMPILED, ""): value for key, value in weights.items()}
    card = _card(entry.card, config, facts)
    kept = {key: value for key, value in own.items() if not key.startswith(prefix)}
    check_weights(card, {**kept, **agent}, f"the agent of {entry.name}")
    preview = entry.file(PREVIEW)
    return save_model(card, {**kept, **agent}, starts, folder, preview.read_bytes() if preview else None)


def _card(card: Card, config: Mapping[str, Any], facts: Mapping[str, Any]) -> Card:
    height, width, channels = card.obs_shape
    table = {"img_size": height, "img_channels": channels, **config}
    table["num_actions"] = config.get("num_actions") or card.num_actions
    side, seen, actions = (table[key] for key in ("img_size", "img_channels", "num_actions"))
    if (side, side, seen, actions) != (height, width, channels, card.num_actions):
        raise BadArgument(
            f"the agent sees frames of {side}x{side}x{seen} and has {actions} actions, "
            f"but {card.name} dreams {height}x{width}x{channels} with {card.num_actions}"
        )
    figures = {key: value for key, value in card.figures.items() if key != "published"}
    summary = card.summary
    if card.actor_critic is not None and "agent" not in card.training:  # the one that came with an imported model
        summary = f"{summary} Its agent is another one, trained later.".lstrip()
    training = {**card.training, "agent": dict(facts)}
    return replace(card, summary=summary, actor_critic=table, figures=figures, training=training)
