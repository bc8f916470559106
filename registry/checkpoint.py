"""Others' checkpoints and YAML, read as tensors and plain values."""

import math
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import BadConfig, DamagedModel, one_line
from diamond_gym.registry.card_fields import Table
from diamond_gym.schema import check_plain

if TYPE_CHECKING:
    from torch import Tensor

_GLOBAL = re.compile(r"GLOBAL (\S+)|(?:class|function) ([\w.]+)")
_WRAPPERS = ("_orig_mod", "module")
_LARGEST_YAML, _MOST_REFERENCES = 1 << 16, 20  # of the authors' files the longest has 7
_REFERENCE = re.compile(r"\$\{\s*\.*[A-Za-z_]\w*(?:\.\w+)*\s*\}")
_INFINITY = re.compile(r"""\$\{eval:\s*(['"]?)\s*float\(\s*(['"])inf\2\s*\)\s*\1\s*\}""")


def read_checkpoint(path: Path) -> "dict[str, Tensor]":
    """Reads a torch-saved flat state dict; nothing in the file is ever run, and its values are not looked at yet.

    What torch.compile and data parallelism put into the keys is left out of them.

    Raises:
        DamagedModel: It is missing, truncated, asks for more than tensors, or is something else.
    """
    import torch

    try:
        is_zip = zipfile.is_zipfile(path)
        with open(path, "rb") as file:
            if not is_zip and file.read(2) == b"PK":  # a zip's end is what makes it one
                raise DamagedModel(f"{path}: truncated; fetch it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch has to say of a strange file, the errors below say in a line
            # Mapped, so that 1.5 GB need not be held twice while they are converted.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except FileNotFoundError:
        raise DamagedModel(f"{path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        wanted = _GLOBAL.search(str(error))
        why = f"it asks for {wanted[1] or wanted[2]}: code would run" if wanted else one_line(error)
        raise DamagedModel(f"{path}: refused, only tensors are read from a checkpoint ({why})") from None
    except DamagedModel:
        raise
    except Exception as error:  # torch and pickle fail on damaged bytes in every way there is
        raise DamagedModel(f"{path}: not readable as a checkpoint ({one_line(error)})") from None
    if not isinstance(state, dict) or not state:
        raise DamagedModel(f"{path}: a dictionary of tensors is wanted, but it holds a {type(state).__name__}")
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise DamagedModel(
                f"{path}: a flat dictionary of tensors is wanted, but {key!r} is a {type(tensor).__name__}"
            )
        plain = ".".join(word for word in key.split(".") if word not in _WRAPPERS)
        if plain in result:
            raise DamagedModel(f"{path}: key '{one_line(plain)}' is there twice, once with a prefix of torch's")
        result[plain] = tensor
    return result


def read_yaml(path: Path) -> Table:
    """Reads a YAML file of plain values; its references stay as they are written."""
    import yaml

    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise BadConfig("too long for a configuration")
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise BadConfig("a table of keys and values is wanted")
    except FileNotFoundError:
        raise DamagedModel(f"{path}: there is no such file") from None
    except RecursionError:
        raise DamagedModel(f"{path}: nested too deeply") from None
    except BadConfig as error:
        raise DamagedModel(f"{path}: {error}") from None
    except Exception as error:  # PyYAML meets values that are not what their tags say with exceptions of many kinds
        raise DamagedModel(f"{path}: not readable as plain YAML ({one_line(error)})") from None
    return table


def resolve_references(root: Table, where: str) -> Table:
    """Replaces each reference of OmegaConf, such as `${env.train.size}`, by what it refers to; runs nothing.

    Args:
        root: The whole configuration, in which references begin.
        where: What to call it in an error.

    Raises:
        DamagedModel: A reference leads nowhere or in a circle, or would call one of OmegaConf's resolvers.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    references = 0

    def checked(value: Any) -> Any:
        nonlocal references
        if isinstance(value, dict):
            return {key: checked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [checked(item) for item in value]
        if isinstance(value, str):
            if _INFINITY.fullmatch(value):
                return math.inf  # the one call in the authors' files
            if "${" in _REFERENCE.sub("", value):
                raise BadConfig(f"'{value[:80]}' is refused: only references to other values are followed")
            references += value.count("${")
        return value

    try:
        check_plain(root)
        plain = checked(root)
        if references > _MOST_REFERENCES:  # each can double what it refers to
            raise BadConfig("its references make it endless")
        resolved: Any = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
        check_plain(resolved)
    except RecursionError:
        raise DamagedModel(f"{where}: a reference leads back to itself in a circle") from None
    except BadConfig as error:
        raise DamagedModel(f"{where}: {error}") from None
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError, LookupError) as error:
        key, message = getattr(error, "full_key", None), str(error).partition("\n")[0]
        raise DamagedModel(f"{where}: key '{key or 'agent'}': {message[:200]}") from None
    return dict(resolved)
