"""Videos: any iterable of frames, one in memory at a time, in colour or grey, and recordings of play as such."""

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.frames import write_video
from diamond_gym.play import recording
from diamond_gym.play.recording import ActionLog, Recorder, export

LOG = ActionLog("Somewhere", "some-model", "ab12", {})


def recorded(steps: int, shape: tuple[int, int, int]) -> Recorder:
    recorder = Recorder()
    for number in range(steps + 1):
        frame = np.full(shape, number % 2 * 200, np.uint8)
        if number:
            recorder.add(0, 0.0, False, False, frame)
        else:
            recorder.begin(frame)
    return recorder


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_frames_are_taken_one_by_one(suffix: str, tmp_path: Path) -> None:
    alive, most = [], 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal most
        for number in range(30):
            frame = np.full((31, 33, 3), number * 8, np.uint8)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))

    write_video(tmp_path / f"film{suffix}", frames(), 10)
    film = iio.imread(tmp_path / f"film{suffix}")
    assert len(film) == 30
    assert most <= 3
    assert np.abs(film.mean((1, 2, 3)) - 8 * np.arange(30)).max() < 4


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_grey_frames_stay_grey(suffix: str, tmp_path: Path) -> None:
    grey = [np.full((16, 18, 1), level, np.uint8) for level in (10, 90, 250)]
    write_video(tmp_path / f"film{suffix}", grey, 10)
    film = iio.imread(tmp_path / f"film{suffix}")
    assert film.shape == (3, 16, 18, 3)
    assert np.abs(film.astype(int) - np.stack(grey)).max() <= 4


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_no_frames_make_no_video(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(DiamondGymError, match="there are no frames"):
        write_video(tmp_path / f"film{suffix}", [], 10)
    assert not list(tmp_path.iterdir())


def test_a_recording_is_enlarged_as_it_is_written(tmp_path: Path) -> None:
    recorder = recorded(300, (40, 40, 3))
    tracemalloc.start()
    export(recorder, LOG, "mp4", tmp_path / "film.mp4", 15)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 30 * 320 * 320 * 3, "of 301 frames"
    film = iio.imread(tmp_path / "film.mp4")
    assert film.shape == (301, 320, 320, 3)
    assert np.abs(film.mean((1, 2, 3)) - np.arange(301) % 2 * 200).max() < 4


def test_a_long_recording_is_no_gif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recording.MOST_GIF_STEPS == 1_000
    monkeypatch.setattr(recording, "MOST_GIF_STEPS", 5)
    export(recorded(5, (8, 8, 1)), LOG, "gif", tmp_path / "film.gif", 15)
    assert iio.imread(tmp_path / "film.gif").shape == (6, 320, 320, 3)
    with pytest.raises(BadArgument, match="a GIF holds 5 steps at most, not 6: take the MP4"):
        export(recorded(6, (8, 8, 1)), LOG, "gif", tmp_path / "long.gif", 15)
    assert not (tmp_path / "long.gif").exists()


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiamondGymError, match="must end in .mp4 or .gif, not"):
        write_video(tmp_path / "film.txt", [np.zeros((8, 8, 3), np.uint8)], 10)
    assert not list(tmp_path.iterdir())
