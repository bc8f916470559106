"""CS:GO recordings of Pearce & Zhu: HDF5 files with `frame_<i>_x`, BGR pixels, and `frame_<i>_y`, 51 numbers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diamond_gym.csgo import NUM_INPUTS
from diamond_gym.data.importers import Frame, Recording, Source, Steps, UnreadableRecording, files_in, readable

LOOKS_FOR = "HDF5 files (.hdf5, .h5) with frame_0_x and frame_0_y, as CS:GO's"
FPS = 16.0
_SUFFIXES = (".hdf5", ".h5")


def recognises(source: Path) -> bool:
    """Whether the first HDF5 file has the names of this format; a damaged one is taken for it by its suffix."""
    import h5py

    for path in files_in(source, _SUFFIXES):
        if path.name == "main_data.hdf5":  # Minari's
            return False
        try:
            with h5py.File(path) as file:
                return "frame_0_x" in file and "frame_0_y" in file
        except OSError:
            return True
    return False


def read(source: Path, camera: str | None = None) -> Source:
    """A recording for each file."""
    import h5py

    if not (paths := files_in(source, _SUFFIXES)):
        raise UnreadableRecording(f"there is no HDF5 file in {source}")

    def recording(path: Path) -> Recording:
        with readable(path), h5py.File(path) as file:
            count = sum(name.endswith("_x") and name.startswith("frame_") for name in file)

        def steps() -> Steps:
            with readable(path), h5py.File(path) as file:
                act = np.stack([file[f"frame_{i}_y"][()] for i in range(count)])
            if act.shape[1:] != (NUM_INPUTS,) or not np.isin(act, (0, 1)).all():
                raise UnreadableRecording(f"{path}: an action is {NUM_INPUTS} numbers 0 or 1, here {act.shape[1:]}")
            return Steps(act.astype(np.bool_))

        def frames(start: int) -> Iterator[Frame]:
            with readable(path), h5py.File(path) as file:
                for i in range(start, count):
                    yield file[f"frame_{i}_x"][()][..., ::-1]

        return Recording(path.relative_to(source if source.is_dir() else path.parent).as_posix(), steps, frames, count)

    return Source([recording(path) for path in paths], 0, (), FPS, actions={"kind": "csgo"})
