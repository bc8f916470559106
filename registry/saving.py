"""Models written whole or not at all, and removed."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_gym.errors import ModelNotFound
from diamond_gym.files import atomic_path, atomic_write, disk_space_for, sha256_file, temporary_folder
from diamond_gym.registry.card import Card, FileRecord, check_name
from diamond_gym.registry.human_card import PREVIEW, human_card
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
