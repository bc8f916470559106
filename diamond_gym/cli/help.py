"""The text of `diamond-gym COMMAND --help`: a command's own options, in groups, a sentence each, in 80 columns."""

import ast
import inspect
import re
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

_WIDTH, _COLUMN = 80, 26
_OTHERS = "options"
_GROUPS = {
    "game, model and players": (
        "game", "env", "render_obs", "size", "low_size", "model", "agent", "algo", "objective", "preset", "init",
        "name", "policy", "policies", "played_by", "starts", "random", "deterministic", "real",
        "frame_stack", "epsilon", "temperature",
    ),
    "how much": (
        "steps", "minutes", "seconds", "collect_steps", "test_steps", "episodes", "windows", "num_envs", "n_envs",
        "batches", "precisions", "max_episode_steps", "horizon", "max_sessions", "quality", "num_denoising_steps",
        "noop_max", "repeat", "score_minutes", "quick", "seed", "dry_run",
    ),
    _OTHERS: (),
    "files": (
        "data", "run_folder", "out", "record", "replay", "register", "videos_every", "picture", "page", "video", "save",
        "as_json", "runs", "published", "plot", "fps", "scale", "wandb",
    ),
    "machine": ("device", "precision", "compile", "threads", "eager", "host", "port"),
}  # fmt: skip


def short_help(kind: type, name: str) -> str:
    """The help of a command: its own options; those of the settings nested in it are left to `--help-all`."""
    docs, hints = _docs(kind), get_type_hints(kind, include_extras=True)
    groups: dict[str, list[str]] = {title: [] for title in _GROUPS}
    usage, nested = [f"usage: diamond-gym {name}"], False
    has_words = any("Positional" in str(hint) for hint in hints.values())
    for field in fields(kind):
        option, hint = option_name(field.name, hints[field.name]), hints[field.name]
        if is_dataclass(_bare(hint)):
            nested = True
            continue
        positional = "Positional" in str(hint)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        first = docs.get(field.name, "")
        sentence = re.split(r"(?<=[.!?])\s", first)[0]
        if isinstance(default, int | float | str) and default not in ("", False) and "default" not in sentence:
            sentence += f" (default: {default})"
        if positional:
            usage.append(option.upper() if default is MISSING else f"[{option.upper()}]")
        elif field.name == "game" and not has_words:
            usage.append("[GAME]")
        title = next((title for title, names in _GROUPS.items() if field.name in names), _OTHERS)
        groups[title] += _entry(option.upper() if positional else f"--{option} {_value(hint)}".rstrip(), sentence)
    paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    about = "\n\n".join(textwrap.fill(" ".join(paragraph.split()), _WIDTH) for paragraph in paragraphs)
    lines = [" ".join([*usage, "[OPTIONS]"]), "", about]
    for title, entries in groups.items():
        lines += ["", f"{title}:", *entries] if entries else []
    more = "--help-all lists every option" + (", including those of networks, losses and sampler" if nested else "")
    preset = "; --preset FILE.toml sets any of them" if "preset" in hints else ""
    return "\n".join([*lines, "", textwrap.fill(f"{more}{preset}.", _WIDTH)])


def option_name(name: str, hint: Any) -> str:
    """How a field is called on the command line."""
    renamed = [arg.name for arg in get_args(hint)[1:] if getattr(arg, "name", None)]
    return renamed[0] if renamed else name.replace("_", "-")


def _docs(kind: type) -> dict[str, str]:
    """The docstrings of a dataclass's attributes, each on one line; those that it inherits, too."""
    inherited = [_docs(base) for base in kind.__bases__ if is_dataclass(base)]
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return {name: doc for docs in inherited for name, doc in docs.items()} | {
        field.target.id: " ".join(doc.value.value.split())
        for field, doc in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str)
    }


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _value(hint: Any) -> str:
    """The value that follows an option, in the help; nothing for a switch."""
    for named in get_args(hint)[1:]:
        if metavar := getattr(named, "metavar", None):
            return str(metavar)
    hint = _bare(hint)
    parts = [part for part in get_args(hint) if part not in (NoneType, ...)]
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if get_origin(hint) in (tuple, list):
        return f"{_value(parts[0])} ..."
    if parts:
        return _value(parts[0])
    return {bool: "", Path: "PATH", int: "INT", float: "FLOAT"}.get(hint, "NAME")


def _entry(option: str, sentence: str) -> list[str]:
    text = textwrap.wrap(sentence, _WIDTH - _COLUMN)
    if len(option) > _COLUMN - 4 or not text:
        return [f"  {option}", *(" " * _COLUMN + line for line in text)]
    return [f"  {option:<{_COLUMN - 2}}{text[0]}", *(" " * _COLUMN + line for line in text[1:])]
