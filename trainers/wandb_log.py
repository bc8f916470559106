"""Metrics for Weights & Biases, for those who ask for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WandbLog:
    """One run there, which a resumed training goes on with.

    Args:
        folder: The run's; its name becomes the run's name, and wandb's own files lie in it.
        config: Plain data.

    Raises:
        ModuleNotFoundError: wandb is not installed; the command line says how to.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        marker = folder / "wandb-run-id"
        known = marker.read_text().strip() if marker.exists() else None
        self._run = wandb.init(
            project="diamond-gym", name=folder.name, dir=str(folder), config=dict(config), id=known, resume="allow"
        )
        marker.write_text(str(self._run.id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()
