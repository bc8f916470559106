"""Sizes of the code: `python -m benchmarks.house`. One line a figure, to be run before and after a change."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDERS = ("diamond_gym", "trainers", "registry")
COMMANDS = ("dream", "collect", "train-wm", "train-agent", "train", "evaluate", "evaluate-wm")


def modules() -> dict[str, int]:
    """The lines of every module of the package, by its path; links lead to some of them twice and count once."""
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    own = {path.resolve() for path in paths if "__pycache__" not in path.parts}
    return {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(own)}


def step_calls() -> Counter[str]:
    """Python calls of one step of a bundled dream, by the file of the function called."""
    import gymnasium as gym

    import diamond_gym  # noqa: F401

    env = gym.make("DiamondDream-Breakout-v0", device="cpu", precision="float32").unwrapped
    env.reset(seed=0)
    env.step(0)  # what is computed once has been computed
    calls: Counter[str] = Counter()
    own = {str(ROOT / path) for path in modules()}

    def count(frame: FrameType, event: str, arg: Any) -> None:
        path = str(Path(frame.f_code.co_filename).resolve()) if event == "call" else ""
        if path in own:
            calls[path] += 1

    sys.setprofile(count)
    env.step(1)
    sys.setprofile(None)
    env.close()
    return calls


def loaded(code: str) -> int:
    """How many of the package's modules a program has imported by its end."""
    shown = f"{code}\nimport sys; print(len([name for name in sys.modules if name.split('.')[0] == 'diamond_gym']))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout.split()[-1])


def options(command: str) -> int:
    """How many options the help of a command shows."""
    arguments = [sys.executable, "-m", "diamond_gym", command, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT)
    return len(set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE)))


def main() -> None:
    """Prints all figures."""
    lines = modules()
    longest = max(lines, key=lambda path: lines[path])
    print(f"modules\t{len(lines)}\nlines\t{sum(lines.values())}\nmedian\t{median(lines.values()):.0f}")
    print(f"longest\t{lines[longest]} ({longest}); above 300: {sum(n > 300 for n in lines.values())}")
    calls = step_calls()
    print(f"env.step, calls\t{calls.total()}\nenv.step, files\t{len(calls)}")
    print(f"import diamond_gym, modules\t{loaded('import diamond_gym')}")
    make = "import gymnasium, diamond_gym; gymnasium.make('DiamondDream-Breakout-v0', device='cpu')"
    print(f"gym.make, modules\t{loaded(make)}")
    print(f"train-wm, modules\t{loaded('import diamond_gym.cli.train_wm, diamond_gym.trainers.world_model')}")
    for command in COMMANDS:
        print(f"{command} --help, options\t{options(command)}")
    print(f"README, words\t{len((ROOT / 'README.md').read_text(encoding='utf-8').split())}")


if __name__ == "__main__":
    main()
