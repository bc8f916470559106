"""`diamond-gym evaluate-wm`: how well a model dreams what really happened."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from diamond_gym.cli.experience import TEST_SEED, experience
from diamond_gym.cli.progress import counting
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry import Card, home_folder, load_world_model, resolve, update_card
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.evaluation import RealPlay, closed_loop, figures
from diamond_gym.trainers.pictures import strip, write_png


@dataclass(frozen=True)
class EvaluateWm:
    """Dreams held-out real play over again, with the actions that were really taken, and compares.

    Prints the frames' mean squared error over that of repeating the last real frame, and how well rewards and
    ends were found at their exact step.
    """

    name: tyro.conf.Positional[str]
    """A model's name or folder, or a game's name."""
    data: Path | None = None
    """Held-out play (default: <home>/data/<game>-test; collected if it is not there)."""
    windows: int = 500
    """How many pieces of real play."""
    horizon: int = 16
    """Steps to dream of each."""
    num_denoising_steps: int = 3
    """Denoising steps per frame."""
    seed: int = 0
    """Seeds the choice of windows and the dreams."""
    test_steps: int = 6_000
    """Steps to collect where there is no held-out play yet."""
    picture: Path | None = None
    """Write a picture (.png) of real frames above dreamed ones."""
    save: bool = False
    """Store the figures in the model's card."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: str = "auto"
    """auto (measured), float32 or bfloat16."""

    def __post_init__(self) -> None:
        for name in ("windows", "horizon", "num_denoising_steps", "test_steps"):
            if getattr(self, name) < 1:
                raise BadArgument(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.picture is not None and self.picture.suffix != ".png":
            raise BadArgument(f"--picture must end in .png, not {self.picture}")

    def run(self) -> int:
        """Measures and prints."""
        entry = resolve(self.name)
        model = load_world_model(entry.folder if not entry.bundled else entry.name, self.device, self.precision)
        sampler = SamplerConfig(num_denoising_steps=self.num_denoising_steps)
        play = self._real_play(entry.card, model.denoiser.num_steps_conditioning)
        with counting("dreaming", self.windows * self.horizon, "frames") as advance:
            rollout = closed_loop(
                model, play, sampler, seed=self.seed, progress=lambda frames: advance(frames, more=True)
            )
        table = figures(play, rollout, tuple(h for h in (1, 4, 16) if h <= self.horizon))
        table = {key: float(f"{value:.4g}") for key, value in table.items()}
        table |= {"num_denoising_steps": self.num_denoising_steps}
        if self.picture is not None:
            write_png(self.picture, strip(play, rollout, rows=4))
        if self.save:
            update_card(entry, replace(entry.card, figures={**entry.card.figures, **table}))
        if self.as_json:
            print(json.dumps(table, indent=2))
        else:
            _print(entry.name, table, model.precision)
        return 0

    def _real_play(self, card: Card, t: int) -> RealPlay:
        folder = self.data or home_folder() / "data" / f"{card.game.lower()}-test"
        if self.data is not None and not (folder / "store.json").exists():
            raise DiamondGymError(f"there is no experience in {folder}; diamond-gym collect makes some")
        wanted = 0 if self.data is not None else self.test_steps
        store = experience(folder, card.game, wanted, TEST_SEED)
        if store.about.game != card.game or store.about.frame_shape != card.obs_shape:
            raise DiamondGymError(f"{folder} holds {store.about.game}, but the model dreams {card.game}")
        return RealPlay.draw(store, self.windows, t, self.horizon, self.seed)


def _print(name: str, figures: dict[str, float], precision: str) -> None:
    table = Table(title=f"{name}, {figures['windows']:,.0f} windows, {precision}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in figures.items():
        table.add_row(key, f"{value:g}")
    Console().print(table)
