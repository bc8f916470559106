"""Pictures of a store: a sheet of frames, a row an episode, and an animation, with the actions drawn in."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.about import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import DiamondGymError
from diamond_gym.files import atomic_path
from diamond_gym.frames import write_video

_LABEL = 12  # rows of pixels under a frame


def preview(
    store: EpisodeStore, sheet: Path, animation: Path, episodes: int = 6, frames: int = 8, fps: int = 10
) -> None:
    """Writes a contact sheet (PNG) and an animation (GIF) of some episodes, evenly chosen.

    Raises:
        DiamondGymError: The store is empty, or the disk is full.
    """
    if not len(store):
        raise DiamondGymError(f"{store.folder} holds no episodes")
    from PIL import Image

    numbers = np.linspace(0, len(store) - 1, min(episodes, len(store))).astype(int).tolist()
    scale = max(1, 96 // max(store.about.frame_shape[:2]))
    rows = []
    for i in numbers:
        t = np.linspace(0, store.lengths[i] - 1, frames).astype(np.int64)
        rows.append(np.concatenate(_labelled(store, i, t, scale), 1))
    with atomic_path(sheet) as path:
        Image.fromarray(np.concatenate(rows, 0)).save(path, "PNG")
    length = min(10 * fps, max(int(store.lengths[i]) for i in numbers))
    films = [_labelled(store, i, np.minimum(np.arange(length), store.lengths[i] - 1), scale) for i in numbers]
    write_video(animation, [np.concatenate(each, 1) for each in zip(*films, strict=True)], fps)


def _labelled(store: EpisodeStore, number: int, t: npt.NDArray[np.int64], scale: int) -> list[npt.NDArray[np.uint8]]:
    """Frames of an episode, each over a line with the action that follows it."""
    from PIL import Image, ImageDraw

    obs, steps = store.frames(number, t).transpose(0, 2, 3, 1), store.steps(number, t)
    if obs.shape[-1] == 1:
        obs = obs.repeat(3, -1)
    pictures = []
    for frame, act in zip(obs.repeat(scale, 1).repeat(scale, 2), steps["act"], strict=True):
        image = Image.fromarray(np.pad(frame[..., :3], ((0, _LABEL), (0, 2), (0, 0))))
        ImageDraw.Draw(image).text((1, frame.shape[0]), _words(store.about, act)[:24], fill=(255, 255, 255))
        pictures.append(np.asarray(image))
    return pictures


def _words(about: About, act: Any) -> str:
    """An action in a few letters."""
    act = np.asarray(act)
    if act.ndim == 0:
        return about.action_meanings[int(act)] if int(act) < len(about.action_meanings) else str(int(act))
    if act.dtype == np.bool_:
        return " ".join(map(str, np.flatnonzero(act))) or "-"
    return " ".join(f"{value:.2g}" for value in act.ravel().tolist())
