"""Episodes as `.npz` files: `obs` uint8 (N or N+1, H, W, C), `act` (N, ...), and what else is known.

That is `rew`, `end` and `trunc` (N,), and `meanings` (A,), a word for each of A actions.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diamond_gym.data.importers import Frame, Recording, Source, Steps, UnreadableRecording, files_in, readable

LOOKS_FOR = "an .npz file for each episode, with obs and act"
_NAMES = {
    "obs": ("obs", "observations", "image", "images", "frames"),
    "act": ("act", "action", "actions"),
    "rew": ("rew", "reward", "rewards"),
    "end": ("end", "terminated", "terminations", "done", "is_terminal"),
    "trunc": ("trunc", "truncated", "truncations"),
    "meanings": ("meanings", "action_meanings"),
}


def recognises(source: Path) -> bool:
    """Whether there is such a file."""
    return bool(files_in(source, (".npz",)))


def read(source: Path, camera: str | None = None) -> Source:
    """A recording for each file; its frames are read as a whole, as the format wants it."""
    if not (paths := files_in(source, (".npz",))):
        raise UnreadableRecording(f"there is no .npz file in {source}")
    root = source if source.is_dir() else source.parent
    meanings = _array(paths[0], "meanings")
    words = () if meanings is None else tuple(map(str, np.ravel(meanings)))
    recordings = [_recording(path, path.relative_to(root).as_posix()) for path in paths]
    return Source(recordings, len(words) or None, words)


def _array(path: Path, wanted: str) -> np.ndarray | None:
    """An array of a file by any of its names."""
    with readable(path):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not an archive of arrays")
    with readable(path), open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        name = next((name for name in _NAMES[wanted] if name in file), None)
        return None if name is None else file[name]


def _recording(path: Path, key: str) -> Recording:
    def steps() -> Steps:
        act, rew, end, trunc = (_array(path, name) for name in ("act", "rew", "end", "trunc"))
        if act is None:
            raise UnreadableRecording(f"{path} has no actions: call them act, (N, ...)")
        return Steps(act, None if rew is None else np.ravel(rew).astype(np.float32), end, trunc)

    def frames(start: int) -> Iterator[Frame]:
        obs = _array(path, "obs")
        if obs is None or obs.dtype != np.uint8 or obs.ndim not in (3, 4):
            found = "nothing" if obs is None else f"{obs.dtype} {obs.shape}"
            raise UnreadableRecording(f"{path}: obs is uint8 (N+1, H, W, C), not {found}")
        yield from (frame if frame.ndim == 3 else frame[..., None] for frame in obs[start:])

    act = _array(path, "act")
    return Recording(key, steps, frames, 0 if act is None or not act.ndim else len(act) + 1)
