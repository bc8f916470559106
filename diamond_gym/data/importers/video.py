"""Videos, each with a CSV or JSONL file of the same name that has an action for every frame."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from diamond_gym.data.importers import VIDEOS, Frame, Source, UnreadableRecording, files_in, readable
from diamond_gym.data.importers.actions import SUFFIXES, Film, source_of

LOOKS_FOR = f"videos ({' '.join(VIDEOS)}), each beside a .csv or .jsonl of actions of the same name"


def recognises(source: Path) -> bool:
    """Whether there is a video, and no LeRobot data set around it."""
    return not (source / "meta" / "info.json").exists() and bool(files_in(source, VIDEOS))


def read(source: Path, camera: str | None = None) -> Source:
    """A recording for each video."""
    if not (paths := files_in(source, VIDEOS)):
        raise UnreadableRecording(f"there is no video in {source}")
    root, films = source if source.is_dir() else source.parent, []
    for path in paths:
        table = next((p for suffix in SUFFIXES if (p := path.with_suffix(suffix)).exists()), None)
        if table is None:
            raise UnreadableRecording(
                f"{path} has no actions: write them into {path.with_suffix('.csv').name} beside it"
            )
        films.append(Film(path.relative_to(root).as_posix(), table, partial(decode, path)))
    return source_of(films, frame_rate(paths[0]))


def decode(path: Path, start: int = 0, stop: int | None = None, at: float = 0.0) -> Iterator[Frame]:
    """Frames `start` to `stop` of a video, RGB, counted from the first one at or after `at` seconds."""
    import av

    with readable(path), av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        half = 0.5 / float(stream.average_rate or 30)
        if at > 0:
            container.seek(round(at * av.time_base))
        number = 0
        for frame in container.decode(stream):
            if at > 0 and frame.time is not None and frame.time < at - half:
                continue
            if stop is not None and number >= stop:
                return
            if number >= start:
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            number += 1


def frame_rate(path: Path) -> float | None:
    """Frames per second of a video."""
    import av

    with readable(path), av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return float(rate) if rate else None
