"""Minari data sets, by their folder or by the id under which Minari's cache holds them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diamond_gym.action_spaces import codec_of_table
from diamond_gym.data.importers import Frame, Recording, Source, Steps, UnreadableRecording, read_json, readable

LOOKS_FOR = "a Minari data set (data/metadata.json, or the id of one in Minari's cache)"


def _data(source: Path) -> Path:
    """The folder with the data set's files."""
    if not source.exists() and not source.is_absolute():
        from minari.storage import get_dataset_path

        source = Path(get_dataset_path(source.as_posix()))
    return source if (source / "metadata.json").is_file() else source / "data"


def recognises(source: Path) -> bool:
    """Whether there is such a data set."""
    try:
        return "data_format" in read_json(_data(source) / "metadata.json")
    except (UnreadableRecording, ImportError, ValueError, TypeError):
        return False


def read(source: Path, camera: str | None = None) -> Source:
    """A recording for each episode; `camera` names the image in a dictionary of observations."""
    folder = _data(source)
    metadata = read_json(folder / "metadata.json")
    with readable(folder / "metadata.json"):
        space = json.loads(metadata.get("action_space", "{}"))
        num_actions = int(space["n"]) if space.get("type") == "Discrete" and not space.get("start") else 0
    hdf5 = metadata.get("data_format") == "hdf5"
    recordings = _of_hdf5(folder / "main_data.hdf5", camera) if hdf5 else _by_minari(folder, camera)
    return Source(recordings, num_actions, actions={} if num_actions else _kind(space))


def _kind(space: dict[str, Any]) -> dict[str, Any]:
    """The kind of actions that a space, as Minari writes it, has; empty where it has none that is known here."""
    lists = {key: np.array(space[key]) for key in ("low", "high", "nvec", "n", "start") if key in space}
    try:
        if space["type"] == "Box":
            table: dict[str, Any] = {"kind": "box", "shape": list(space["shape"])}
            table |= {key: lists[key].ravel().tolist() for key in ("low", "high")}
        elif space["type"] == "MultiBinary":
            table = {"kind": "multi_binary", "shape": lists["n"].ravel().tolist()}
        else:
            sizes = np.where(lists["start"].any(), 0, lists["nvec"])  # 0 is no size
            table = {"kind": "multi_discrete", "sizes": sizes.ravel().tolist(), "shape": list(sizes.shape)}
        codec_of_table(table)
    except (KeyError, ValueError):  # another space, or a box without bounds
        return {}
    return table


def _of_hdf5(path: Path, camera: str | None) -> list[Recording]:
    """Reads HDF5 frame by frame: an episode may be larger than the memory."""
    import h5py

    def recording(name: str, count: int) -> Recording:
        def steps() -> Steps:
            with readable(path), h5py.File(path) as file:
                rew, end, trunc = (file[name][part][()] for part in ("rewards", "terminations", "truncations"))
                act = _array(file[name]["actions"], path)
                return Steps(act, rew.astype(np.float32), end, trunc)

        def frames(start: int) -> Iterator[Frame]:
            with readable(path), h5py.File(path) as file:
                obs = _images(file[name]["observations"], camera, path)
                for i in range(start, len(obs)):
                    yield _frame(obs[i], path)

        return Recording(name, steps, frames, count + 1)

    with readable(path), h5py.File(path) as file:
        names = sorted(file, key=lambda name: int(name.rpartition("_")[2]))
        return [recording(name, len(file[name]["rewards"])) for name in names]


def _by_minari(folder: Path, camera: str | None) -> list[Recording]:
    """Lets Minari itself read its other formats, an episode at a time."""
    import minari

    def recording(number: int, count: int) -> Recording:
        def steps() -> Steps:
            with readable(folder):
                each = data[number]
                end, trunc = np.asarray(each.terminations), np.asarray(each.truncations)
                return Steps(_array(each.actions, folder), np.asarray(each.rewards, np.float32), end, trunc)

        def frames(start: int) -> Iterator[Frame]:
            with readable(folder):
                for image in _images(data[number].observations, camera, folder)[start:]:
                    yield _frame(image, folder)

        return Recording(f"episode_{number}", steps, frames, count + 1)

    with readable(folder):
        data = minari.MinariDataset(folder)
        about = data.storage.get_episode_metadata(range(data.total_episodes))
        return [recording(number, int(each["total_steps"])) for number, each in enumerate(about)]


def _array(actions: Any, path: Path) -> np.ndarray:
    if not hasattr(actions, "shape"):
        raise UnreadableRecording(f"{path}: actions that are dictionaries or tuples cannot be imported")
    return np.asarray(actions)


def _images(obs: Any, camera: str | None, path: Path) -> Any:
    """The images among the observations."""
    if hasattr(obs, "shape"):
        return obs
    names = list(obs)
    if camera is None and len(names) == 1:
        camera = names[0]
    if camera not in names:
        raise UnreadableRecording(f"{path} has several observations: --camera is one of {', '.join(names)}")
    return obs[camera]


def _frame(image: Any, path: Path) -> Frame:
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.dtype == np.uint8 and pixels.ndim == 1:  # as JPEG
        pixels = np.asarray(Image.open(io.BytesIO(pixels.tobytes())))
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise UnreadableRecording(f"{path}: observations are {pixels.dtype} {pixels.shape}, not images")
    return pixels if pixels.ndim == 3 else pixels[..., None]
