"""`diamond-gym pull NAME`: the authors' models, and anybody's, from the Hugging Face hub."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from diamond_gym.cli.import_diamond import START_STEPS, finish
from diamond_gym.errors import BadArgument, DamagedModel, DiamondGymError
from diamond_gym.registry import resolve, verify
from diamond_gym.registry.games import did_you_mean
from diamond_gym.registry.models import Address
from diamond_gym.registry.published import CSGO, REVISION, Published, published


@dataclass(frozen=True)
class Pull:
    """Fetches world models from the Hugging Face hub; nothing else ever downloads one.

    What is here already is left alone, and what was interrupted goes on where it stopped.
    """

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="GAME|csgo|hf:user/repo[@revision]")] = None
    """One of the 26 games, csgo, or a model that somebody pushed."""
    all: bool = False
    """All 26 games."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A local mirror: a folder with the repository's layout, instead of the network."""
    again: bool = False
    """Fetch, check and import again what is here already."""
    revision: str = REVISION
    """Of the authors' repository: a commit, tag or branch; main for the newest."""
    start_steps: int = START_STEPS
    """How many steps the authors' agent plays in the real game, for start states."""

    def __post_init__(self) -> None:
        if (self.name is None) != self.all:
            raise BadArgument("which? Name a game, csgo or hf:user/repo, or say --all (diamond-gym list tells more)")
        if self.start_steps < 100:
            raise BadArgument(f"--start-steps must be at least 100, not {self.start_steps}")
        if self.name is not None and "/" not in self.name:
            find(self.name)

    def run(self) -> int:
        """Pulls; of several models one that fails does not keep the others from coming."""
        from diamond_gym.registry.hub import Unreachable

        if self.name is not None:
            self._pushed(Address.parse(self.name)) if "/" in self.name else self._published(find(self.name))
            return 0
        failed = 0
        for model in published().values():
            if model.game == CSGO:
                continue
            try:
                self._published(model)
            except Unreachable:
                raise
            except DamagedModel as error:
                failed += 1
                print(" ".join(str(error).split()), file=sys.stderr)
        return 1 if failed else 0

    def _published(self, model: Published) -> None:
        from diamond_gym.cli.progress import console
        from diamond_gym.registry.hub import check_first_pull, fetch_published
        from diamond_gym.registry.released import read_released
        from diamond_gym.trainers.register import check_free

        if not self.again and _is_here(model.name):
            console.print(f"{model.name} is here already (--again fetches it once more)")
            return
        check_free(model.name)
        fetched = fetch_published(model, self.revision, self.source)
        check_first_pull(fetched, model.name)
        checkpoint, config, env_config = (fetched.folder / path for path in model.files)
        released = read_released(checkpoint, config, env_config, model.game, model.name)
        if released.card.num_actions != model.num_actions:
            raise DamagedModel(f"{checkpoint}: {model.game} has {model.num_actions} actions, not these many")
        told = {
            "license": model.license,
            "summary": model.summary,
            "source": model.source,
            "figures": model.figures,
            "training": {"pulled": fetched.table},
        }
        starts = fetched.folder / model.spawn if model.spawn else None
        entry = finish(released, starts, self.start_steps, 0, told)
        console.print(f"registered {entry.name} in {entry.folder}", soft_wrap=True)

    def _pushed(self, address: Address) -> None:
        from diamond_gym.cli.progress import console
        from diamond_gym.registry import save_model
        from diamond_gym.registry.checkpoint import check_weights
        from diamond_gym.registry.hub import check_first_pull, fetch_model
        from diamond_gym.registry.loading import read_model
        from diamond_gym.trainers.register import check_free

        there, fetched = fetch_model(address, self.source)
        check_free(there.name, there.card.training.get("agent"))
        check_first_pull(fetched, there.name)
        there, weights, starts = read_model(there)
        check_weights(there.card, weights, str(there.file("weights")))
        training = {**there.card.training, "pulled": fetched.table}
        entry = save_model(replace(there.card, training=training), weights, starts)
        console.print(f"registered {entry.name} in {entry.folder}", soft_wrap=True)
        console.print(f'gym.make("DiamondDream-v0", model="{fetched.address}") dreams with it', soft_wrap=True)


def find(name: str) -> Published:
    """The published model of a game, however it is written.

    Raises:
        BadArgument: There is none; the message suggests the nearest name.
    """
    for model in published().values():
        if name.lower() in (model.game.lower(), model.name):
            return model
    raise BadArgument(f"nothing to pull for '{name}'{did_you_mean(name, published())}")


def _is_here(name: str) -> bool:
    try:
        return "pulled" in verify(resolve(name)).card.training
    except DiamondGymError:
        return False
