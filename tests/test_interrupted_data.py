"""The episode store when its writing is interrupted, its disk is full or its files are damaged."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import ABOUT, assert_same, episode

from diamond_gym.data import EpisodeStore
from diamond_gym.errors import DiamondGymError

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


@settings(max_examples=60)
@given(cut=st.floats(0, 1), garbage=st.booleans())
def test_killed_while_writing(tmp_path_factory: pytest.TempPathFactory, cut: float, garbage: bool) -> None:
    """However far the writing of a piece came, all that was written before is there, and writing goes on."""
    folder = tmp_path_factory.mktemp("store")
    old = [episode(3, 1), episode(5, 2, end=False)]
    with EpisodeStore(folder, "a", ABOUT) as store:
        for each in old:
            store.append(each)
        sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
        more = episode(7, 3)
        more.obs[0] = old[1].obs[-1]
        store.write([(1, more), (None, episode(4, 4))])
    # The parts are written one after the other, the index last and never whole.
    added = [((folder / name), (folder / name).stat().st_size) for name in ("frames.bin", "steps.bin", "index.jsonl")]
    budget = int(cut * (sum(size - sizes[path.name] for path, size in added) - 1))
    lines_before = 2
    for path, size in added:
        written = min(budget, size - sizes[path.name])
        budget -= written
        os.truncate(path, sizes[path.name] + written)
        if garbage and written == 0 and path.name != "index.jsonl":  # blocks that were allocated, but not written
            with open(path, "ab") as file:
                file.write(bytes(5))
    whole_lines = (folder / "index.jsonl").read_bytes().count(b"\n") - lines_before
    expected_steps = 8 + (7 if whole_lines else 0)
    copy = folder.with_name(f"{folder.name}-reader")
    shutil.copytree(folder, copy)
    assert EpisodeStore(copy).num_steps == expected_steps
    with EpisodeStore(folder, "a", ABOUT) as store:
        assert_same(store[0], old[0])
        np.testing.assert_array_equal(store[1].obs[:6], old[1].obs)
        assert store.num_steps == expected_steps
        new = episode(2, 9)
        assert store.append(new) == 2
        assert_same(store[2], new)
    assert_same(EpisodeStore(folder)[2], new)


@settings(max_examples=40)
@given(name=st.sampled_from(["frames.bin", "steps.bin"]), cut=st.floats(0, 1))
def test_files_that_lost_their_tail(tmp_path_factory: pytest.TempPathFactory, name: str, cut: float) -> None:
    """An incomplete copy is told of, and used as far as it goes."""
    folder = tmp_path_factory.mktemp("store")
    episodes = [episode(n, n) for n in (3, 5, 2)]
    with EpisodeStore(folder, "a", ABOUT) as store:
        for each in episodes:
            store.append(each)
    size = (folder / name).stat().st_size
    os.truncate(folder / name, int(cut * (size - 1)))
    with pytest.warns(UserWarning, match="is incomplete"):
        store = EpisodeStore(folder)
    assert len(store) < 3
    for mine, theirs in zip(store, episodes, strict=False):
        assert_same(mine, theirs)
    with pytest.warns(UserWarning, match="is incomplete"):
        store = EpisodeStore(folder, "a")
    kept = len(store)
    store.append(episodes[0])
    store.close()
    assert_same(EpisodeStore(folder)[kept], episodes[0])


@posix
def test_killed_process(tmp_path: Path) -> None:
    code = """
        import os, sys
        from diamond_gym.data import EpisodeStore
        from tests.stores import ABOUT, episode
        store = EpisodeStore(sys.argv[1], "a", ABOUT)
        store.append(episode(3, 1))
        store._files[0].seek(0, 2)
        store._files[0].write(bytes(100))  # the next one has begun
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.returncode == -9
    with EpisodeStore(tmp_path, "a") as store:  # its lock died with it
        assert_same(store[0], episode(3, 1))
        assert (tmp_path / "frames.bin").stat().st_size == 4 * 24


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_or_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: int, error: BaseException) -> None:
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.append(episode(3, 1))
        store.append(episode(4, 2, end=False))
        sizes = [path.stat().st_size for path in store._parts]

        class Full:
            """Takes some bytes, then no more."""

            def __init__(self, file: object) -> None:
                self._file, self._left = file, 5

            def write(self, data: memoryview) -> int:
                if not self._left:
                    raise error
                self._left -= 5
                return self._file.write(data[:5])  # type: ignore[attr-defined, no-any-return]

            def __getattr__(self, name: str) -> object:
                return getattr(self._file, name)

        with monkeypatch.context() as patch:
            files = list(store._files)
            files[where] = Full(files[where])  # type: ignore[call-overload]
            patch.setattr(store, "_files", files)
            expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DiamondGymError
            with pytest.raises(expected, match="the disk is full" if expected is DiamondGymError else None):
                store.write([(None, episode(9, 3)), (1, episode(2, 4))])
        assert [path.stat().st_size for path in store._parts] == sizes
        assert (len(store), len(EpisodeStore(tmp_path))) == (2, 2)
        assert_same(store[1], episode(4, 2, end=False))
        store.append(episode(5, 5))  # there is room again
    assert_same(EpisodeStore(tmp_path)[2], episode(5, 5))


def test_interrupted_right_after_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        with monkeypatch.context() as patch:

            def interrupted(*_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(store, "_take", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.append(episode(3, 1))
        assert store.append(episode(4, 2)) == 1
        assert_same(store[0], episode(3, 1))
    assert_same(EpisodeStore(tmp_path)[1], episode(4, 2))


@posix
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The system itself refuses to let a file grow."""
    code = """
        import resource, sys
        from diamond_gym.data import EpisodeStore
        from diamond_gym.errors import DiamondGymError
        from tests.stores import ABOUT, episode
        store = EpisodeStore(sys.argv[1], "a", ABOUT)
        store.append(episode(3, 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            store.append(episode(100, 2))
        except DiamondGymError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("the disk is full: could not write")
    assert done.stdout.count("\n") == 1
    assert_same(EpisodeStore(tmp_path)[0], episode(3, 1))
    assert (tmp_path / "frames.bin").stat().st_size == 4 * 24


def test_damage_is_named(tmp_path: Path) -> None:
    for mode in ("r", "a"):
        with pytest.raises(DiamondGymError, match="no experience at .*nowhere"):
            EpisodeStore(tmp_path / "nowhere", mode)  # type: ignore[arg-type]
    with pytest.raises(DiamondGymError, match="no experience"):
        EpisodeStore(tmp_path, "a")
    with pytest.raises(ValueError, match="mode is"):
        EpisodeStore(tmp_path, "w")  # type: ignore[arg-type]
    good = tmp_path / "good"
    with EpisodeStore(good, "a", ABOUT) as store:
        store.append(episode(2))
        store.append(episode(3))

    def broken(name: str, content: bytes | None) -> Path:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        return folder

    about = (good / "store.json").read_bytes()
    index = (good / "index.jsonl").read_bytes()
    cases = [
        ("frames.bin", None, "frames.bin is missing"),
        ("index.jsonl", None, "index.jsonl is missing"),
        ("store.json", None, "no experience"),
        ("store.json", about[:-9], "store.json is damaged"),
        ("store.json", b"[]", "store.json is damaged"),
        ("store.json", about.replace(b'"game"', b'"gone"'), "store.json is damaged"),
        ("store.json", about.replace(b'"format": 1', b'"format": 2'), "reads format 1"),
        ("index.jsonl", index.replace(b"frames", b"phrase", 1), "index.jsonl is damaged at byte 0"),
        ("index.jsonl", index.replace(b'"id":1', b'"id":5'), "index.jsonl is damaged at byte"),
        ("index.jsonl", b"\n" + index, "index.jsonl is damaged at byte 0"),
    ]
    for name, content, message in cases:
        with pytest.raises(DiamondGymError, match=message):
            EpisodeStore(broken(name, content))
    with pytest.raises(DiamondGymError, match=r"has an index but no store.json"):
        EpisodeStore(broken("store.json", None), "a", ABOUT)
