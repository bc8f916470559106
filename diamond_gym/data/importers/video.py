"""Videos, each with a CSV or JSONL file of the same name that has an action for every frame."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diamond_gym.data.importers import (
    VIDEOS,
    Frame,
    Recording,
    Source,
    Steps,
    UnreadableRecording,
    files_in,
    one_line,
)
from diamond_gym.data.importers.actions import SUFFIXES, read_actions

LOOKS_FOR = f"videos ({' '.join(VIDEOS)}), each beside a .csv or .jsonl of actions of the same name"


def recognises(source: Path) -> bool:
    """Whether there is a video, and no LeRobot data set around it."""
    return not (source / "meta" / "info.json").exists() and bool(files_in(source, VIDEOS))


def read(source: Path, camera: str | None = None) -> Source:
    """A recording for each video."""
    if not (paths := files_in(source, VIDEOS)):
        raise UnreadableRecording(f"there is no video in {source}")
    beside = [next((p for s in SUFFIXES if (p := path.with_suffix(s)).exists()), None) for path in paths]
    for path, table in zip(paths, beside, strict=True):
        if table is None:
            raise UnreadableRecording(
                f"{path} has no actions: write them into {path.with_suffix('.csv').name} beside it"
            )
    steps, num_actions, words = read_actions([table for table in beside if table])
    root = source if source.is_dir() else source.parent

    def recording(path: Path, its: Steps) -> Recording:
        return Recording(
            path.relative_to(root).as_posix(), lambda: its, lambda start: decode(path, start), len(its.act)
        )

    recordings = [recording(path, its) for path, its in zip(paths, steps, strict=True)]
    return Source(recordings, num_actions, words, frame_rate(paths[0]))


def decode(path: Path, start: int = 0, stop: int | None = None, at: float = 0.0) -> Iterator[Frame]:
    """Frames `start` to `stop` of a video, RGB, counted from the first one at or after `at` seconds."""
    import av

    try:
        with av.open(str(path)) as container:
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
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise UnreadableRecording(f"{path} is damaged or cut off: {one_line(error)}") from error


def frame_rate(path: Path) -> float | None:
    """Frames per second of a video."""
    import av

    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
            return float(rate) if rate else None
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise UnreadableRecording(f"{path} is damaged or cut off: {one_line(error)}") from error
