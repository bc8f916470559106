"""`diamond-gym benchmark`: how many frames a second a world model dreams on this machine."""

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from diamond_gym import __version__
from diamond_gym.cli.options import check_files, check_least, check_positive
from diamond_gym.errors import BadArgument
from diamond_gym.files import atomic_write

if TYPE_CHECKING:
    import torch

    from diamond_gym.world_model import WorldModel

PAPER = "paper"


@dataclass(frozen=True)
class Benchmark:
    """Measures dreamed frames per second by batch size, precision, and eager or compiled networks.

    A frame is a whole step of a dream: sampler, reward and end. Each figure is the median of repeated steps. On a CPU
    each figure is followed by the method chosen for that batch: the form of the network, how many rows are computed at
    once, and the timings that decided it, which are measured once for each machine and kept. The last lines say which
    precision auto chooses for each batch, and why.
    """

    model: tyro.conf.Positional[str] = "breakout-nano"
    """A model's name or folder, a game's name, or paper: the paper's sizes with random weights."""
    batches: tuple[int, ...] = ()
    """Batch sizes, in dreams side by side (default: 1 8 32, on a GPU 1 8 32 128 512)."""
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Arithmetic of the networks."""
    quality: Literal["fast", "paper", "fine"] = "paper"
    """How carefully frames are sampled: one, three or more denoising steps."""
    eager: bool = False
    """Leave out compiled networks, which may take a minute or two to compile the first time."""
    seconds: float = 2.0
    """How long to measure each figure."""
    threads: int | None = None
    """Threads on a CPU (default: as many as torch uses, or fewer on an overloaded machine)."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        check_least(self, batches=1, threads=1)
        check_positive(self, "seconds")
        check_files(self, out=())
        if not self.precisions:
            raise BadArgument("--precisions must name float32, bfloat16 or both")

    def run(self) -> int:
        """Measures, prints each figure as it comes, and writes them."""
        import torch

        from diamond_gym.device import pick_device

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = pick_device(self.device)
        about = machine(device)
        print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
        print(f"{'batch':>6}  {'precision':<9}  {'networks':<8}  {'frames/s':>10}  {'ms a step':>10}  chosen")
        batches = self.batches or ((1, 8, 32) if device.type == "cpu" else (1, 8, 32, 128, 512))
        ways = ("eager",) if self.eager else ("eager", "compiled")
        rows = []
        for precision in self.precisions:
            for networks in ways:
                model = self._loaded(device, precision, networks)
                for batch in batches:
                    seconds, chosen = step_seconds(model, batch, self.quality, self.seconds)
                    row: dict[str, Any] = {"batch": batch, "precision": precision, "networks": networks}
                    row |= {"frames/s": batch / seconds, "ms a step": 1000 * seconds}
                    line = "{:>6,}  {:<9}  {:<8}  {:>10,.1f}  {:>10,.1f}".format(*row.values())
                    print("  ".join((line, *chosen)), flush=True)
                    rows.append(row | {"chosen": chosen})
        auto = []
        for networks in ways:
            model = self._loaded(device, "auto", networks)
            for batch in batches:
                auto.append({"batch": batch, "networks": networks, "chosen": model.settle_precision(batch)})
                print("{:>6,}  {:<9}  {:<8}  {}".format(batch, "auto", networks, auto[-1]["chosen"]), flush=True)
        if self.out is not None:
            with atomic_write(self.out, "w") as file:
                json.dump(
                    {"about": about, "model": self.model, "quality": self.quality, "rows": rows, "auto": auto},
                    file,
                    indent=1,
                )
            print(f"wrote {self.out}")
        return 0

    def _loaded(self, device: "torch.device", precision: str, networks: str) -> "WorldModel":
        """The model in a precision, its networks eager or compiled."""
        model = load(self.model, device, precision)
        if model.upsampler is not None:
            raise BadArgument(f"{self.model} has two stages, which `diamond-gym dream` measures")
        if networks == "compiled":
            model.compile_networks()
        return model


def machine(device: "torch.device") -> dict[str, Any]:
    """The machine and the versions, as plain data."""
    import torch

    from diamond_gym.device import processor_name

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    versions = {"torch": torch.__version__, "diamond-gym": __version__}
    return {"machine": name, "threads": torch.get_num_threads(), "python": platform.python_version(), **versions}


def load(name: str, device: "torch.device", precision: str) -> "WorldModel":
    """A registered model on its device, or the paper's sizes with random weights."""
    if name == PAPER:
        return paper_model().to_device(device, precision)
    from diamond_gym.registry import load_world_model

    return load_world_model(name, str(device), "float32").to_device(device, precision)


def paper_model(num_actions: int = 4) -> "WorldModel":
    """A world model of the paper's sizes for Atari, with random weights and starts of noise."""
    import numpy as np
    import torch

    from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
    from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
    from diamond_gym.starts import Starts
    from diamond_gym.world_model import WorldModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = Denoiser(DenoiserConfig(InnerModelConfig(num_actions=num_actions)))
        reward_end = RewardEnd(RewardEndConfig(num_actions=num_actions))
        for parameter in (*denoiser.parameters(), *reward_end.parameters()):
            if parameter.ndim > 1 and not parameter.any():  # layers that begin at zero would be no work
                torch.nn.init.normal_(parameter, std=0.02)
    rng, t = np.random.default_rng(0), denoiser.num_steps_conditioning
    obs = rng.integers(0, 256, (8, t, 64, 64, 3), dtype=np.uint8)
    starts = Starts(obs, rng.integers(0, num_actions, (8, t - 1)), np.ones(8, np.bool_))
    return WorldModel(denoiser.eval(), reward_end.eval(), starts=starts).requires_grad_(False)


def step_seconds(model: "WorldModel", batch: int, quality: str, seconds: float) -> tuple[float, list[str]]:
    """The median time of a step of a batch of dreams, measured for about `seconds`, and how its frames are computed."""
    import numpy as np
    import torch
    from torch.utils.benchmark import Timer

    from diamond_gym.sampler import QUALITIES

    dream = model.dream(batch, sampler=QUALITIES[quality], horizon=None)
    dream.reset(seed=0)
    codec = model.codec
    act = torch.from_numpy(codec.encode(np.stack([codec.rest] * batch))).to(model.device)
    dream.step(act)  # what is compiled or measured at first does not count
    timer = Timer("dream.step(act)", globals={"dream": dream, "act": act}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=seconds).median), dream.ways
