"""Recordings as the libraries of their formats write them, of a moving square and the actions that move it."""

import csv
import json
import os
import subprocess
from pathlib import Path

import numpy as np

SIZE = 16


def walk(n: int, seed: int = 0, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """N + 1 frames (size, size, 3), red above, blue below, and N actions 0..2 that move a bright square."""
    rng = np.random.default_rng(seed)
    act, column, frames = rng.integers(0, 3, n), size // 2, []
    act[:3] = (0, 1, 2)[:n]
    for t in range(n + 1):
        frame = np.zeros((size, size, 3), np.uint8)
        frame[: size // 2, :, 0], frame[size // 2 :, :, 2] = 200, 120
        frame[4:8, column : column + 4] = 255
        frames.append(frame)
        if t < n:
            column = int(np.clip(column + (0, -2, 2)[act[t]], 0, size - 4))
    return np.stack(frames), act


def csgo_file(path: Path, frames: np.ndarray, act: np.ndarray) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for i, (frame, each) in enumerate(zip(frames, act, strict=True)):
            file[f"frame_{i}_x"] = frame[..., ::-1]
            file[f"frame_{i}_y"] = each


def video(path: Path, frames: np.ndarray, fps: int = 10, lossless: bool = True) -> None:
    """A video, lossless or as its suffix says, by ffmpeg itself."""
    import imageio_ffmpeg

    _, h, w, _ = frames.shape
    words = [
        "-y",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{w}x{h}",
        "-r",
        str(fps),
        "-i",
        "-",
    ]
    codec = ["-c:v", "libx264rgb", "-qp", "0", "-g", "5", "-pix_fmt", "rgb24"] if lossless else []
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), *words, *codec, str(path)], input=frames.tobytes(), check=True, timeout=60
    )


def csv_of(path: Path, act: np.ndarray, **columns: object) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "action", *columns])
        writer.writerows(zip(range(len(act)), act.tolist(), *columns.values(), strict=True))


def npz(path: Path, frames: np.ndarray, act: np.ndarray, end: bool = True) -> None:
    n = len(act)
    last = np.arange(n) == n - 1
    np.savez(path, obs=frames, act=act, rew=np.arange(n, dtype=np.float32), end=last & end, trunc=last & (not end))


def lerobot(folder: Path, episodes: list[tuple[np.ndarray, np.ndarray]], v3: bool, fps: int = 10) -> None:
    """A data set of either layout: Parquet by pyarrow, videos by ffmpeg."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = "observation.images.front"
    features = {
        key: {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        "next.done": {"dtype": "bool", "shape": [1]},
    }
    template = (
        "{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if v3
        else ("chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4")
    )
    data = (
        "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else ("chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet")
    )
    info = {
        "codebase_version": "v3.0" if v3 else "v2.1", "fps": fps, "features": features, "chunks_size": 1000,
        "data_path": f"data/{data}", "video_path": f"videos/{template}", "total_episodes": len(episodes),
    }  # fmt: skip
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    rows, tables, at = [], [], 0.0
    for number, (frames, act) in enumerate(episodes):
        n = len(frames)
        table = pa.table({
            "action": pa.array(act.astype(np.float32).tolist(), pa.list_(pa.float32(), 2)),
            "episode_index": np.full(n, number), "frame_index": np.arange(n), "timestamp": np.arange(n) / fps,
            "next.done": np.arange(n) == n - 1,
        })  # fmt: skip
        tables.append(table)
        row = {"episode_index": number, "length": n, "tasks": ["walk"]}
        if v3:
            row |= {"data/chunk_index": 0, "data/file_index": 0}
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            row |= {f"videos/{key}/from_timestamp": at, f"videos/{key}/to_timestamp": at + n / fps}
        rows.append(row)
        at += n / fps
        if not v3:
            names = {"episode_chunk": 0, "episode_index": number, "video_key": key}
            for path in (folder / "data" / data.format(**names), folder / "videos" / template.format(**names)):
                path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / "data" / data.format(**names))
            video(folder / "videos" / template.format(**names), frames, fps)
    if not v3:
        (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    names = {"chunk_index": 0, "file_index": 0, "video_key": key}
    paths = [folder / "data" / data.format(**names), folder / "videos" / template.format(**names)]
    paths.append(folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables), paths[0])
    video(paths[1], np.concatenate([frames for frames, _ in episodes]), fps)
    pq.write_table(pa.Table.from_pylist(rows), paths[2])


def pictures(folder: Path, frames: np.ndarray, act: np.ndarray) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{i}.png")
    with open(folder / "actions.jsonl", "w") as file:
        file.writelines(json.dumps({"action": int(each)}) + "\n" for each in act)


def minari_set(
    folder: Path, episodes: list[tuple[np.ndarray, np.ndarray]], jpeg: bool = False, data_format: str = "hdf5"
) -> str:
    """A data set in a cache in `folder`, by Minari itself; returns its id."""
    import minari
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    buffers = []
    for frames, act in episodes:
        last = np.arange(len(act)) == len(act) - 1
        rew = np.arange(len(act), dtype=np.float64)
        buffers.append(
            EpisodeBuffer(observations=frames, actions=act, rewards=rew, terminations=last, truncations=last & False)
        )
    minari.create_dataset_from_buffers(
        "test/walk-v0", buffers, observation_space=spaces.Box(0, 255, episodes[0][0].shape[1:], np.uint8),
        action_space=spaces.Discrete(3), data_format=data_format, jpeg_encoding=jpeg,
    )  # fmt: skip
    return "test/walk-v0"
