"""The episode store: what goes in comes out, whatever interrupts the writing."""

import errno
import json
import multiprocessing
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

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.episode_files import STEP
from diamond_gym.errors import DiamondGymError

SHAPE = (4, 3, 2)  # H, W, C, all different
posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
ABOUT = About("Catch", SHAPE, 3, ("LEFT", "STAY", "RIGHT"))


def episode(n: int, seed: int = 0, *, end: bool = True, trunc: bool = False, first: bool = True) -> Episode:
    rng = np.random.default_rng(seed)
    last = np.arange(n) == n - 1
    return Episode(
        rng.integers(0, 256, (n + 1, *SHAPE), dtype=np.uint8),
        rng.integers(0, 3, n),
        rng.normal(size=n).astype(np.float32),
        last & end,
        last & trunc,
        {"first": first},
    )


def part(whole: Episode, start: int, stop: int) -> Episode:
    return Episode(
        whole.obs[start : stop + 1],
        whole.act[start:stop],
        whole.rew[start:stop],
        whole.end[start:stop],
        whole.trunc[start:stop],
        whole.info,
    )


def assert_same(a: Episode, b: Episode) -> None:
    for name in ("obs", "act", "rew", "end", "trunc"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype, name
        np.testing.assert_array_equal(x, y)
    assert a.info == b.info


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    episodes = [episode(n, n, end=n % 2 == 0, trunc=n == 5) for n in (1, 4, 5, 9)]
    with EpisodeStore(tmp_path / "deep" / "er", "a", ABOUT) as store:
        assert [store.append(each) for each in episodes] == [0, 1, 2, 3]
        for mine, theirs in zip(store, episodes, strict=True):  # the writer reads too
            assert_same(mine, theirs)
    store = EpisodeStore(tmp_path / "deep" / "er")
    assert (len(store), store.num_episodes, store.num_steps) == (4, 4, 19)
    assert store.lengths.tolist() == [1, 4, 5, 9]
    for mine, theirs in zip(store, episodes, strict=True):
        assert_same(mine, theirs)
    assert_same(store[-1], episodes[3])
    assert store.info(1) == {"first": True}
    with pytest.raises(IndexError):
        store[4]
    about = store.about
    assert (about.game, about.frame_shape, about.action_meanings) == (
        "Catch",
        SHAPE,
        ("LEFT", "STAY", "RIGHT"),
    )
    assert about.created
    assert "numpy" in about.versions
    with pytest.raises(DiamondGymError, match="not open for writing"):
        store.append(episodes[0])


def test_frames_lie_as_the_networks_want_them(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.append(episode(3))
        frames = store.frames(np.array([[0, 0]]), np.array([[0, 3]]))
        assert frames.shape == (1, 2, 2, 4, 3)
        np.testing.assert_array_equal(frames[0, 1], store[0].obs[3].transpose(2, 0, 1))


def test_100k_steps_of_atari_fit_into_1_3_gb() -> None:
    """Episodes of 30 steps are short for Atari: those of Breakout end with a life, after 40 on average."""
    frames, index = 64 * 64 * 3, 150
    assert 100_000 * (frames + STEP.itemsize) + 100_000 / 30 * (frames + index) <= 1.3e9


def test_an_unfinished_episode_can_be_continued(tmp_path: Path) -> None:
    a, b = episode(10, 1), episode(9, 2, end=False)
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.append(part(a, 0, 3))
        store.append(part(b, 0, 2))  # comes in between, so that a lies in two places
        assert not store[0].end.any()
        store.extend(0, part(a, 3, 4))
        store.extend(0, part(a, 4, 10))  # where the one before ends: no third place
        store.extend(1, part(b, 2, 9))
        with pytest.raises(ValueError, match="episode 0 has ended"):
            store.extend(0, part(b, 0, 2))
        assert store.num_steps == 19
        assert_same(store[0], a)
        assert_same(store[1], b)
    store = EpisodeStore(tmp_path)
    assert_same(store[0], a)
    assert_same(store[1], b)
    assert (tmp_path / "frames.bin").stat().st_size == (11 + 10) * 24
    assert json.loads((tmp_path / "index.jsonl").read_text().splitlines()[3])["frames"] == [[0, 4], [7, 7]]


def test_several_pieces_at_once(tmp_path: Path) -> None:
    a, b = episode(6, 1), episode(5, 2)
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.append(part(a, 0, 2))
        assert store.write([(0, part(a, 2, 4)), (None, b), (0, part(a, 4, 6)), (None, a)]) == [0, 1, 0, 2]
        for each, whole in zip(store, (a, b, a), strict=True):
            assert_same(each, whole)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.booleans()), max_size=20))
def test_any_interleaving(tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int, bool]]) -> None:
    """Five games side by side, written piece by piece, are what a list of whole episodes would be."""
    folder = tmp_path_factory.mktemp("store")
    wholes, starts, open_rows = list[list[Episode]](), dict[int, int](), dict[int, int]()
    with EpisodeStore(folder, "a", ABOUT) as store:
        for seed, (row, n, end) in enumerate(moves):
            piece = episode(n, seed, end=end)
            number = open_rows.get(row)
            if number is not None:
                piece.obs[0] = wholes[number][-1].obs[-1]
            written = store.write([(number, piece)])[0]
            if number is None:
                wholes.append([])
            wholes[written].append(piece)
            open_rows[row] = written
            if end:
                del open_rows[row]
        starts.clear()
    store = EpisodeStore(folder)
    assert len(store) == len(wholes)
    for mine, pieces in zip(store, wholes, strict=True):
        obs = np.concatenate([pieces[0].obs, *(piece.obs[1:] for piece in pieces[1:])])
        np.testing.assert_array_equal(mine.obs, obs)
        np.testing.assert_array_equal(mine.act, np.concatenate([piece.act for piece in pieces]))
        np.testing.assert_array_equal(mine.end, np.concatenate([piece.end for piece in pieces]))


def test_readers_see_what_is_added(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        reader = EpisodeStore(tmp_path)
        assert len(reader) == 0
        assert not reader.refresh()
        whole = episode(6)
        store.append(part(whole, 0, 2))
        assert reader.refresh()
        version = reader.version
        first = reader[0]
        store.extend(0, part(whole, 2, 6))
        assert_same(reader[0], first)  # until it looks again
        assert reader.refresh()
        assert reader.version > version
        assert_same(reader[0], whole)


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
        from tests.test_data import *
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


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = EpisodeStore(tmp_path, "a", ABOUT)
    with pytest.raises(DiamondGymError, match="somebody else is writing"):
        EpisodeStore(tmp_path, "a", ABOUT)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert "somebody else" in pool.apply(_message_of_opening, (tmp_path,))
        first.close()
        assert pool.apply(_message_of_opening, (tmp_path,)) == ""
    EpisodeStore(tmp_path, "a").close()
    first.close()  # again, no harm


def _message_of_opening(folder: Path) -> str:
    try:
        EpisodeStore(folder, "a").close()
    except DiamondGymError as error:
        return str(error)
    return ""


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
        from tests.test_data import *
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


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (About("Pong", SHAPE, 3), "holds experience with game Catch, not Pong"),
        (About("Catch", (4, 3, 1), 3), r"with frame shape \(4, 3, 2\), not \(4, 3, 1\)"),
        (About("Catch", SHAPE, 4), "with number of actions 3, not 4"),
    ],
)
def test_experience_of_another_kind(tmp_path: Path, about: About, message: str) -> None:
    EpisodeStore(tmp_path, "a", ABOUT).close()
    with pytest.raises(DiamondGymError, match=message):
        EpisodeStore(tmp_path, "a", about)
    EpisodeStore(tmp_path, "a", ABOUT).close()  # the lock was let go


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


def test_pieces_that_do_not_fit(tmp_path: Path) -> None:
    good = episode(3)
    with pytest.raises(ValueError, match=r"obs is uint8 \(4"):
        Episode(good.obs[1:], good.act, good.rew, good.end, good.trunc)
    with pytest.raises(ValueError, match=r"obs is uint8"):
        Episode(good.obs.astype(np.float32), good.act, good.rew, good.end, good.trunc)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"N > 0"):
        part(good, 1, 1)
    with pytest.raises(ValueError, match="only an episode's last step"):
        Episode(good.obs, good.act, good.rew, good.end[::-1], good.trunc)
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        with pytest.raises(ValueError, match="frames are"):
            store.append(Episode(good.obs[:, 1:], good.act, good.rew, good.end, good.trunc))
        with pytest.raises(ValueError, match="actions lie in 0..2"):
            store.append(Episode(good.obs, good.act + 3, good.rew, good.end, good.trunc))
        assert len(store) == 0
        assert (tmp_path / "frames.bin").stat().st_size == 0
