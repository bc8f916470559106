"""A model's files in a folder of the user's, to keep, to hand on, or to upload."""

import os
import shutil
from pathlib import Path

from diamond_gym.errors import BadArgument
from diamond_gym.files import atomic_path, atomic_write, disk_space_for, flush_folder, temporary_folder
from diamond_gym.registry.card import Card
from diamond_gym.registry.human_card import human_card
from diamond_gym.registry.loading import verify
from diamond_gym.registry.models import Entry, read_entry


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
