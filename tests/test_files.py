"""Files are the old ones or the new ones, whole."""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from diamond_gym.errors import BadArgument, DiskFull
from diamond_gym.files import atomic_path, atomic_write, disk_space_for, is_disk_full, sha256_file


def test_writes_bytes_and_text(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new" / "a.bin") as file:
        file.write(b"\x00\xff")
    with atomic_write(tmp_path / "a.txt", "w") as file:
        file.write("σ\n")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a.txt").read_bytes() == "σ\n".encode()


def test_new_content_is_invisible_until_complete(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_old_file_survives_an_interruption(tmp_path: Path, interruption: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(interruption), atomic_write(path) as file:
        file.write(b"half")
        raise interruption
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_path_keeps_the_suffix_for_libraries_that_look_at_it(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.starts.npz") as path:
        assert path.suffix == ".npz"
        np.savez_compressed(path, x=np.arange(3))
    assert np.load(tmp_path / "a.starts.npz")["x"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["a.starts.npz"]


def test_a_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "sc").mkdir()
    (tmp_path / "link").symlink_to("sc")
    for name in ("sc", "link"):
        with (
            pytest.raises(BadArgument, match=f"{tmp_path / name} is a folder: name a file"),
            atomic_write(tmp_path / name),
        ):
            pytest.fail("the block began")
    with pytest.raises(BadArgument, match=f"{os.devnull} is no file"), atomic_write(os.devnull):
        pytest.fail("the block began")
    assert sorted(os.listdir(tmp_path)) == ["link", "sc"] and not os.listdir(tmp_path / "sc")


def test_errors_name_what_the_user_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if Path("/proc/self").exists():  # which is there, and in which nobody can make anything, root neither
        with pytest.raises(FileNotFoundError) as caught, atomic_write("/proc/x.json"):
            pytest.fail("the block began")
        assert caught.value.filename == "/proc/x.json" and ".tmp-" not in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught, atomic_path("a.json"):
        pass  # nobody wrote it
    assert caught.value.filename == "a.json"
    with pytest.raises(FileNotFoundError) as caught, atomic_write("a.json"):
        Path("other").read_bytes()  # which is another file's
    assert caught.value.filename == "other"


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_full_disk_is_one_line_and_the_old_file_is_intact(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(DiskFull, match="the disk is full") as caught, atomic_write(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_outermost_block_names_what_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="could not write the model"), disk_space_for("the model"):  # noqa: SIM117
        with atomic_write(tmp_path / "part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_really_full_device_is_recognised() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(DiskFull, match="the disk is full: could not write model"),
        disk_space_for("model"),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_full_disk_in_the_words_of_libraries(tmp_path: Path) -> None:
    rust = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert is_disk_full(rust, tmp_path)
    assert is_disk_full(OSError(errno.EDQUOT, "quota"), tmp_path)
    assert not is_disk_full(OSError(errno.EACCES, "denied"), tmp_path)
    assert not is_disk_full(ValueError("anything else"), tmp_path)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
