"""Models written, updated, given an agent, exported and removed."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.files import atomic_path, atomic_write, disk_space_for, flush_folder, sha256_file, temporary_folder
from diamond_gym.registry.card import Card, FileRecord, Table, check_name
from diamond_gym.registry.checkpoint import check_weights
from diamond_gym.registry.human_card import PREVIEW, human_card
from diamond_gym.registry.loading import read_model, verify
from diamond_gym.registry.models import Entry, local_folder, read_entry
from diamond_gym.registry.swap import discard, put_back, take_place

if TYPE_CHECKING:
    from torch import Tensor

    from diamond_gym.starts import Starts


AGENT = "agent"
"""The kind of file that is an agent of Stable-Baselines3, as it saves one."""
_EXTRAS = {PREVIEW: ".png", AGENT: ".agent.zip"}


def save_model(
    card: Card,
    weights: "Mapping[str, Tensor]",
    starts: "Starts | None" = None,
    folder: str | os.PathLike[str] | None = None,
    extras: Mapping[str, bytes] | None = None,
) -> Entry:
    """Writes a model: card, human card, weights and start states.

    In the user's registry (the default) a model of the same name is replaced in one step: whoever reads, and
    whatever interrupts, finds the old model or the new one, whole. Of two processes that save the same name
    at once, the last one's stays.

    Args:
        card: What the model is; its `files` are filled in here.
        weights: Tensors by state-dict key, stored in the types they have.
        starts: The real frames that dreams begin from.
        folder: Where to write the files instead, flat, each atomically, the card last.
        extras: Contents of further files: `"preview"`, a picture of its dreams as PNG, and `"agent"`, an agent's .zip.

    Returns:
        The entry of the model as written.

    Raises:
        DamagedModel: The card's name or a table of it cannot be written.
        DiskFull: There is no room left; the old model is intact.
    """
    check_name(card.name)
    if folder is not None:
        return _write(Path(folder), card, weights, starts, extras or {})
    target = local_folder(card.name)
    with disk_space_for(target), temporary_folder(target.parent, "model") as temporary:
        card = _write(temporary, card, weights, starts, extras or {}).card
        take_place(temporary, target)
    return Entry(card, target / f"{card.name}.toml")  # not read again: another process may have replaced it by now


def update_card(entry: Entry, card: Card, extras: Mapping[str, bytes] | None = None) -> Entry:
    """Writes a changed card, and the human card with it, over the same files; for instance with new figures.

    Args:
        entry: The model whose card changes.
        card: What the card says from now on; its name and files stay those of the entry.
        extras: Contents of further files, as `save_model` takes them; those that are not named stay as they are.

    Returns:
        The entry with the new card.

    Raises:
        DiskFull: There is no room left; the old card is intact.
    """
    files = dict(entry.card.files) | _write_extras(entry.folder, entry.name, extras or {})
    _write_cards(entry.folder, replace(card, name=entry.name, files=files))
    return read_entry(entry.path)


def remove(name: str) -> None:
    """Removes a model from the user's registry.

    Raises:
        ModelNotFound: The user has no model of that name.
    """
    target = local_folder(name)
    put_back(target)
    if not os.path.lexists(target):
        raise ModelNotFound(f"no model '{name}' of your own in {target.parent}")
    discard(target)


def _write(
    folder: Path, card: Card, weights: "Mapping[str, Tensor]", starts: "Starts | None", extras: Mapping[str, bytes]
) -> Entry:
    """Writes the files of a model flat into a folder; the card, by which it is found, comes last."""
    from safetensors.torch import save_file

    names = {"weights": f"{card.name}.safetensors"}
    with atomic_path(folder / names["weights"]) as path:
        # Keys in order and no metadata: the same tensors give the same bytes, hence the same hash.
        save_file(_apart({key: weights[key] for key in sorted(weights)}), path)
    if starts is not None:
        from diamond_gym.starts import save_starts

        names["starts"] = f"{card.name}.starts.npz"
        with atomic_path(folder / names["starts"]) as path:
            save_starts(path, starts)
    files = {kind: _record(folder / name) for kind, name in names.items()}
    files |= _write_extras(folder, card.name, extras)
    card = card.with_files(files)
    _write_cards(folder, card)
    return read_entry(folder / f"{card.name}.toml")


def _apart(weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors as safetensors wants them, each in memory of its own; copied only where that has to be."""
    taken: set[int] = set()
    apart = {}
    for key, value in weights.items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        apart[key] = tensor
    return apart


def _write_extras(folder: Path, name: str, extras: Mapping[str, bytes]) -> dict[str, FileRecord]:
    records = {}
    for kind, content in extras.items():
        path = folder / f"{name}{_EXTRAS[kind]}"
        with atomic_write(path, "wb") as file:
            file.write(content)
        records[kind] = _record(path)
    return records


def _write_cards(folder: Path, card: Card) -> None:
    toml = card.to_toml()
    readable = human_card(Card.from_toml(toml))  # its rows in the order in which a reader of the TOML has them
    for suffix, text in ((".md", readable), (".toml", toml)):
        with atomic_write(folder / f"{card.name}{suffix}", "w") as file:
            file.write(text)


def _record(path: Path) -> FileRecord:
    return FileRecord(path.name, sha256_file(path), path.stat().st_size)


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
    return save_model(card, {**kept, **agent}, starts, folder, _extras(entry))


def with_agent_file(
    entry: Entry, content: bytes, facts: Mapping[str, Any], folder: str | os.PathLike[str] | None = None
) -> Entry:
    """Registers a copy of a model together with an agent in a file of its own, in place of one that it may have.

    The copy is what `with_agent` writes, but for the kind of agent.

    Args:
        entry: The model.
        content: The file's, as `diamond_gym.trainers.sb3_files.packed` makes it.
        facts: What the card tells of the agent, as its table `training.agent`.
        folder: Where to write the model's files instead, flat, each atomically, the card last.

    Returns:
        The entry of the copy.

    Raises:
        DamagedModel: The model is not whole.
        DiskFull: There is no room left; the old model is intact.
    """
    from diamond_gym.world_model import PREFIXES

    entry, own, starts = read_model(entry)
    weights = {key: value for key, value in own.items() if not key.startswith(PREFIXES["actor_critic"])}
    return save_model(_told(entry.card, None, facts), weights, starts, folder, {**_extras(entry), AGENT: content})


def _extras(entry: Entry) -> dict[str, bytes]:
    """The further files of a model, but for its agent."""
    paths = {kind: entry.file(kind) for kind in entry.card.files if kind not in ("weights", "starts", AGENT)}
    return {kind: path.read_bytes() for kind, path in paths.items() if path is not None}


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
    return _told(card, table, facts)


def _told(card: Card, actor_critic: Table | None, facts: Mapping[str, Any]) -> Card:
    """The card with another agent."""
    figures = {key: value for key, value in card.figures.items() if key != "published"}
    summary = card.summary
    if card.actor_critic is not None and "agent" not in card.training:  # the one that came with an imported model
        summary = f"{summary} Its agent is another one, trained later.".lstrip()
    training = {**card.training, "agent": dict(facts)}
    return replace(card, summary=summary, actor_critic=actor_critic, figures=figures, training=training)


def export(entry: Entry, folder: Path, readme: bool = False) -> Entry:
    """Copies a verified model into a folder; the copies are verified too, before they take their places.

    Whatever interrupts it, the folder then holds the old files, or the new ones, or no card; exporting again mends it.

    Args:
        entry: The model.
        folder: Where to; made if there is none. It holds one model.
        readme: Write the human card as the hub wants it, README.md, instead of `<name>.md`.

    Returns:
        The entry of the copy.

    Raises:
        BadArgument: Another model lies there.
        DamagedModel: The model is not whole.
        DiskFull: There is no room left.
    """
    entry = verify(entry)
    card = f"{entry.name}.toml"
    others = [path.name for path in folder.glob("*.toml") if path.name != card and path.name[0] != "."]
    if others:
        raise BadArgument(f"{folder} holds another model already ({others[0]}): choose an empty folder")
    texts = {
        "README.md" if readme else f"{entry.name}.md": _front_matter(entry.card) * readme + human_card(entry.card),
        card: entry.card.to_toml(),
    }
    with disk_space_for(folder / card), temporary_folder(folder, "export") as temporary:
        for kind in entry.card.files:
            path = entry.file(kind)
            assert path is not None
            with atomic_path(temporary / path.name) as copy:
                shutil.copyfile(path, copy)
        for name, text in texts.items():
            with atomic_write(temporary / name, "w") as file:
                file.write(text)
        verify(read_entry(temporary / card))
        (folder / card).unlink(missing_ok=True)  # without it nothing in the folder is taken for a model
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == card):  # the card last
            os.replace(path, folder / path.name)
    flush_folder(folder)
    return read_entry(folder / card)


def _front_matter(card: Card) -> str:
    """What the hub reads at the head of a README."""
    license = card.license.lower() if card.license in ("MIT", "Apache-2.0") else "other"
    tags = ["reinforcement-learning", "world-model", "diffusion", "diamond", "gymnasium", card.game]
    return "\n".join(
        ["---", "library_name: diamond-gym", f"license: {license}", "tags:", *(f"- {tag}" for tag in tags), "---", ""]
    )
