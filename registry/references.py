"""The released configurations: YAML whose values refer to each other, resolved without running anything.

A reference is `${agent.denoiser.sigma_data}` from the top, `${.size}` beside the value itself, and with each further
dot one table higher (`${..train.size}`). OmegaConf's resolvers could run code; here one text is understood,
`${eval:'float("inf")'}`, because the authors' files hold it, and every other is refused.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diamond_gym.errors import DamagedModel

_LARGEST_FILE = 1 << 20
_MOST_VALUES, _LONGEST_TEXT = 10_000, 10_000
_REFERENCE = re.compile(r"\$\{([^{}$]*)\}")
_PATH = re.compile(r"(\.*)([A-Za-z_]\w*(?:\.\w+)*)")
_INFINITY = re.compile(r"""eval:\s*(['"]?)\s*float\(\s*(['"])inf\2\s*\)\s*\1\s*""")
_Place = tuple[str | int, ...]


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of plain values; its references stay as they are written.

    Raises:
        DamagedModel: It is missing, not YAML, or asks for more than plain values.
    """
    import yaml

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DamagedModel(f"{path}: too long for a configuration")
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedModel(f"{path}: there is no such file") from None
    except RecursionError:
        raise DamagedModel(f"{path}: nested too deeply") from None
    except DamagedModel:
        raise
    except Exception as error:  # PyYAML meets values that are not what their tags say with exceptions of many kinds
        raise DamagedModel(f"{path}: not readable as plain YAML ({' '.join(str(error).split())})") from None
    if not isinstance(table, dict):
        raise DamagedModel(f"{path}: a table of keys and values is wanted")
    return table


def resolve_references(root: Mapping[str, Any], part: str, where: str) -> Any:
    """The value at the top-level key `part`, with everything it refers to put in its place.

    Args:
        root: The whole configuration; references begin here.
        part: Which of its keys to return.
        where: What to call the configuration in an error.

    Raises:
        DamagedModel: A reference leads nowhere or in a circle, or is of a kind that is not understood.
    """
    try:
        return _Resolver(root, where).expand(root[part], (part,))
    except RecursionError:
        raise DamagedModel(f"{where}: nested too deeply") from None


class _Resolver:
    def __init__(self, root: Mapping[str, Any], where: str) -> None:
        self._root, self._where = root, where
        self._values = 0
        self._within: list[int] = []  # tables and lists being expanded: YAML's anchors can hold themselves
        self._following: list[_Place] = []  # references being followed

    def expand(self, value: Any, place: _Place) -> Any:
        self._values += 1
        if self._values > _MOST_VALUES:
            raise self._wrong(place, "its references make it endless")
        if isinstance(value, str):
            return self._expand_text(value, place)
        if isinstance(value, int) and abs(value) >= 1 << 63:  # Python refuses to write the longest out
            raise self._wrong(place, "a number of more than 64 bits")
        if not isinstance(value, dict | list):
            return value
        if id(value) in self._within:
            raise self._wrong(place, "it contains itself")
        self._within.append(id(value))
        try:
            if isinstance(value, list):
                return [self.expand(item, (*place, i)) for i, item in enumerate(value)]
            for key in value:
                if not isinstance(key, str):
                    raise self._wrong(place, f"a key is a {type(key).__name__}, not a word")
            return {key: self.expand(item, (*place, key)) for key, item in value.items()}
        finally:
            self._within.pop()

    def _expand_text(self, text: str, place: _Place) -> Any:
        whole = _REFERENCE.fullmatch(text)
        if whole:
            return self._follow(whole[1], place)

        def as_text(match: re.Match[str]) -> str:
            value = self._follow(match[1], place)
            if isinstance(value, dict | list):
                raise self._wrong(place, f"'{match[0]}' is no single value")
            return str(value)

        expanded = _REFERENCE.sub(as_text, text)
        if "${" in _REFERENCE.sub("", text):
            raise self._wrong(place, f"'{text[:80]}' is not a reference that is understood")
        if len(expanded) > _LONGEST_TEXT:
            raise self._wrong(place, "its references make it endless")
        return expanded

    def _follow(self, reference: str, place: _Place) -> Any:
        if _INFINITY.fullmatch(reference):
            return math.inf
        path = _PATH.fullmatch(reference.strip())
        if path is None:
            raise self._wrong(
                place, f"'${{{reference[:80]}}}' is refused: only references to other values are followed"
            )
        up = len(path[1])
        if up > len(place):
            raise self._wrong(place, f"'${{{reference}}}' leads out of the configuration")
        target: _Place = (*(place[:-up] if up else ()), *path[2].split("."))
        if target in self._following:
            raise self._wrong(place, f"'${{{reference}}}' refers to itself in a circle")
        self._following.append(target)
        try:
            return self.expand(self._look_up(target, reference, place), target)
        finally:
            self._following.pop()

    def _look_up(self, target: _Place, reference: str, place: _Place) -> Any:
        value: Any = self._root
        for depth, key in enumerate(target):
            if isinstance(value, str):  # a reference on the way
                value = self.expand(value, target[:depth])
            if isinstance(value, list) and re.fullmatch("[0-9]{1,9}", str(key)) and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                raise self._wrong(place, f"'${{{reference}}}' leads nowhere")
        return value

    def _wrong(self, place: _Place, what: str) -> DamagedModel:
        return DamagedModel(f"{self._where}: key '{'.'.join(map(str, place))}': {what}")
