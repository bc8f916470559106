"""The commands that fetch and send models: pull, push, import-diamond."""

import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diamond_gym.cli.options import check_least
from diamond_gym.cli.terminal import console, counting
from diamond_gym.errors import BadArgument, DamagedModel, DiamondGymError
from diamond_gym.files import temporary_folder
from diamond_gym.registry import resolve, verify
from diamond_gym.registry.card_fields import check_name
from diamond_gym.registry.games import did_you_mean
from diamond_gym.registry.models import Address
from diamond_gym.registry.published import CSGO, REVISION, Published, published

if TYPE_CHECKING:
    from diamond_gym.registry import Entry
    from diamond_gym.registry.released import Released


START_STEPS = 5_000


@dataclass(frozen=True)
class ImportDiamond:
    """Imports a checkpoint of DIAMOND, or of a fork that kept its format, and registers it.

    Nothing in the files is run: the checkpoint is read as tensors, the YAML as plain values.
    """

    checkpoint: tyro.conf.Positional[Path]
    """The .pt file; or the folder of a run of the authors' code, whose last agent is taken."""
    config: Path | None = None
    """The configuration: config/trainer.yaml of a run, which is found if the checkpoint lies in the run's folder, or
    agent/default.yaml of the release."""
    game: str | None = None
    """The game it dreams: one of the 26, CSGO, or any word (default: that of the configuration's environment)."""
    env_config: Path | None = None
    """The environment's YAML (env/atari.yaml of the release)."""
    name: str | None = None
    """The registered model's name (default: <game>-diamond)."""
    starts: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER|none")] = None
    """Folder of start states: collected episodes, or spawns. Without it the checkpoint's agent plays the real game."""
    start_steps: int = START_STEPS
    """How many steps the agent plays to find start states."""
    license: str | None = None
    """The licence of the weights, for the model's card."""
    seed: int = 0
    """Seeds the games and the choice of start states."""

    def __post_init__(self) -> None:
        if self.game is not None:
            check_name(self.game, "game")
        if self.name is not None:
            check_name(self.name)
        check_least(self, start_steps=100, seed=0)

    def run(self) -> int:
        """Reads, checks, finds start states and registers."""
        from diamond_gym.registry.released import find_run, read_released

        checkpoint, config = find_run(self.checkpoint)
        config = self.config or config
        if config is None:
            raise BadArgument(
                "name the configuration with --config: config/trainer.yaml of a run, agent/default.yaml of the release"
            )
        model = read_released(checkpoint, config, self.env_config, self.game, self.name)
        metadata: dict[str, Any] = {"source": "diamond-gym " + shlex.join(["import-diamond", checkpoint.name])}
        if self.license:
            metadata["license"] = self.license
        entry = finish(model, self.starts, self.start_steps, self.seed, metadata)
        if entry.card.files.get("starts"):
            console.print(f'gym.make("DiamondDream-{entry.name}-v0") dreams with it from now on', soft_wrap=True)
        return 0


def finish(model: "Released", starts: Path | None, steps: int, seed: int, metadata: Mapping[str, Any]) -> "Entry":
    """Registers an imported or pulled model, with start states from where they are to be had."""
    from diamond_gym.trainers.register import check_free, register
    from diamond_gym.trainers.start_states import can_collect, starts_from_folder, starts_from_game

    check_free(model.card.name)
    result = None
    if starts is None:
        can_collect(model)
        with counting(f"its agent plays {model.card.game}", steps, "steps") as advance:
            result = starts_from_game(model, steps, seed=seed, progress=advance)
    elif str(starts) != "none":
        result = starts_from_folder(model, starts, seed=seed)
    return _registered(register(model, result, metadata))


def _registered(entry: "Entry") -> "Entry":
    console.print(f"registered {entry.name} in {entry.folder}", soft_wrap=True)
    return entry


@dataclass(frozen=True)
class Pull:
    """Fetches world models from the Hugging Face hub; nothing else ever downloads one.

    Models that are here already are left alone, and interrupted downloads resume where they stopped.
    """

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="GAME|csgo|hf:user/repo[@revision]")] = None
    """One of the 26 games, csgo, or a model that somebody pushed."""
    all: bool = False
    """All 26 games."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A local mirror: a folder with the repository's layout, instead of the network."""
    again: bool = False
    """Fetch, check and import again even what is here already."""
    revision: str = REVISION
    """Revision of the authors' repository: a commit, tag or branch; main for the newest."""
    start_steps: int = START_STEPS
    """How many steps the authors' agent plays in the real game, for start states."""

    def __post_init__(self) -> None:
        if (self.name is None) != self.all:
            raise BadArgument("which? Name a game, csgo or hf:user/repo, or say --all (diamond-gym list shows them)")
        check_least(self, start_steps=100)
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
        metadata = {
            "license": model.license,
            "summary": model.summary,
            "source": model.source,
            "figures": model.figures,
            "training": {"pulled": fetched.table},
        }
        starts = fetched.folder / model.spawn if model.spawn else None
        finish(released, starts, self.start_steps, 0, metadata)

    def _pushed(self, address: Address) -> None:
        from diamond_gym.registry import save_model
        from diamond_gym.registry.hub import check_first_pull, fetch_model
        from diamond_gym.registry.loading import check_weights, read_extras, read_model
        from diamond_gym.trainers.register import check_free

        there, fetched = fetch_model(address, self.source)
        check_free(there.name, there.card.training.get("agent"))
        check_first_pull(fetched, there.name)
        there, weights, starts = read_model(there)
        extras = read_extras(there)
        check_weights(there.card, weights, str(there.file("weights")))
        training = {**there.card.training, "pulled": fetched.table}
        _registered(save_model(replace(there.card, training=training), weights, starts, extras=extras))
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


@dataclass(frozen=True)
class Push:
    """Uploads a model to the Hugging Face hub: its card, weights, start states, and a README written from the card.

    Log in first, with `hf auth login`.
    """

    name: tyro.conf.Positional[str]
    """A model's name, a game's name, or the folder of a model."""
    repository: tyro.conf.Positional[str]
    """Where to: user/repo, which is created if it does not exist."""
    private: bool = False
    """Make the repository private, if it has to be created."""

    def __post_init__(self) -> None:
        Address.parse(self.repository)

    def run(self) -> int:
        """Verifies and uploads; prints the address by which anybody can pull it."""
        from diamond_gym.registry.hub import push
        from diamond_gym.registry.saving import export

        entry = resolve(self.name)
        with temporary_folder(Path(tempfile.gettempdir())) as folder:
            entry = export(entry, folder, as_readme=True)
            address = push(entry, folder, self.repository, self.private)
        print(address)
        return 0
