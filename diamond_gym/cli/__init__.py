"""The command line: `diamond-gym COMMAND`; a command's module is loaded only when it is called.

A command is a frozen dataclass whose attributes' docstrings are its help, with a method `run() -> int` that
returns the exit code. If it has presets, a classmethod `defaults(words) -> (name, flags)` says which one is wanted
and which options it sets; these are then the defaults for options that the user leaves out.
"""

import codecs
import errno
import importlib
import io
import os
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.files import is_disk_full
from diamond_gym.registry.games import did_you_mean, games
from diamond_gym.registry.models import home_folder

# name: (module in this package and class, what the overview says)
_COMMANDS = {
    "list": ("models:ListModels", "list the world models here, and the games"),
    "info": ("models:Info", "show what is known of one model"),
    "collect": ("collect:Collect", "play the real game and store what happens"),
    "data import": ("data:Import", "make a store from recordings in other formats"),
    "data info": ("data:Info", "show what a store holds"),
    "data check": ("data:Check", "look for faults in a recording before training on it"),
    "data preview": ("data:Preview", "draw a sheet and an animation of a store, with the actions"),
    "data merge": ("data:Merge", "join several stores into one"),
    "data split": ("data:Split", "divide a store into one for training and one for testing"),
    "data export": ("data:Export", "write a store as a Minari data set"),
    "data convert": ("data:Convert", "convert folders of experience from earlier versions"),
    "train-wm": ("train_wm:TrainWm", "train a world model, from a game's name alone"),
    "distill": ("distill:Distill", "train a student that dreams in one step what its model dreams in several"),
    "play": ("play:Play", "play a dream in the browser or the terminal"),
    "dream": ("dream:DreamCommand", "write a video of dreams, and time them"),
    "evaluate-wm": ("evaluate_wm:EvaluateWm", "measure how well a model predicts real play"),
    "train": ("train:Train", "train a world model and an agent in turns: DIAMOND's whole loop"),
    "train-agent": ("train_agent:TrainAgent", "train an agent in dreams"),
    "evaluate": ("evaluate:Evaluate", "score an agent in the real game, or sum up many runs"),
    "study": ("study:StudyCommand", "train with EDM, DDPM and flow alike, and compare the dreams"),
    "import-diamond": ("hub:ImportDiamond", "register a checkpoint in the authors' format"),
    "benchmark": ("benchmark:Benchmark", "time dreams on this machine"),
    "pull": ("hub:Pull", "fetch a model from the Hugging Face hub"),
    "push": ("hub:Push", "publish a model on the Hugging Face hub"),
    "export": ("models:Export", "copy a model's files into a folder"),
    "verify": ("models:Verify", "compare models' files with their cards"),
    "remove": ("models:Remove", "delete a model of your own"),
}
# Those without networks that compute.
_LIGHT = ("list", "info", "data", "pull", "push", "export", "verify", "remove")

# What to install for a module that only an extra brings.
_EXTRAS = {
    **dict.fromkeys(("ale_py", "cv2"), "atari"),
    **dict.fromkeys(("av", "h5py", "minari", "pyarrow"), "data"),
    **dict.fromkeys(("lightning", "lightning_fabric"), "distributed"),
    **dict.fromkeys(("scipy", "skimage"), "eval"),
    "huggingface_hub": "hub",
    "matplotlib": "plot",
    "stable_baselines3": "sb3",
    "starlette": "play",
    "tensorboard": "train",
    "uvicorn": "play",
    "wandb": "wandb",
    "websockets": "play",
}

# What stands for a character that a terminal's encoding lacks.
_PLAIN = {**dict(zip("×στ─│╭╮╰╯", "xst-|++++", strict=True)), "λ": "lambda", "…": "..."}


def commands() -> dict[str, str]:
    """The commands by name, with the target `module:Class` of each."""
    return {name: f"diamond_gym.cli.{target}" for name, (target, _) in _COMMANDS.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words after `diamond-gym`; those of the process if None.

    Returns:
        The exit code: 0 for success, 1 for failure, 2 for wrong usage, 130 for an interruption.
    """
    codecs.register_error("diamond_gym.plain", _in_plain_letters)
    # No command opens a window: environments that draw by SDL (pygame) do it in memory, and without words of theirs.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="diamond_gym.plain")
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except SystemExit as stop:  # the parser's, which has printed the help or what is wrong
        return int(stop.code or 0)
    except BrokenPipeError:
        # `diamond-gym list | head` ends quietly. Python flushes once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        line, code = _line(error)
        red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        print(f"\033[31m{line}\033[0m" if red else line, file=sys.stderr)
    return code


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Puts letters that an encoding has in place of characters that it lacks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    bare = (unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() for c in lacking)
    return "".join(_PLAIN.get(c) or letter or "?" for c, letter in zip(lacking, bare, strict=True)), error.end


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
    command = _parse(getattr(importlib.import_module(module), class_name), name, rest)
    if name.partition(" ")[0] in _LIGHT or getattr(command, "threads", None):  # of these the user has said how many
        cores: Any = nullcontext()
    else:
        from diamond_gym.device import free_cores_only

        cores = free_cores_only()
    with cores:
        return int(command.run())


def _parse(kind: type[Any], name: str, words: list[str]) -> Any:
    """Reads a command's options; tyro itself says what is wrong with one, and exits.

    Raises:
        BadArgument: The command refuses what it was given.
    """
    if "-h" in words or "--help" in words:
        from diamond_gym.cli.help import short_help

        print(short_help(kind, name))
        raise SystemExit(0)
    import tyro

    from diamond_gym.cli.options import check_largest, strict_numbers

    presets, help_all = getattr(kind, "defaults", None), "--help-all" in words
    preset, flags = presets(words) if presets is not None and not help_all else ("", [])
    words = ["--help"] if help_all else _with_game(kind, words)
    # A switch that a preset turns on can be turned off again; elsewhere there is `--json` without `--no-json`.
    config: tuple[Any, ...] = () if presets is not None else (tyro.conf.FlagCreatePairsOff,)
    if not help_all:  # what comments say is for the help alone, and to read them takes half of the parsing's time
        config += (tyro.conf.HelptextFromCommentsOff,)
    try:
        with strict_numbers():
            below: Any = None
            if flags:
                below = tyro.cli(kind, prog=f"diamond-gym {name}: preset {preset}", args=flags, config=config)
            command: Any = tyro.cli(kind, prog=f"diamond-gym {name}", args=words, default=below, config=config)
        if preset:
            command = replace(command, preset=preset)
        check_largest(command)
        if hasattr(command, "check"):
            command.check()
    except DiamondGymError as error:  # from the command's own checks
        raise BadArgument(str(error)) from None
    return command


def _with_game(kind: type[Any], words: list[str]) -> list[str]:
    """`dream Breakout` means `dream --game Breakout`, and a word that is no game's name means a model."""
    options = kind.__dataclass_fields__
    has_words = any("Positional" in str(option.type) for option in options.values())  # of its own, such as a file
    if not words or words[0].startswith("-") or "game" not in options or has_words:
        return words
    return ["--game" if words[0] in games() or "model" not in options else "--model", *words]


def _overview() -> str:
    lines = ["usage: diamond-gym COMMAND [OPTIONS]", "", "Dreams as Gymnasium environments.", ""]
    lines += [f"  {name:<14} {what}" for name, (_, what) in _COMMANDS.items()]
    return "\n".join([*lines, "", "diamond-gym COMMAND --help lists a command's options."])


def _line(error: BaseException) -> tuple[str, int]:
    """One line for what the user can put right, and the exit code; our own mistakes are raised, with a traceback."""
    import gymnasium

    message = " ".join(str(error).split())
    lacking = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if isinstance(error, DiamondGymError):
        return message, 2 if isinstance(error, BadArgument) else 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if extra := _EXTRAS.get(lacking):
        return f"this needs {lacking}; install it with: pip install 'diamond-gym[{extra}]'", 1
    if isinstance(error, OSError):
        return _os_error(error), 1
    if isinstance(error, gymnasium.error.Error):
        return message, 1
    if type(error).__name__ == "OutOfMemoryError":
        return "not enough memory on the device; try fewer environments or a smaller batch", 1
    raise error


def _os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if is_disk_full(error, Path(error.filename or ".").parent):
        return f"the disk is full: could not write{where}; free some space and try again"
    message = " ".join((error.strerror or str(error)).split())
    if not where:
        return message
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and "DIAMOND_GYM_HOME" not in os.environ:
        # as in containers where the user's home is "/"
        path, home = Path(os.fsdecode(error.filename)), home_folder()
        if path in (home, *home.parents) or home in path.parents:
            where += "; set DIAMOND_GYM_HOME to use another folder"
    return f"{message}:{where}"
