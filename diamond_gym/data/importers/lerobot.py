"""LeRobot data sets of the layouts v2.1 and v3.0: Parquet tables, and videos or pictures in them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diamond_gym.data.importers import Frame, Recording, Source, Steps, UnreadableRecording, read_json, readable
from diamond_gym.data.importers.video import decode

LOOKS_FOR = "a LeRobot data set (meta/info.json)"


def recognises(source: Path) -> bool:
    """Whether there is such a folder."""
    return (source / "meta" / "info.json").is_file()


def read(source: Path, camera: str | None = None) -> Source:
    """A recording for each episode; `camera` names the feature with the frames, where there are several."""
    info = read_json(source / "meta" / "info.json")
    version, features = str(info.get("codebase_version", "")), info.get("features", {})
    if not version.startswith(("v2", "v3")):
        raise UnreadableRecording(f"{source} is of LeRobot's layout {version or '?'}: v2.1 and v3.0 can be read")
    images = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
    chosen = next((name for name in images if camera in (None, name, name.rpartition(".")[2])), None)
    if chosen is None or (camera is None and len(images) > 1):
        raise UnreadableRecording(f"{source}: --camera is one of {', '.join(images) or '(it has no frames)'}")
    if "action" not in features:
        raise UnreadableRecording(f"{source} has no actions")
    v3 = version.startswith("v3")
    episodes = _episodes_v3(source) if v3 else _episodes_v2(source)
    is_video = features[chosen]["dtype"] == "video"
    recordings = [_recording(source, info, row, chosen, is_video, v3) for row in episodes]
    names = features["action"].get("names")
    words = tuple(map(str, names)) if isinstance(names, list) else ()
    return Source(recordings, 0 if features["action"].get("shape", [1]) != [1] else None, words, float(info["fps"]))


def _episodes_v2(source: Path) -> list[dict[str, Any]]:
    path = source / "meta" / "episodes.jsonl"
    with readable(path):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return sorted(rows, key=lambda row: int(row["episode_index"]))


def _episodes_v3(source: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted((source / "meta" / "episodes").rglob("*.parquet")):
        table = _table(path, None)
        wanted = [name for name in table.column_names if not name.startswith("stats/")]
        rows += table.select(wanted).to_pylist()
    if not rows:
        raise UnreadableRecording(f"{source / 'meta' / 'episodes'} has no episodes")
    return sorted(rows, key=lambda row: int(row["episode_index"]))


def _recording(
    source: Path, info: dict[str, Any], row: dict[str, Any], camera: str, is_video: bool, v3: bool
) -> Recording:
    number, length = int(row["episode_index"]), int(row["length"])
    in_v2 = {"episode_chunk": number // int(info.get("chunks_size", 1000)), "episode_index": number}

    def place(template: str, prefix: str) -> Path:
        if v3:
            found = {part: row[f"{prefix}/{part}"] for part in ("chunk_index", "file_index")}
            return source / str(info[template]).format(video_key=camera, **found)
        return source / str(info[template]).format(video_key=camera, **in_v2)

    def rows(columns: list[str]) -> Any:
        path = place("data_path", "data")
        table = _table(path, ["episode_index", *columns])
        return table.filter(np.asarray(table["episode_index"]) == number)

    def steps() -> Steps:
        names = [name for name in ("next.reward", "next.done") if name in info["features"]]
        table = rows(["action", *names])
        act = np.array(table["action"].to_pylist())
        act = act[:, 0] if act.ndim == 2 and act.shape[1] == 1 else act
        whole = act.dtype.kind in "iu" and act.ndim == 1
        rew = np.array(table["next.reward"].to_pylist(), np.float32).ravel() if "next.reward" in names else None
        end = np.array(table["next.done"].to_pylist()) if "next.done" in names else None
        return Steps(act.astype(np.int64 if whole else np.float32), rew, end)

    def frames(start: int) -> Iterator[Frame]:
        if is_video:
            at = float(row.get(f"videos/{camera}/from_timestamp", 0.0))
            yield from decode(place("video_path", f"videos/{camera}"), start, length, at)
            return
        from PIL import Image

        with readable(place("data_path", "data")):
            for cell in rows([camera])[camera].slice(start).to_pylist():
                content = cell["bytes"] if cell["bytes"] is not None else (source / cell["path"]).read_bytes()
                yield np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    return Recording(f"episode_{number}", steps, frames, length)


def _table(path: Path, columns: list[str] | None) -> Any:
    import pyarrow.parquet as pq

    with readable(path):
        return pq.read_table(path, columns=columns)
