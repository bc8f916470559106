"""`diamond-gym import-diamond RUN`: a model in the authors' format, trained by their code, as one of yours."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diamond_gym.errors import BadArgument
from diamond_gym.registry.card import check_name

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
    """The .pt file; or the folder of a run of the authors' code, for the last agent of it."""
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
    """Start states: collected episodes, or spawns. Without it the checkpoint's agent plays the real game."""
    start_steps: int = START_STEPS
    """How many steps the agent plays for them."""
    license: str | None = None
    """The licence of the weights, for the model's card."""
    seed: int = 0
    """Seeds the games and the choice of start states."""

    def __post_init__(self) -> None:
        if self.game is not None:
            check_name(self.game, "game")
        if self.name is not None:
            check_name(self.name)
        if self.start_steps < 100:
            raise BadArgument(f"--start-steps must be at least 100, not {self.start_steps}")
        if self.seed < 0:
            raise BadArgument(f"--seed must not be negative, unlike {self.seed}")

    def run(self) -> int:
        """Reads, checks, finds start states and registers."""
        from diamond_gym.cli.progress import console
        from diamond_gym.registry.released import find_run, read_released

        checkpoint, config = find_run(self.checkpoint)
        config = self.config or config
        if config is None:
            raise BadArgument(
                "name the configuration with --config: config/trainer.yaml of a run, agent/default.yaml of the release"
            )
        model = read_released(checkpoint, config, self.env_config, self.game, self.name)
        told: dict[str, Any] = {"source": "diamond-gym " + shlex.join(["import-diamond", checkpoint.name])}
        if self.license:
            told["license"] = self.license
        entry = finish(model, self.starts, self.start_steps, self.seed, told)
        console.print(f"registered {entry.name} in {entry.folder}", soft_wrap=True)
        if entry.card.files.get("starts"):
            console.print(f'gym.make("DiamondDream-{entry.name}-v0") dreams with it from now on', soft_wrap=True)
        return 0


def finish(model: "Released", starts: Path | None, steps: int, seed: int, told: Mapping[str, Any]) -> "Entry":
    """What importing and pulling have in common: start states, from where they are to be had, and the registry."""
    from diamond_gym.cli.progress import counting
    from diamond_gym.trainers.register import can_collect, check_free, register, starts_from_folder, starts_from_game

    check_free(model.card.name)
    if starts is not None and str(starts) == "none":
        return register(model, None, told)
    if starts is not None:
        return register(model, starts_from_folder(model, starts, seed=seed), told)
    can_collect(model)
    with counting(f"its agent plays {model.card.game}", steps, "steps") as advance:
        found = starts_from_game(model, steps, seed=seed, progress=advance)
    return register(model, found, told)
