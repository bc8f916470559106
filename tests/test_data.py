"""The episode store: what goes in comes out, in pieces too, and what does not fit is refused."""

import multiprocessing
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import ABOUT, SHAPE, assert_same, episode, part, write_in_parts

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.data.segments import to_tensors
from diamond_gym.errors import DiamondGymError


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    episodes = [episode(n, n, end=n % 2 == 0, trunc=n == 5) for n in (1, 4, 5, 9)]
    with EpisodeStore(tmp_path / "deep" / "er", "a", ABOUT) as store:
        assert [store.append(each) for each in episodes] == [0, 1, 2, 3]
        for mine, theirs in zip(store, episodes, strict=True):  # the writer reads too
            assert_same(mine, theirs)
    store = EpisodeStore(tmp_path / "deep" / "er")
    assert (len(store), store.num_steps) == (4, 19)
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


def test_100k_steps_of_atari_fit_into_1_3_gb(tmp_path: Path) -> None:
    """Episodes of 30 steps are short for Atari: those of Breakout end with a life, after 40 on average."""
    with EpisodeStore(tmp_path, "a", About("Pong", (64, 64, 3), 6)) as store:
        zeros, n = np.zeros, 30
        store.append(Episode(zeros((n + 1, 64, 64, 3), np.uint8), zeros(n, np.int64), info={"first": True}))
    assert max(path.stat().st_size for path in tmp_path.iterdir()) * 100_000 / n <= 1.3e9


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (3,)), ("bool", (51,)), ("uint8", ()), ("int64", (2, 2))])
def test_actions_of_any_type_and_frames_of_any_size(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    rng, n = np.random.default_rng(0), 5
    obs = rng.integers(0, 256, (n + 1, 3, 5, 7), dtype=np.uint8)
    act = rng.integers(0, 2, (n, *shape)).astype(dtype)
    about = About("Data", (3, 5, 7), 0, action_dtype=dtype, action_shape=shape)
    with EpisodeStore(tmp_path, "a", about) as store:
        store.append(Episode(obs, act))  # no rewards, no ends
        with pytest.raises(ValueError, match="actions are"):
            store.append(Episode(obs, np.zeros((n, *shape, 2), dtype)))
    store = EpisodeStore(tmp_path)
    assert (store[0].act.dtype, store[0].unknown) == (np.dtype(dtype), ("rew", "end", "trunc"))
    np.testing.assert_array_equal(store[0].act, act)
    np.testing.assert_array_equal(store[0].obs, obs)
    assert not store[0].rew.any() and not store[0].end.any()
    batch = SegmentSampler(store, 4, 3, True, np.random.default_rng(1)).sample()
    assert (batch.act.shape, batch.act.dtype) == ((3, 4, *shape), np.dtype(dtype))
    for row, start in enumerate(batch.start.tolist()):
        for j in range(4):
            shown = act[start + j] if 0 <= start + j < n else np.zeros(shape)
            np.testing.assert_array_equal(batch.act[row, j], shown)
    assert to_tensors(batch).act.shape == (3, 4, *shape)
    with pytest.raises(DiamondGymError, match="actions of type"):
        EpisodeStore(tmp_path, "a", About("Data", (3, 5, 7), 0, action_dtype="int8", action_shape=shape))


def test_an_unfinished_episode_can_be_continued(tmp_path: Path) -> None:
    a, b = episode(10, 1), episode(9, 2, end=False)
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.append(part(a, 0, 3))
        store.append(part(b, 0, 2))  # comes in between
        assert not store[0].end.any()
        store.extend(0, part(a, 3, 4))
        store.extend(0, part(a, 4, 10))
        store.extend(1, part(b, 2, 9))
        with pytest.raises(ValueError, match="episode 0 has ended"):
            store.extend(0, part(b, 0, 2))
        assert store.num_steps == 19
        assert_same(store[0], a)
        assert_same(store[1], b)
    store = EpisodeStore(tmp_path)
    assert_same(store[0], a)
    assert_same(store[1], b)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5


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


def test_several_writers_at_a_time(tmp_path: Path) -> None:
    here = EpisodeStore(tmp_path, "a", ABOUT)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        others = pool.map_async(write_in_parts, [(tmp_path, seed) for seed in (100, 200)], chunksize=1)
        while not others.ready():
            here.append(episode(2, len(here)))
        assert others.get() == [list(range(10))] * 2, "each numbers what it has seen"
    mine = len(here)
    assert here.refresh() and len(here) == mine + 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = EpisodeStore(tmp_path)
    for seed in (100, 200):
        found = [e for e in store if e.info.get("writer") == seed]
        for i, each in enumerate(found):
            expected = episode(5, seed + i, end=False)
            np.testing.assert_array_equal(each.act, np.tile(expected.act, 2))
    assert len(store) == mine + 20 and store.num_steps == 2 * mine + 200


def test_back_to_a_mark(tmp_path: Path) -> None:
    whole = episode(9, 1)
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.append(part(whole, 0, 3))
        mark, reader = store.mark, EpisodeStore(tmp_path)
        store.extend(0, part(whole, 3, 5))
        store.append(episode(4, 2))
        reader.refresh()
    with EpisodeStore(tmp_path, "a", ABOUT, until=mark) as store:
        assert (len(store), store.num_steps, store.mark) == (1, 3, mark)
        store.extend(0, part(whole, 3, 9))
        assert_same(store[0], whole)
    assert reader.refresh()
    assert_same(reader[0], whole)
    with EpisodeStore(tmp_path, "a", ABOUT, until=0) as store:
        assert len(store) == 0
        store.append(whole)
    other = replace(ABOUT, game="Other", frame_shape=(9, 9, 1))
    with pytest.raises(DiamondGymError, match="Other"), EpisodeStore(tmp_path, "a", other, until=store.mark):
        pass
    assert len(EpisodeStore(tmp_path)) == 1
    with EpisodeStore(tmp_path, "a", other, until=0) as store:
        assert len(store) == 0 and store.about.game == "Other"


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
        with pytest.raises(ValueError, match="actions are int64"):
            store.append(Episode(good.obs, good.act + 0.5, good.rew, good.end, good.trunc))
        with pytest.raises(ValueError, match="actions lie in 0..2"):
            store.append(Episode(good.obs, good.act + 3, good.rew, good.end, good.trunc))
        assert len(store) == 0
        assert not list(tmp_path.glob("*.safetensors"))


def test_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        from diamond_gym.data import EpisodeStore
        print(sum(len(episode) for episode in EpisodeStore({str(tmp_path)!r})))
    """
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        store.write([(None, episode(1, seed)) for seed in range(20)])
        store.write([(None, episode(1, seed)) for seed in range(30)])
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True)
    assert done.stdout == "50\n"


def test_the_index_is_only_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = [episode(n, n) for n in (2, 3, 4)]
    with EpisodeStore(tmp_path, "a", ABOUT) as store:
        for each in episodes[:2]:
            store.append(each)
    with monkeypatch.context() as patch:
        patch.setattr("diamond_gym.data.episode_files.read_piece", None)  # nothing but the index is read
        assert EpisodeStore(tmp_path).lengths.tolist() == [2, 3]
    (tmp_path / "index.cache").rename(tmp_path / "kept")
    with EpisodeStore(tmp_path, "a") as store:
        store.append(episodes[2])
    index = (tmp_path / "index.cache").read_bytes()
    for content in (
        index,
        (tmp_path / "kept").read_bytes(),
        b"[]",
        b'{"x": 3}',
        index[:50],
        None,
    ):  # old, damaged, gone
        (tmp_path / "index.cache").unlink()
        if content is not None:
            (tmp_path / "index.cache").write_bytes(content)
        for mine, theirs in zip(EpisodeStore(tmp_path), episodes, strict=True):
            assert_same(mine, theirs)
