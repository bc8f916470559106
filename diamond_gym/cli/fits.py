"""What the commands that fit a model share: devices, a store to learn from and one held out, and the fitting."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diamond_gym.cli.collect import TEST_SEED, PolicyName, experience, read_store
from diamond_gym.cli.terminal import console, fitting
from diamond_gym.data.about import ABOUT, held_out_beside
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.device import pick_device, pick_precision
from diamond_gym.errors import DiamondGymError
from diamond_gym.registry.loading import Precision
from diamond_gym.trainers.loop import Processes, Trainer, any_process, launch, train
from diamond_gym.trainers.run import RunFolder

if TYPE_CHECKING:
    from diamond_gym.trainers.rollouts import Rollouts
    from diamond_gym.trainers.worlds import World

HORIZON = 16
"""Steps of the dreams that are drawn and measured."""
_DRAWN = 3  # dreams of a picture


def launched(device: str, precision: str) -> tuple[Processes, torch.device, Precision]:
    """Joins the processes that torchrun has started, of which the first one alone prints.

    Args:
        device: "auto", or one of torch's.
        precision: "auto", "float32" or "bfloat16".

    Returns:
        The processes, this one's device, and the precision of all of them.
    """
    fabric = launch(device)
    console.quiet = not fabric.is_global_zero
    place = fabric.device or pick_device(device)
    # what is measured may differ between processes
    in_half = any_process(fabric, pick_precision(precision, place) == "bfloat16")
    return fabric, place, "bfloat16" if in_half else "float32"


def sizes(networks: Mapping[str, torch.nn.Module]) -> str:
    """The names of networks, each with its number of parameters: "denoiser 1.21 M, agent 0.40 M"."""
    millions = {name: sum(p.numel() for p in network.parameters()) / 1e6 for name, network in networks.items()}
    return ", ".join(f"{name} {number:.2f} M" for name, number in millions.items())


def both_stores(
    folder: Path, world: "World", steps: tuple[int, int], seed: int, policy: PolicyName
) -> tuple[EpisodeStore, EpisodeStore]:
    """Opens the store to learn from and the one held out beside it, each filled up first.

    Args:
        folder: The first one's.
        world: What to play.
        steps: How many there have to be in each.
        seed: Of the play; the held-out play has another one.
        policy: Who plays what is missing.
    """
    first = experience(folder, world, steps[0], seed, policy)
    return first, experience(held_out_beside(folder), world, steps[1], seed + TEST_SEED, policy)


def recorded_stores(folder: Path, world: "World") -> tuple[EpisodeStore, EpisodeStore | None]:
    """Opens recordings as they are, and those held out beside them if there are any.

    Raises:
        DiamondGymError: There is nothing to learn from.
    """
    if not (folder / ABOUT).exists() or not (store := read_store(folder, world)).num_steps:
        raise DiamondGymError(f"there is no experience in {folder} to learn from: name another store with --data")
    test = held_out_beside(folder)
    if (test / ABOUT).exists():
        return store, read_store(test, world)
    console.print(f"nothing is held out (in {test}): the model will not be measured", soft_wrap=True)
    return store, None


def lacking_steps(folder: Path, steps: tuple[int, int]) -> int:
    """How many steps `both_stores` would play."""
    places = zip((folder, held_out_beside(folder)), steps, strict=True)
    return sum(max(0, wanted - _steps_in(place)) for place, wanted in places)


def _steps_in(folder: Path) -> int:
    return EpisodeStore(folder).num_steps if (folder / ABOUT).exists() else 0


def fit_with_strips(
    trainer: Trainer,
    run: RunFolder,
    minutes: float | None,
    shown: EpisodeStore,
    memory: int,
    dream: "Callable[[Rollouts], Rollouts]",
    fabric: Processes,
) -> int | None:
    """Trains on, and draws dreams beside real play on the way and at the end.

    Args:
        trainer: Restored from the run's checkpoint, if there is one.
        run: Where checkpoints, metrics and pictures go.
        minutes: Time limit.
        shown: Where the real play comes from.
        memory: Frames that the model remembers, T.
        dream: Dreams real play over again, by the model as it is by now.
        fabric: The processes that train together.

    Returns:
        None where all steps are done and the model is this process's to register; else the command's exit status.
    """
    from diamond_gym.trainers.rollouts import Rollouts, horizon_within

    real = Rollouts.held_out(shown, _DRAWN, memory, horizon_within(shown, memory, HORIZON))

    def draw(step: int) -> None:
        from diamond_gym.trainers.plots import strip, write_png

        write_png(run.path / "strips" / f"{step:07d}.png", strip(real, dream(real)))

    main = fabric.is_global_zero
    with fitting(trainer, minutes) as report:
        reason = train(trainer, run, minutes, None, report, draw if main else None, fabric)
    status = 130 if reason == "interrupted" else 0
    if not main:
        return status
    draw(trainer.step)
    if reason == "steps":
        return None
    console.print(f"stopped at step {trainer.step:,} of {trainer.total_steps:,}; repeat the command to go on")
    return status
