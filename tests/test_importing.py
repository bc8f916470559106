"""Imports that are killed, refused or wrong: the same store in the end, or one clear line and nothing left."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings as write
from filelock import FileLock
from PIL import Image
from stores import assert_same

from diamond_gym.cli import main
from diamond_gym.data import EpisodeStore

A, B = write.walk(12, 1), write.walk(7, 2)
KILLED = """
import itertools, os, sys
from diamond_gym.cli import main
from diamond_gym.data import importing
importing._PIECE_AT_MOST = 4 * 16 * 16 * 3
replace, rename, calls = os.replace, os.rename, itertools.count()
def dying(usual):
    def call(*words):
        if next(calls) == int(sys.argv[3]):
            os.kill(os.getpid(), 9)
        usual(*words)
    return call
os.replace, os.rename = dying(replace), dying(rename)
sys.exit(main(["data", "import", sys.argv[1], "--name", sys.argv[2]]))
"""


def sources(folder: Path) -> Path:
    folder.mkdir()
    for i, n in enumerate((12, 3, 9, 1)):
        write.npz(folder / f"{i}.npz", *write.walk(n, i), end=i != 2)
    return folder


def run(source: Path, into: Path, at: int) -> int:
    words = [sys.executable, "-c", KILLED, str(source), str(into), str(at)]
    return subprocess.run(words, check=False, capture_output=True, timeout=120).returncode


def kills(tmp_path: Path, points: list[int]) -> None:
    source = sources(tmp_path / "in")
    assert run(source, tmp_path / "whole", -1) == 0
    whole = EpisodeStore(tmp_path / "whole")
    for at in points:
        into = tmp_path / f"killed{at}"
        assert run(source, into, at) == -9
        assert not into.exists(), "nothing half-written"
        assert run(source, into, -1) == 0
        again = EpisodeStore(into)
        assert len(again) == len(whole) == 4 and again.about.frame_shape == whole.about.frame_shape
        for mine, theirs in zip(again, whole, strict=True):
            assert_same(mine, theirs)
        assert sorted(p.name for p in tmp_path.glob(".*")) == [], "no litter"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_and_repeated_it_is_the_same_store(tmp_path: Path) -> None:
    kills(tmp_path, [5])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_at_ten_points(tmp_path: Path) -> None:
    kills(tmp_path, list(range(10)))


def test_other_options_begin_anew(tmp_path: Path) -> None:
    source = sources(tmp_path / "in")
    assert run(source, tmp_path / "out", 5) == -9
    words = ["data", "import", str(source), "--name", str(tmp_path / "out"), "--size", "8"]
    assert main(words) == 0
    store = EpisodeStore(tmp_path / "out")
    assert (store.about.frame_shape, store.lengths.tolist()) == ((8, 8, 3), [12, 3, 9, 1])


def test_a_source_that_has_changed_begins_anew(tmp_path: Path) -> None:
    source = sources(tmp_path / "in")
    assert run(source, tmp_path / "out", 5) == -9
    frames, act = write.walk(12, 99)
    write.npz(source / "0.npz", frames, act)
    assert run(source, tmp_path / "out", -1) == 0
    np.testing.assert_array_equal(EpisodeStore(tmp_path / "out")[0].act, act)


def test_two_imports_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / ".out.importing.lock"
    with FileLock(lock):
        assert main(["data", "import", str(sources(tmp_path / "in")), "--name", str(tmp_path / "out")]) == 2
        assert "another import into" in capsys.readouterr().err and lock.exists()


def truncated(path: Path) -> Path:
    os.truncate(path, path.stat().st_size * 2 // 3)
    return path


def hdf5(folder: Path) -> Path:
    write.csgo_file(folder / "x.hdf5", A[0][:12], np.zeros((12, 51)))
    return folder / "x.hdf5"


def film(folder: Path, act: np.ndarray) -> Path:
    write.video(folder / "x.mp4", A[0])
    write.csv_of(folder / "x.csv", act)
    return folder / "x.mp4"


def two_sizes(folder: Path) -> Path:
    write.npz(folder / "1.npz", *A)
    write.npz(folder / "2.npz", *write.walk(5, size=20))
    return folder


def below_zero(folder: Path) -> Path:
    write.npz(folder / "1.npz", A[0], A[1] - 1)
    return folder


def beyond(folder: Path) -> Path:
    write.csgo_file(folder / "x.hdf5", A[0][:12], np.full((12, 51), 2))
    return folder


def undeclared(folder: Path) -> Path:
    np.savez(folder / "1.npz", obs=A[0], act=A[1], meanings=["LEFT", "RIGHT"])
    return folder


def arrays(**changed: Any) -> Callable[[Path], Path]:
    """An episode of arrays, some of which are replaced."""

    def make(folder: Path) -> Path:
        np.savez(folder / "1.npz", **{"obs": A[0], "act": A[1], "rew": np.zeros(len(A[1])), **changed})
        return folder

    return make


def no_archive(folder: Path) -> Path:
    (folder / "1.npz").write_bytes(b"hello")
    return folder


def sixteen_bits(folder: Path) -> Path:
    write.pictures(folder / "play", *A)
    for path in sorted((folder / "play").glob("*.png")):
        Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(path)
    return folder


def rows_after_an_end(folder: Path) -> Path:
    (folder / "play").mkdir()
    Image.fromarray(A[0][0]).save(folder / "play" / "0.png")
    write.csv_of(folder / "play" / "act.csv", A[1][:3], truncated=[False, True, False])
    return folder


def unknown(folder: Path) -> Path:
    (folder / "x.bin").write_bytes(b"?")
    return folder


def cut(kind: str) -> Callable[[Path], Path]:
    """A source of a format of several files, of which the first with this suffix lost its end."""

    def make(folder: Path) -> Path:
        if kind in ("hdf5", "arrow"):
            write.minari_set(folder, [A, B], data_format=kind)
        elif kind == "png":
            write.pictures(folder / "play", *A)
        else:
            write.lerobot(folder / "le", [(frames, np.zeros((len(frames), 2))) for frames, _ in (A, B)], v3=True)
        places = {"hdf5": "test/walk-v0", "arrow": "test/walk-v0", "png": "", "parquet": "le", "json": "le"}
        truncated(sorted((folder / places[kind]).rglob(f"*.{kind}"))[0])
        return folder / places[kind]

    return make


FAULTS: dict[str, tuple[Callable[[Path], Path], str, list[str]]] = {
    "unknown": (unknown, "has no format known here. Looked for: a store of diamond-gym", []),
    "nothing": (lambda folder: folder / "gone", "there is nothing at", []),
    "hdf5": (lambda folder: truncated(hdf5(folder)), "x.hdf5 is damaged or cut off", []),
    "mp4": (lambda folder: truncated(film(folder, A[1])), "x.mp4", []),
    "npz": (lambda folder: truncated(two_sizes(folder) / "1.npz"), "1.npz is damaged or cut off", []),
    "minari": (cut("hdf5"), "main_data.hdf5 is damaged or cut off", []),
    "arrow": (cut("arrow"), "data is damaged or cut off", []),
    "parquet": (cut("parquet"), "file-000.parquet is damaged or cut off", []),
    "png": (cut("png"), "frame0.png is damaged or cut off", []),
    "json": (cut("json"), "info.json cannot be read", []),
    "short": (lambda folder: film(folder, A[1][:9]), "x.mp4: it has 13 frames for 9 actions", []),
    "long": (lambda folder: film(folder, np.tile(A[1], 2)), "x.mp4: it has 13 frames for 24 actions", []),
    "sizes": (two_sizes, "2.npz: frames are (16, 16, 3) here, not (20, 20, 3)", []),
    "negative": (below_zero, "1.npz: action -1 of step 0 is not from 0 to 4095", []),
    "range": (beyond, "x.hdf5: an action is 51 numbers 0 or 1", []),
    "declared": (undeclared, "1.npz: actions lie in 0..1 here", []),
    "reward": (
        arrays(rew=np.where(np.arange(len(A[1])) == 3, np.nan, 0)),
        "1.npz: the reward of step 3 is not finite",
        [],
    ),
    "ends": (
        arrays(end=np.arange(len(A[1])) % 4 == 3),
        "1.npz: step 3 of 12 ends the episode: what follows",
        [],
    ),
    "time limits": (
        arrays(trunc=np.arange(len(A[1])) == 5),
        "1.npz: step 5 of 12 ends the episode: what follows",
        [],
    ),
    "rows": (rows_after_an_end, "step 1 ends the episode, as only the last row can; write one file per episode", []),
    "flags": (arrays(end=np.zeros(5, bool)), "1.npz: 5 ends for 12 actions", []),
    "huge": (arrays(act=A[1] + 5000), "is not from 0 to 4095", []),
    "single": (arrays(act=np.int64(1)), "1.npz: actions are int64 (), not numbers", []),
    "planes": (
        arrays(obs=A[0].transpose(0, 3, 1, 2)),
        "1.npz: a frame is (3, 16, 16), not (height, width, channels)",
        [],
    ),
    "channels": (arrays(obs=A[0].repeat(2, 3)), "a frame is (16, 16, 6), not (height, width, channels)", []),
    "archive": (no_archive, "1.npz is damaged or cut off: it is not an archive of arrays", []),
    "bits": (sixteen_bits, "has more than 8 bits a pixel: write pictures of 8 bits", []),
    "crop": (two_sizes, "--crop reaches beyond the frames", ["--crop", "0", "0", "17", "3"]),
    "offset": (two_sizes, "no more than --action-offset leaves out", ["--action-offset", "40"]),
    "fps": (two_sizes, "does not say how many frames there are per second", ["--fps", "5"]),
    "rate": (lambda folder: film(folder, A[1]), "--fps 7 must divide the recording's 10: try 10, 5", ["--fps", "7"]),
    "size": (two_sizes, "--size must be from 1 to 4,096", ["--size", "0"]),
}


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("av", "h5py", "minari", "pyarrow"):
        pytest.importorskip(library)
    (tmp_path / "in ü").mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    make, message, words = FAULTS[fault]
    source = make(tmp_path / "in ü")
    assert main(["data", "import", str(source), "--name", str(tmp_path / "out"), *words]) in (1, 2)
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in ü"]


def test_a_name_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sources(tmp_path / "in")
    (tmp_path / "out").mkdir()
    assert main(["data", "import", str(source), "--name", str(tmp_path / "out")]) == 2
    assert "out is already there: choose another name" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = sources(tmp_path / "in")

    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("diamond_gym.data.episode_files.os.fsync", full)
        assert main(["data", "import", str(source), "--name", str(tmp_path / "out")]) == 1
    assert "the disk is full: could not write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_ctrl_c_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr("os.rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["data", "import", str(source), "--name", str(tmp_path / "out")]) == 130
    with monkeypatch.context() as patch:
        patch.setattr("diamond_gym.data.episodes.EpisodeStore.write", None)  # all is there already
        assert main(["data", "import", str(source), "--name", str(tmp_path / "out")]) == 0
    assert EpisodeStore(tmp_path / "out").num_steps == 25
