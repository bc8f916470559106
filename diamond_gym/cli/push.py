"""`diamond-gym push NAME user/repo`: a model of yours on the Hugging Face hub."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from diamond_gym.files import temporary_folder
from diamond_gym.registry import resolve
from diamond_gym.registry.models import Address


@dataclass(frozen=True)
class Push:
    """Uploads a model to the Hugging Face hub: its card, weights, start states, and a README written from the card.

    Log in first, with `hf auth login`.
    """

    name: tyro.conf.Positional[str]
    """A model's name, a game's name, or the folder of a model."""
    repository: tyro.conf.Positional[str]
    """Where to: user/repo. It is made if there is none."""
    private: bool = False
    """Make it for your eyes only, if it has to be made."""

    def __post_init__(self) -> None:
        Address.parse(self.repository)

    def run(self) -> int:
        """Verifies and uploads; prints the address by which anybody can pull it."""
        from diamond_gym.registry.hub import push
        from diamond_gym.registry.saving import export

        entry = resolve(self.name)
        with temporary_folder(Path(tempfile.gettempdir())) as folder:
            entry = export(entry, folder, readme=True)
            address = push(entry, folder, self.repository, self.private)
        print(address)
        return 0
