"""Models given an agent: its tensors among the model's own, or its file beside them."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import BadArgument
from diamond_gym.registry.card import Card, Table
from diamond_gym.registry.checkpoint import check_weights
from diamond_gym.registry.loading import read_model
from diamond_gym.registry.models import Entry
from diamond_gym.registry.saving import AGENT, save_model

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
    bundled model. The scores of the agent that it replaces leave the card: they are another one's.

    Args:
        entry: The model.
        config: The fields of its `ActorCriticConfig`; image size, channels and number of actions may be left out.
        weights: The agent's tensors by state-dict key, with or without the prefix `actor_critic.`, stored in the
            types they have.
        facts: What the card tells of the agent, as its table `training.agent`: how and in which dreams it was trained,
            what it scored.
        folder: Where to write the model's files instead, flat.

    Returns:
        The entry of the copy.

    Raises:
        BadArgument: The agent sees other frames or has other actions than the model.
        DamagedModel: The model is not whole, or the agent's tensors are not those of its configuration.
        DiskFull: There is no room left; the old model is intact.
    """
    from diamond_gym.world_model import COMPILED, PREFIXES

    entry, own, starts = read_model(entry)
    card, prefix = entry.card, PREFIXES["actor_critic"]
    height, width, channels = card.obs_shape
    table = {"img_size": height, "img_channels": channels, **config}
    table["num_actions"] = config.get("num_actions") or card.num_actions
    side, seen, actions = (table[key] for key in ("img_size", "img_channels", "num_actions"))
    if (side, side, seen, actions) != (height, width, channels, card.num_actions):
        raise BadArgument(
            f"the agent sees frames of {side}x{side}x{seen} and has {actions} actions, "
            f"but {card.name} dreams {height}x{width}x{channels} with {card.num_actions}"
        )
    card = _card_with_agent(card, table, facts)
    agent = {prefix + key.removeprefix(prefix).replace(COMPILED, ""): value for key, value in weights.items()}
    tensors = {key: value for key, value in own.items() if not key.startswith(prefix)} | agent
    check_weights(card, tensors, f"the agent of {entry.name}")
    return save_model(card, tensors, starts, folder, _extras(entry))


def with_agent_file(
    entry: Entry, content: bytes, facts: Mapping[str, Any], folder: str | os.PathLike[str] | None = None
) -> Entry:
    """Registers a copy of a model as `with_agent` does, together with an agent in a file of its own.

    Args:
        entry: The model.
        content: The file's, as `diamond_gym.trainers.sb3_files.packed` makes it.
        facts: What the card tells of the agent, as its table `training.agent`.
        folder: Where to write the model's files instead, flat.
    """
    from diamond_gym.world_model import PREFIXES

    entry, own, starts = read_model(entry)
    weights = {key: value for key, value in own.items() if not key.startswith(PREFIXES["actor_critic"])}
    extras = {**_extras(entry), AGENT: content}
    return save_model(_card_with_agent(entry.card, None, facts), weights, starts, folder, extras)


def _extras(entry: Entry) -> dict[str, bytes]:
    """The further files of a model, but for its agent."""
    paths = {kind: entry.file(kind) for kind in entry.card.files if kind not in ("weights", "starts", AGENT)}
    return {kind: path.read_bytes() for kind, path in paths.items() if path is not None}


def _card_with_agent(card: Card, actor_critic: Table | None, facts: Mapping[str, Any]) -> Card:
    """The card with another agent."""
    figures = {key: value for key, value in card.figures.items() if key != "published"}
    summary = card.summary
    if card.actor_critic is not None and "agent" not in card.training:  # the one that came with an imported model
        summary = f"{summary} Its agent is another one, trained later.".lstrip()
    training = {**card.training, "agent": dict(facts)}
    return replace(card, summary=summary, actor_critic=actor_critic, figures=figures, training=training)
