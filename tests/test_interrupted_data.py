"""The episode store when its writing is interrupted, its disk is full or its files are damaged."""

import errno
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import ABOUT, assert_same, episode

from diamond_gym.data import EpisodeStore
from diamond_gym.errors import DiamondGymError

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


@settings(max_examples=40)
@given(files=st.integers(0, 2), half=st.integers(0, 400))
def test_killed_while_writing(tmp_path_factory: pytest.TempPathFactory, files: int, half: int) -> None:
    """However far the writing came, all that was written before is there, and writing goes on."""
    folder = tmp_path_factory.mktemp("store")
    old = [episode(3, 1), episode(5, 2, end=False)]
    with EpisodeStore(folder, "a", ABOUT) as store:
        for each in old:
            store.append(each)
        more = episode(7, 3)
        more.obs[0] = old[1].obs[-1]
        store.write([(1, more), (None, episode(4, 4))])
    # Files are renamed in order: the first so many are there, of the next there is some beside its place.
    for path in sorted(folder.glob("*.safetensors"))[2 + files :]:
        (folder / f".{path.stem}.tmp.safetensors").write_bytes(path.read_bytes()[:half])
        path.unlink()
    expected_steps = 8 + (0, 7, 11)[files]
    assert EpisodeStore(folder).num_steps == expected_steps
    with EpisodeStore(folder, "a", ABOUT) as store:
        assert_same(store[0], old[0])
        np.testing.assert_array_equal(store[1].obs[:6], old[1].obs)
        assert store.num_steps == expected_steps
        new = episode(2, 9)
        assert store.append(new) == (3 if files == 2 else 2)
        assert_same(store[-1], new)
    assert_same(EpisodeStore(folder)[-1], new)


def test_what_was_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        mark = store.mark
    old, new = (tmp_path / f".{i}-x.tmp.safetensors" for i in range(2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    EpisodeStore(tmp_path, "a").close()
    assert (old.exists(), new.exists()) == (False, True), "another writer may be at it"
    EpisodeStore(tmp_path, "a", until=mark).close()
    assert not new.exists(), "the folder is ours alone"


@settings(max_examples=60)
@given(number=st.integers(0, 2), cut=st.floats(0, 1))
def test_files_that_lost_their_tail(tmp_path_factory: pytest.TempPathFactory, number: int, cut: float) -> None:
    """A truncated file is named and left out."""
    folder = tmp_path_factory.mktemp("store")
    episodes = [episode(n, n) for n in (3, 5, 2)]
    with EpisodeStore(folder, "a", ABOUT) as store:
        for each in episodes:
            store.append(each)
    path = sorted(folder.glob("*.safetensors"))[number]
    os.truncate(path, int(cut * (path.stat().st_size - 1)))
    left = episodes[:number] + episodes[number + 1 :]
    for mode in ("r", "a"):
        with pytest.warns(UserWarning, match=f"{path.name} is left out: ") as warned:
            store = EpisodeStore(folder, mode)  # type: ignore[arg-type]
        assert len(warned) == 1 and "\n" not in str(warned[0].message)
        assert len(store) == 2 and not store.refresh()
        for mine, theirs in zip(store, left, strict=True):
            assert_same(mine, theirs)
    store.append(episodes[0])
    assert_same(store[2], episodes[0])


@settings(max_examples=150)
@given(data=st.data())
def test_any_damage_is_one_warning_and_no_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("store")
    with EpisodeStore(folder, "a", ABOUT) as store:
        store.append(episode(3, 1))
    path = next(folder.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 8 + int.from_bytes(content[:8], "little") % len(content)))
        content[at % len(content)] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        store = EpisodeStore(folder)
        assert len(store) + len(warned) == 1
        for each in store:
            assert len(each) == 3


def test_a_piece_whose_beginning_is_lost(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.append(episode(3, 1, end=False))
        store.extend(0, episode(4, 2, end=False))
        store.extend(0, episode(5, 3))
    first, second, third = sorted(tmp_path.glob("*.safetensors"))
    second.rename(tmp_path / "second")
    with pytest.warns(UserWarning, match=f"{third.name} is left out: what comes before it in its episode is missing"):
        assert EpisodeStore(tmp_path).num_steps == 3
    (tmp_path / "second").rename(second)
    first.unlink()
    with pytest.warns(UserWarning, match="what comes before it"):
        assert EpisodeStore(tmp_path).num_steps == 0


@posix
def test_killed_process(tmp_path: Path) -> None:
    code = """
        import os, sys
        from diamond_gym.data import EpisodeStore
        from tests.stores import ABOUT, episode
        store = EpisodeStore(sys.argv[1], "a", ABOUT)
        store.append(episode(3, 1))
        os.replace = lambda *_: os.kill(os.getpid(), 9)  # the next one is written, but not yet in its place
        store.append(episode(3, 2))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.returncode == -9
    with EpisodeStore(tmp_path, "a") as store:
        assert_same(store[0], episode(3, 1))
        assert len(store) == 1


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_or_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, count: int, error: BaseException
) -> None:
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.append(episode(3, 1))
        store.append(episode(4, 2, end=False))
        names, calls = sorted(path.name for path in tmp_path.iterdir()), iter(range(1, 9))
        usual = getattr(os, where)

        def full(*words: object) -> object:
            if next(calls) == count:
                raise error
            return usual(*words)

        with monkeypatch.context() as patch:
            patch.setattr(os, where, full)
            expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DiamondGymError
            with pytest.raises(expected, match="the disk is full" if expected is DiamondGymError else None):
                store.write([(None, episode(9, 3)), (1, episode(2, 4))])
        assert sorted(path.name for path in tmp_path.iterdir()) == names
        assert (len(store), len(EpisodeStore(tmp_path))) == (2, 2)
        assert_same(store[1], episode(4, 2, end=False))
        store.append(episode(5, 5))  # there is room again
    assert_same(EpisodeStore(tmp_path)[2], episode(5, 5))


def test_interrupted_right_after_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        take, calls = store._take, iter(range(1, 9))

        def interrupted(*words: Any) -> int:
            number = take(*words)
            if next(calls) == 1:
                raise KeyboardInterrupt
            return number

        monkeypatch.setattr(store, "_take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.write([(None, episode(3, 1)), (None, episode(3, 2))])
        assert len(store) == 0
        assert store.append(episode(4, 2)) == 0
        assert_same(store[0], episode(4, 2))
    assert len(EpisodeStore(tmp_path)) == 1


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
    assert len(list(tmp_path.iterdir())) == 2, "no litter"


def test_damage_is_named(tmp_path: Path) -> None:
    for mode in ("r", "a"):
        with pytest.raises(DiamondGymError, match="no experience at .*nowhere"):
            EpisodeStore(tmp_path / "nowhere", mode)  # type: ignore[arg-type]
    with pytest.raises(DiamondGymError, match="no experience"):
        EpisodeStore(tmp_path, "a")
    with pytest.raises(ValueError, match="mode must be 'r' or 'a', not 'w'"):
        EpisodeStore(tmp_path, "w")  # type: ignore[arg-type]
    good = tmp_path / "good"
    with EpisodeStore(good, "a", ABOUT) as store:
        store.append(episode(2))
    about = (good / "store.json").read_bytes()
    cases = [
        (about[:-9], "store.json is damaged"),
        (b"[]", "store.json is damaged"),
        (about.replace(b'"game"', b'"gone"'), "store.json is damaged"),
        (about.replace(b'"int64"', b'"object"'), "store.json is damaged"),
        (about.replace(b"4,", b"-4,"), "store.json is damaged"),
        (about.replace(b'"format": 2', b'"format": 3'), "reads format 2"),
    ]
    for content, message in cases:
        (good / "store.json").write_bytes(content)
        with pytest.raises(DiamondGymError, match=message):
            EpisodeStore(good)
    (good / "store.json").unlink()
    with pytest.raises(DiamondGymError, match="no experience"):
        EpisodeStore(good)
    with pytest.raises(DiamondGymError, match=r"has episodes but no store.json"):
        EpisodeStore(good, "a", ABOUT)
