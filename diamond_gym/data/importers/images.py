"""Folders of PNG or JPEG pictures in the order of their numbers, with a CSV or JSONL of actions in the folder."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from diamond_gym.data.importers import PICTURES, Frame, Source, UnreadableRecording, files_in, readable
from diamond_gym.data.importers.actions import SUFFIXES, Film, source_of

LOOKS_FOR = "folders of PNG or JPEG pictures with a .csv or .jsonl of actions in each"


def recognises(source: Path) -> bool:
    """Whether there are pictures in a folder."""
    return source.is_dir() and bool(files_in(source, PICTURES))


def read(source: Path, camera: str | None = None) -> Source:
    """A recording for each folder with pictures."""
    folders: dict[Path, list[Path]] = {}
    for path in files_in(source, PICTURES):
        folders.setdefault(path.parent, []).append(path)
    if not folders:
        raise UnreadableRecording(f"there is no picture in {source}")
    films = []
    for folder, paths in folders.items():
        tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
        if len(tables) != 1:
            raise UnreadableRecording(f"{folder} needs one .csv or .jsonl of actions, and has {len(tables)}")
        films.append(Film(folder.relative_to(source).as_posix(), tables[0], partial(_pictures, paths)))
    return source_of(films)


def _pictures(paths: list[Path], start: int) -> Iterator[Frame]:
    return map(picture, paths[start:])


def picture(path: Path) -> Frame:
    """A picture's pixels, grey or RGB."""
    from PIL import Image

    with readable(path), Image.open(path) as image:
        if image.mode[0] in "IF":  # 16 bits a pixel and more: turned into 8 bits they would all be white
            raise UnreadableRecording(f"{path} has more than 8 bits a pixel: write pictures of 8 bits")
        pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    return pixels if pixels.ndim == 3 else pixels[..., None]
