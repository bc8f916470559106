"""The command line: `diamond-gym COMMAND`; a command's module is loaded only when it is called.

A command is a frozen dataclass whose attributes' docstrings are its help, with a method `run() -> int` that
returns the exit code. If it has presets, a classmethod `defaults(words) -> (name, flags)` says which one is wanted,
and the options that it sets, which are then the defaults of the user's.
"""

import codecs
import contextlib
import errno
import importlib
import importlib.util
import io
import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.files import is_disk_full
from diamond_gym.registry.games import did_you_mean, games
from diamond_gym.registry.models import home_folder


class Command(Protocol):
    """What every command's class has."""

    def run(self) -> int:
        """Does it, and returns the exit code."""
        ...


# name: (module and class, what the overview says). A command whose module is not there is not offered.
_COMMANDS = {
    "list": ("diamond_gym.cli.models:ListModels", "the world models at hand, and the games"),
    "info": ("diamond_gym.cli.models:Info", "all that is known of one model"),
    "collect": ("diamond_gym.cli.collect:Collect", "real experience, played and stored"),
    "data import": ("diamond_gym.cli.data:Import", "a store from recordings of other formats"),
    "data info": ("diamond_gym.cli.data:Info", "what a store holds"),
    "data preview": ("diamond_gym.cli.data:Preview", "a sheet and an animation of a store, with the actions"),
    "data merge": ("diamond_gym.cli.data:Merge", "several stores in one"),
    "data split": ("diamond_gym.cli.data:Split", "a store in two, for training and for testing"),
    "data export": ("diamond_gym.cli.data:Export", "a store as a data set of Minari"),
    "data convert": ("diamond_gym.cli.data:Convert", "folders of experience of earlier versions, converted"),
    "train-wm": ("diamond_gym.cli.train_wm:TrainWm", "a world model, from a game's name alone"),
    "dream": ("diamond_gym.cli.dream:DreamCommand", "a video of dreams, and how fast they were dreamed"),
    "evaluate-wm": ("diamond_gym.cli.evaluate_wm:EvaluateWm", "how well a model dreams what really happened"),
    "train": ("diamond_gym.cli.train:Train", "a world model and an agent together: DIAMOND's whole loop"),
    "train-agent": ("diamond_gym.cli.train_agent:TrainAgent", "an agent that learns in dreams"),
    "evaluate": ("diamond_gym.cli.evaluate:Evaluate", "what an agent scores in the real game, or many come to"),
    "import-diamond": ("diamond_gym.cli.hub:ImportDiamond", "a checkpoint in the authors' format"),
    "benchmark": ("diamond_gym.cli.benchmark:Benchmark", "how fast all that is, on this machine"),
    "pull": ("diamond_gym.cli.hub:Pull", "a model from the Hugging Face hub"),
    "push": ("diamond_gym.cli.hub:Push", "a model to the Hugging Face hub"),
    "export": ("diamond_gym.cli.models:Export", "a model's files, in a folder of yours"),
    "verify": ("diamond_gym.cli.models:Verify", "whether models are what their cards say"),
    "remove": ("diamond_gym.cli.models:Remove", "a model of yours, gone"),
}

# Those that have networks compute.
_COMPUTING = frozenset(
    ("collect", "train-wm", "dream", "evaluate-wm", "train", "train-agent", "evaluate", "import-diamond", "benchmark")
)
_PLAIN = {
    "×": "x",
    "λ": "lambda",
    "σ": "sigma",
    "τ": "tau",
    "─": "-",
    "│": "|",
    "…": "...",
    **dict.fromkeys("╭╮╰╯", "+"),
}

# What to install for a module that only an extra brings.
_EXTRAS = {
    **dict.fromkeys(("ale_py", "cv2"), "atari"),
    **dict.fromkeys(("av", "h5py", "minari", "pyarrow"), "data"),
    **dict.fromkeys(("lightning", "lightning_fabric"), "distributed"),
    **dict.fromkeys(("scipy", "skimage"), "eval"),
    "huggingface_hub": "hub",
    "matplotlib": "plot",
    "stable_baselines3": "sb3",
    "tensorboard": "train",
    "wandb": "wandb",
}


def commands() -> dict[str, str]:
    """The commands that can be called, by name, with the target `module:Class` of each."""
    targets = {name: target for name, (target, _) in _COMMANDS.items()}
    return {name: target for name, target in targets.items() if importlib.util.find_spec(target.split(":")[0])}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words after `diamond-gym`; those of the process if None.

    Returns:
        The exit code: 0 well, 1 it could not be done, 2 it was asked for wrongly, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _print_anything()
    try:
        code = _guarded(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # `diamond-gym list | head` ends quietly. Python flushes once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return code


def _print_anything() -> None:
    """Lets every character be printed: what a terminal's encoding does not have comes in letters that it has."""

    def in_plain_letters(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        lacking = error.object[error.start : error.end]
        return "".join(_PLAIN.get(c) or _without_accents(c) or "?" for c in lacking), error.end

    codecs.register_error("diamond_gym.plain", in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="diamond_gym.plain")


def _without_accents(character: str) -> str:
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()


def _guarded(words: list[str]) -> int:
    """Runs a command; what the user can put right is one line, our own mistakes keep a traceback."""
    try:
        return _main(words)
    except BadArgument as error:
        return _fail(error, 2)
    except DiamondGymError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(f"this needs {error.name}; install it with: pip install 'diamond-gym[{extra}]'", 1)
    except OSError as error:
        return _fail(_os_error(error), 1)
    except Exception as error:
        line = _library_error(error)
        if line is None:
            raise
        return _fail(line, 1)


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        from diamond_gym import __version__

        print(f"diamond-gym {__version__}")
        return 0
    name, *rest = words
    targets = commands()
    if rest and f"{name} {rest[0]}" in targets:  # such as `data import`
        name, rest = f"{name} {rest[0]}", rest[1:]
    if parts := [target.split()[1] for target in targets if target.startswith(f"{name} ")]:
        raise BadArgument(f"{name} is followed by one of {', '.join(parts)} (--help after it lists the options)")
    if name not in targets:
        what = "option" if name.startswith("-") else "command"
        raise BadArgument(
            f"unknown {what} '{name}'{did_you_mean(name, targets)} (diamond-gym --help lists the commands)"
        )
    module, _, class_name = targets[name].partition(":")
    kind = getattr(importlib.import_module(module), class_name)
    command = _parse(kind, name, rest)
    chosen = getattr(command, "threads", None) or getattr(command, "processor", False)  # the user has said how many
    if name not in _COMPUTING or chosen or isinstance(command, _Done):
        return command.run()
    from diamond_gym.device import free_cores_only

    with free_cores_only():
        return command.run()


def _parse(kind: type[Command], name: str, words: list[str]) -> Command:
    """Reads a command's options; tyro itself says what is wrong with one.

    Raises:
        BadArgument: The command refuses what it was given.
    """
    if "-h" in words or "--help" in words:
        from diamond_gym.cli.help import short_help

        print(short_help(kind, name))
        return _Done(0)
    import tyro

    from diamond_gym.cli.numbers import check_largest, strict_numbers

    presets = getattr(kind, "defaults", None)
    preset, flags = presets(words) if presets is not None and "--help-all" not in words else ("", [])
    words = ["--help"] if "--help-all" in words else _with_game(kind, words)
    # A switch that a preset turns on can be turned off again; elsewhere there is `--json` without `--no-json`.
    config = () if presets is not None else (tyro.conf.FlagCreatePairsOff,)
    message = io.StringIO()
    default: Any = None
    command: Any
    try:
        with contextlib.redirect_stderr(message), strict_numbers():
            if flags:
                default = tyro.cli(kind, prog=f"diamond-gym {name}: preset {preset}", args=flags)
            command = tyro.cli(kind, prog=f"diamond-gym {name}", args=words, default=default, config=config)
        if preset:
            command = replace(command, preset=preset)
        check_largest(command)
        if hasattr(command, "check"):
            command.check()
        checked: Command = command
        return checked
    except SystemExit as stop:
        cause = stop.__context__
        while cause is not None and not isinstance(cause, DiamondGymError):
            cause = cause.__context__
        if cause is not None:  # of a nested dataclass's own checks, which tyro puts in a box
            raise BadArgument(str(cause)) from None
        sys.stderr.write(message.getvalue())
        return _Done(int(stop.code or 0))
    except DiamondGymError as error:  # from the command's own checks
        raise BadArgument(str(error)) from None


def _with_game(kind: type[Command], words: list[str]) -> list[str]:
    """`dream Breakout` means `dream --game Breakout`, and a word that is no game's name means a model."""
    options = getattr(kind, "__dataclass_fields__", {})
    has_words = any("Positional" in str(option.type) for option in options.values())  # of its own, such as a file
    if not words or words[0].startswith("-") or "game" not in options or has_words:
        return words
    return ["--game" if words[0] in games() or "model" not in options else "--model", *words]


@dataclass(frozen=True)
class _Done:
    """Nothing is left to do: help was printed, or what is wrong with the options."""

    code: int

    def run(self) -> int:
        return self.code


def _overview() -> str:
    lines = ["usage: diamond-gym COMMAND [OPTIONS]", "", "Dreams as Gymnasium environments.", ""]
    lines += [f"  {name:<14} {_COMMANDS[name][1]}" for name in commands()]
    lines += ["", "diamond-gym COMMAND --help lists a command's options."]
    return "\n".join(lines)


def _fail(error: object, code: int) -> int:
    """Prints one line to the standard error, red on a terminal, and returns the exit code."""
    line = " ".join(str(error).split())
    red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\033[31m{line}\033[0m" if red else line, file=sys.stderr)
    return code


def _os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if is_disk_full(error, Path(error.filename or ".").parent):
        return f"the disk is full: could not write{where}; free some space and try again"
    return f"{error.strerror or error}:{where}{_other_home(error)}" if where else str(error.strerror or error)


def _other_home(error: OSError) -> str:
    """What helps where the user's own folder cannot be written, as in containers whose home is `/`."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or "DIAMOND_GYM_HOME" in os.environ:
        return ""
    path, home = Path(os.fsdecode(error.filename)), home_folder()
    return "; DIAMOND_GYM_HOME names another folder" if path in (home, *home.parents) or home in path.parents else ""


def _library_error(error: Exception) -> str | None:
    """One line for what a library says about what the user asked for or has; None for what it says about us."""
    import gymnasium

    if isinstance(error, gymnasium.error.Error):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return "not enough memory on the device; try fewer environments or a smaller batch"
    return None
