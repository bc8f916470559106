"""What SIGKILL, a full disk and a forbidden folder leave behind: nothing that looks whole and is not, and no litter."""

import errno
import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cards import listed
from said import one_line
from stubs import save_tiny_model

from diamond_gym import cli
from diamond_gym.errors import DiamondGymError, DiskFull
from diamond_gym.files import temporary_folder
from diamond_gym.registry import resolve, verify
from diamond_gym.registry.saving import export
from diamond_gym.trainers.run import RunFolder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
CALLS = ("replace", "unlink", "mkdir", "rmdir", "fsync", "open")


def killed(do: Callable[[], object], at: int) -> bool:
    """Whether a process of its own was killed before its `at`-th change of the disk; if not, it did all."""
    child = os.fork()
    if child == 0:
        left = at
        for name in CALLS:

            def counting(usual: Any, *words: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return usual(*words, **options)

            setattr(os, name, functools.partial(counting, getattr(os, name)))
        try:
            do()
            os._exit(0)
        except BaseException:  # whatever it is, the test sees the code
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def whole(folder: Path) -> bool:
    """Whether a model can be had from a folder."""
    try:
        verify(resolve(folder))
    except DiamondGymError:
        return False
    return True


steps = pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])


@steps
@pytest.mark.parametrize("again", [False, True], ids=["anew", "over another"])
def test_an_export_that_is_killed_anywhere_can_be_repeated(again: bool, step: int, tmp_path: Path) -> None:
    save_tiny_model(seed=1)
    entry, at = resolve("tiny"), 1 - step
    names = ["tiny.md", "tiny.safetensors", "tiny.starts.npz", "tiny.toml"]
    while True:
        at += step
        out = tmp_path / str(at)
        if again:
            save_tiny_model(seed=0)
            export(resolve("tiny"), out)
            save_tiny_model(seed=1)
            entry = resolve("tiny")
        ended = not killed(lambda: export(entry, out), at)
        if not again and (out / "tiny.toml").exists():
            assert whole(out), f"point {at} leaves what looks whole"
        export(entry, out)
        assert listed(out) == names, f"point {at} leaves litter"
        assert resolve(out).card == entry.card and whole(out)
        if ended or at > 150:
            break
    assert 10 < at < 150


def test_temporary_folders_of_killed_processes_are_collected(tmp_path: Path) -> None:
    def die() -> None:
        with temporary_folder(tmp_path) as folder:
            (folder / "x").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(die, 10**9)
    assert len(list(tmp_path.iterdir())) == 2
    with temporary_folder(tmp_path) as folder:
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]
        with temporary_folder(tmp_path) as other:  # of one that lives it is left alone
            assert folder.exists() and other != folder
    assert not list(tmp_path.iterdir())


@steps
def test_a_model_saved_after_a_kill_clears_up(step: int, home: Path) -> None:
    save_tiny_model()
    at = 1 - step
    while killed(lambda: save_tiny_model(seed=1), at := at + step) and at < 150:
        verify(resolve("tiny"))
    save_tiny_model(seed=2)
    assert [path.name for path in (home / "models").iterdir()] == ["tiny"]
    assert listed(home / "models" / "tiny") == ["tiny.md", "tiny.safetensors", "tiny.starts.npz", "tiny.toml"]
    assert at > 5


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, FULL), "the disk is full"),
        (BrokenPipeError(errno.EPIPE, f"Broken pipe\n\nFFMPEG STDERR OUTPUT:\n{FULL}"), "the disk is full"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "could not write"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (SystemError("tile cannot extend outside image"), "tile cannot extend"),
    ],
)
@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_video_that_cannot_be_written(
    suffix: str, error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diamond_gym.frames import write_video

    def fails(*given: Any, **_: Any) -> None:
        for path in given:
            if isinstance(path, str | Path) and Path(path).suffix == suffix:
                Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("imageio.v3.imwrite" if suffix == ".mp4" else "PIL.Image.Image.save", fails)
    path = tmp_path / f"x{suffix}"
    path.write_text("the old one")
    with pytest.raises(DiamondGymError, match=message) as caught:
        write_video(path, [np.zeros((8, 8, 3), np.uint8)] * 2, 15)
    assert isinstance(caught.value, DiskFull) == (message == "the disk is full")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("out", "status"), [("/proc/x.gif", 1), ("/dev/null/x.gif", 2), ("taken/x.mp4", 2)])
def test_a_video_where_there_can_be_none(
    out: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    save_tiny_model()
    assert cli.main(["dream", "--model", "tiny", "--steps", "2", "--num-envs", "1", "--out", out]) == status
    assert "Traceback" not in (err := capsys.readouterr().err)
    assert err.splitlines()[-1].strip()


def rows(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_tells_every_step_once(tmp_path: Path) -> None:
    with RunFolder(tmp_path, tensorboard=False) as run:
        assert run.load() is None
        for step in (1, 2, 3):
            run.log(step, {"loss": 1.0 / step})
            if step < 3:
                run.save({"step": step, "weights": torch.zeros(1)})
        run.log(2, {"real/score": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 0.')  # killed while it wrote
    with RunFolder(tmp_path, tensorboard=False) as run:
        assert run.load() is not None
        run.log(2, {"real/score": 1.0})  # shown already
        run.log(3, {"loss": 0.5})
    assert rows(tmp_path) == [1, 2, 2, 3]
    (tmp_path / "checkpoint.pt").unlink()
    with RunFolder(tmp_path, tensorboard=False) as run:
        run.load()
        run.log(1, {"loss": 1.0})
    assert rows(tmp_path) == [1]


def test_a_video_half_written_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "epoch-0001-dream.mp4").write_bytes(b"whole")
    (tmp_path / "videos" / ".epoch-0002-dream.tmp-0123abcd.mp4").write_bytes(b"half")
    with RunFolder(tmp_path):
        assert [path.name for path in (tmp_path / "videos").iterdir()] == ["epoch-0001-dream.mp4"]


def test_an_export_onto_a_full_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model()
    out = tmp_path / "out"
    assert cli.main(["export", "tiny", str(out)]) == 0
    capsys.readouterr()
    old = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, FULL)

    monkeypatch.setattr("shutil.copyfile", full)
    assert cli.main(["export", "tiny", str(out)]) == 1
    assert "the disk is full" in one_line(capsys)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == old
