"""A model's files in a folder of the user's, to keep, to hand on, or to upload."""

import shutil
from pathlib import Path

from diamond_gym.errors import BadArgument
from diamond_gym.files import atomic_path, atomic_write
from diamond_gym.registry.card import Card
from diamond_gym.registry.human_card import human_card
from diamond_gym.registry.loading import verify
from diamond_gym.registry.models import Entry, read_entry


def export(entry: Entry, folder: Path, readme: bool = False) -> Entry:
    """Copies a verified model into a folder, the card last; the copies are verified too.

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
    others = [card.name for card in folder.glob("*.toml") if card.name != f"{entry.name}.toml"]
    if others:
        raise BadArgument(f"{folder} holds another model already ({others[0]}): choose an empty folder")
    for kind in entry.card.files:
        path = entry.file(kind)
        assert path is not None
        with atomic_path(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    texts = {
        "README.md" if readme else f"{entry.name}.md": _front_matter(entry.card) * readme + human_card(entry.card),
        f"{entry.name}.toml": entry.card.to_toml(),
    }
    for name, text in texts.items():
        with atomic_write(folder / name, "w") as file:
            file.write(text)
    return verify(read_entry(folder / f"{entry.name}.toml"))


def _front_matter(card: Card) -> str:
    """What the hub reads at the head of a README."""
    license = card.license.lower() if card.license in ("MIT", "Apache-2.0") else "other"
    tags = ["reinforcement-learning", "world-model", "diffusion", "diamond", "gymnasium", card.game]
    return "\n".join(
        ["---", "library_name: diamond-gym", f"license: {license}", "tags:", *(f"- {tag}" for tag in tags), "---", ""]
    )
