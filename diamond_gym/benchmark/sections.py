"""All that can be measured, in the order of the table."""

import subprocess
import sys
from collections.abc import Callable, Iterable

from diamond_gym.benchmark.dreams import environment, error, frames
from diamond_gym.benchmark.fitting import fitting, imagining, replaying
from diamond_gym.benchmark.run import Row, Settings
from diamond_gym.benchmark.subjects import GAME, NANO

_IMPORTS = "import time; a = time.{clock}(); import gymnasium; b = time.{clock}(); import diamond_gym; "
_IMPORTS += "print(time.{clock}() - b)"
_FIRST = "import time; a = time.{clock}(); import gymnasium, diamond_gym; "
_FIRST += f"env = gymnasium.make('diamond_gym:DiamondDream-{GAME}-v0', model='{NANO}', device='{{device}}'); "
_FIRST += "env.reset(seed=0); env.step(0); print(time.{clock}() - a)"


def ceilings(settings: Settings) -> Iterable[Row]:
    """What the machine can do at best."""
    for name, value in settings.convolution.items():
        yield Row("machine", "", f"convolution ceiling, {name}", value, "GFLOP/s")
    yield Row("machine", "", "copy ceiling", settings.copying, "GB/s")


def waiting(settings: Settings) -> Iterable[Row]:
    """How long a user waits at first, in processes of their own: importing, and the first step of a bundled model."""
    clock = "process_time" if settings.processor else "perf_counter"
    imports, first = _IMPORTS.format(clock=clock), _FIRST.format(clock=clock, device=settings.device)
    for what, code, runs in (
        ("import diamond_gym, beyond gymnasium", imports, 5),
        ("gym.make and a first step, with all imports", first, 3),
    ):
        taken = sorted(_seconds(code) for _ in range(runs))
        yield Row("waiting", "", what, taken[runs // 2], "s")


def _seconds(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


# Dreams come before what makes the heap grow: afterwards the plain baseline would not wait for pages any more, as it
# does in a process of its own.
SECTIONS: dict[str, Callable[[Settings], Iterable[Row]]] = {
    "machine": ceilings,
    "waiting": waiting,
    "replay": replaying,
    "dream": frames,
    "environment": environment,
    "imagine": imagining,
    "error": error,
    "fit": fitting,
}
