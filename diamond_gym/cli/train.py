"""`diamond-gym train`: DIAMOND's whole loop, from nothing to an agent, on an Atari game or an environment of yours."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diamond_gym.cli.progress import console
from diamond_gym.device import keep_memory, pick_device, pick_precision
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import InnerModelConfig
from diamond_gym.registry import game, home_folder
from diamond_gym.registry.models import local_folder
from diamond_gym.trainers.collect_games import game_name
from diamond_gym.trainers.diamond import DiamondConfig
from diamond_gym.trainers.grounds import AtariGround, Ground, GymGround, side_of
from diamond_gym.trainers.loop import launch
from diamond_gym.trainers.presets import loop_flags, settled_preset
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.world_model import FitConfig

if TYPE_CHECKING:
    import torch

# what a resumed run may be told differently
_FREE = frozenset({"minutes", "device", "precision", "compile", "videos_every", "wandb", "name"})
_NOT_SETTLED = ("run_folder", "dry_run", "loop")
FREEWAY_TEMPERATURE = 0.01
_INNER = {f.name.replace("_", "-") for f in fields(InnerModelConfig)}
_FIT = {f.name.replace("_", "-") for f in fields(FitConfig)}


@dataclass(frozen=True)
class Train:
    """Plays, fits a world model, trains an agent in its dreams, and so on: DIAMOND's whole loop.

    At the end the agent is scored in whole games, and registered together with the world model. Repeating the
    command goes on where it stopped; what is lost is the epoch in hand.
    """

    game: str | None = None
    """One of the 26 Atari 100k games (diamond-gym list --games)."""
    env: str | None = None
    """Or a registered Gymnasium environment of images and discrete actions; module:Id imports the module first."""
    render_obs: bool = False
    """Learn from the environment's rendered picture instead of its observations, as CartPole-v1 needs it."""
    size: int | None = None
    """Side of an environment's frames (default: their own if they are square and at most 64, else 64)."""
    preset: str = "auto"
    """A set of the flags below: paper, nano, smoke (minutes, learns nothing), or auto (paper on CUDA, else nano)."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """The run's folder (default: <home>/runs/<game>-diamond-<preset>)."""
    name: str | None = None
    """The registered model's name (default: <game>-diamond-<preset>; a smoke run is registered only with a name)."""
    minutes: float | None = None
    """Stop after the epoch in which so many minutes are up, to go on another time."""
    seed: int = 0
    """Seeds everything."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: str = "auto"
    """auto (measured), float32 or bfloat16, of the world model."""
    compile: bool = False
    """Compile the world model, which takes a minute or two at the start."""
    videos_every: int = 10
    """Epochs between videos of dreams and of real play, in the run's folder; 0 for none."""
    wandb: bool = False
    """Log to Weights & Biases, too."""
    dry_run: bool = False
    """Only say what the whole run would take, measured on this machine in about a minute."""
    loop: Annotated[DiamondConfig, tyro.conf.arg(name="")] = field(default_factory=DiamondConfig)

    def __post_init__(self) -> None:
        if (self.game is None) == (self.env is None):
            raise BadArgument("say what to learn: --game Breakout, or --env CartPole-v1 --render-obs")
        if self.game is not None:
            game(self.game)
            if self.render_obs or self.size is not None:
                raise BadArgument("--render-obs and --size are for --env; the games are seen as in the paper")
        if self.size is not None and self.size < 8:
            raise BadArgument(f"--size must be at least 8, not {self.size}")
        if self.minutes is not None and not self.minutes > 0:
            raise BadArgument(f"--minutes must be more than 0, not {self.minutes}")
        if self.seed < 0 or self.videos_every < 0:
            raise BadArgument("--seed and --videos-every must not be negative")

    @classmethod
    def arguments(cls, words: Sequence[str]) -> list[str]:
        """Puts the preset's flags before the user's; `--denoiser.channels` means the inner model's, as in train-wm."""
        words = [alias(word) for word in words]
        if "-h" in words or "--help" in words:
            return words
        preset = settled_preset(words)
        return [*loop_flags(preset), *_for_game(words), *words, "--preset", preset]

    def run(self) -> int:
        """Trains, scores and registers; returns 0, or 130 where Ctrl-C stopped it."""
        from diamond_gym.cli.train_loop import Loop

        ground = self._ground()
        if self.dry_run:
            device = pick_device(self.device)
            return self._plan(ground, device, pick_precision(self.precision, device))
        processes = launch(self.device)
        device = processes.device or pick_device(self.device)
        precision = pick_precision(self.precision, device)
        if processes.any(precision == "bfloat16"):  # what is measured may differ between them
            precision = "bfloat16"
        console.quiet = not processes.main
        if self.name is not None or self.preset != "smoke":
            local_folder(self.name or self.label)  # a name that cannot be had is better told now than after hours
        folder = self.run_folder or home_folder() / "runs" / self.label
        keep_memory()
        with RunFolder(folder, main=processes.main) as run:
            run.settle(self._settings(), _FREE, {"loop": asdict(DiamondConfig())})
            return Loop(self, run, ground, device, precision, processes).run()

    @property
    def label(self) -> str:
        """What the run and its model are called unless the user says otherwise."""
        return f"{(self.game or game_name(self.env or '')).lower()}-diamond-{self.preset}"

    def _ground(self) -> Ground:
        if self.game is not None:
            return AtariGround(self.game)
        assert self.env is not None
        side = self.size or side_of(self.env, self.render_obs)
        return GymGround(self.env, (side, side), self.render_obs)

    def _settings(self) -> dict[str, Any]:
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_SETTLED}
        return settings | {"loop": asdict(self.loop)}

    def _plan(self, ground: Ground, device: "torch.device", precision: str) -> int:
        from diamond_gym.cli.dry_run import print_plan
        from diamond_gym.trainers.plan import plan

        games = ground.games(self.loop.num_envs)
        print_plan(plan(self.loop, ground.about(), games, device, precision), f"{device} in {precision}")
        return 0


def _for_game(words: Sequence[str]) -> list[str]:
    """Flags that a game needs whatever the preset.

    In Freeway a reward comes only after many steps up, which a policy that has learnt nothing yet, sampled as it is,
    never takes in a row: the authors lower the temperature while collecting.
    """
    freeway = "--game=Freeway" in words or ("--game", "Freeway") in pairwise(words)
    return ["--temperature", str(FREEWAY_TEMPERATURE)] if freeway else []


def alias(word: str) -> str:
    """`--denoiser.channels` -> `--fit.denoiser.inner-model.channels`: what train-wm calls so, is called so here."""
    if not word.startswith("--"):
        return word
    path, equals, value = word.removeprefix("--").partition("=")
    names = path.replace("_", "-").split(".")
    if names[0] == "denoiser" and len(names) == 2 and names[1] in _INNER:
        names.insert(1, "inner-model")
    if len(names) > 1 and names[0] in _FIT:
        names.insert(0, "fit")
    return f"--{'.'.join(names)}{equals}{value}"
