"""Every format, in files that its own library wrote, becomes the episodes that were recorded."""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import recordings as write
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import ABOUT, assert_same, episode

from diamond_gym.data import Episode, EpisodeStore
from diamond_gym.data.importing import Import, ImportOptions

A, B = write.walk(12, 1), write.walk(7, 2)


def imported(source: Path | str, into: Path, wanted: str | None = None, **options: object) -> EpisodeStore:
    return Import(Path(source), into, "walk", ImportOptions(**options), wanted).run()  # type: ignore[arg-type]


def assert_holds(store: EpisodeStore, episodes: list[tuple[np.ndarray, np.ndarray]], drop: int = 0) -> None:
    """The frames and actions, without the last `drop` steps."""
    assert len(store) == len(episodes)
    for mine, (frames, act) in zip(store, episodes, strict=True):
        n = len(act) - drop
        np.testing.assert_array_equal(mine.act, act[:n])
        np.testing.assert_array_equal(mine.obs, frames[: n + 1])


def test_csgo(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    acts = [np.random.default_rng(i).integers(0, 2, (len(f), 51)).astype(np.float64) for i, (f, _) in enumerate((A, B))]
    (tmp_path / "in").mkdir()
    for i, ((frames, _), act) in enumerate(zip((A, B), acts, strict=True)):
        write.csgo_file(tmp_path / "in" / f"hdf5_dm_{9 + i}.hdf5", frames, act)
    store = imported(tmp_path / "in", tmp_path / "out")
    assert (store.about.num_actions, store.about.action_dtype, store.about.action_shape) == (0, "bool", (51,))
    assert_holds(store, [(A[0], acts[0]), (B[0], acts[1])], drop=1)
    assert store[0].unknown == ("rew", "end", "trunc") and store.info(1)["source"] == "hdf5_dm_10.hdf5"


def test_npz(tmp_path: Path) -> None:
    write.npz(tmp_path / "1.npz", *A)
    store = imported(tmp_path / "1.npz", tmp_path / "out")
    assert_holds(store, [A])
    assert (store.about.num_actions, store[0].end[-1], store[0].unknown) == (3, True, ())
    np.testing.assert_array_equal(store[0].rew, np.arange(12, dtype=np.float32))


def test_npz_with_words_for_actions(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", obs=B[0], act=B[1] % 2, meanings=["NOOP", "LEFT", "RIGHT"])
    about = imported(tmp_path, tmp_path / "out").about
    assert (about.num_actions, about.action_meanings) == (3, ("NOOP", "LEFT", "RIGHT"))


def test_a_store_of_ours(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "in", "a", ABOUT) as store:
        for i, n in enumerate((3, 9, 1)):
            store.append(episode(n, i, end=i != 1, trunc=i == 1))
        store.append(Episode(store[0].obs, store[0].act))
        store.append(episode(4, 7, end=False))
        store.extend(
            4, Episode(np.concatenate([store[4].obs[-1:], store[1].obs[1:]]), store[1].act, end=store[1].trunc)
        )
    new = imported(tmp_path / "in", tmp_path / "out")
    assert new.about.action_meanings == ABOUT.action_meanings and new.about.num_actions == 3
    for mine, theirs in zip(new, EpisodeStore(tmp_path / "in"), strict=True):
        assert mine.unknown == theirs.unknown
        assert_same(mine, Episode(theirs.obs, theirs.act, theirs.rew, theirs.end, theirs.trunc, mine.info))
        assert mine.info == {**theirs.info, "source": mine.info["source"]}


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("jpeg", [False, True])
def test_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpeg: bool) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "cache"))
    name = write.minari_set(tmp_path / "cache", [A, B], jpeg)
    for i, source in enumerate((tmp_path / "cache" / name, tmp_path / "cache" / name / "data", name)):
        store = imported(source, tmp_path / f"out{i}")
        if not jpeg:
            assert_holds(store, [A, B])
        assert np.abs(store[0].obs.astype(int) - A[0]).mean() < 20
        assert (store.about.num_actions, store[1].end[-1], store[1].rew[-1]) == (3, True, 6.0)


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_minari_in_arrow_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari"), pytest.importorskip("pyarrow")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "cache"))
    name = write.minari_set(tmp_path / "cache", [A, B], data_format="arrow")
    for i, source in enumerate((tmp_path / "cache" / name, name)):
        store = imported(source, tmp_path / f"out{i}")
        assert_holds(store, [A, B])
        assert (store.about.num_actions, store[1].end[-1], store[1].rew[-1]) == (3, True, 6.0)


@pytest.mark.filterwarnings("ignore")  # Minari's, about what a data set should say of itself
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_what_minaris_data_collector_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_format: str) -> None:
    minari, _ = pytest.importorskip("minari"), pytest.importorskip("jax", reason="DataCollector wants minari[create]")
    import gymnasium as gym

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "cache"))
    env, played = minari.DataCollector(gym.make("DiamondGym/Catch-v0"), data_format=data_format), []
    for seed in range(3):
        frames, acts, rewards, over = [env.reset(seed=seed)[0]], [], [], False
        while not over:
            acts.append(int(env.action_space.sample()))
            frame, reward, end, trunc, _ = env.step(acts[-1])
            frames.append(frame)
            rewards.append(reward)
            over = end or trunc
        played.append((np.stack(frames), np.array(acts), rewards))
    env.create_dataset(dataset_id="test/catch-v0")
    store = imported("test/catch-v0", tmp_path / "out")
    assert_holds(store, [(frames, acts) for frames, acts, _ in played])
    for mine, (_, _, rewards) in zip(store, played, strict=True):
        assert mine.rew.tolist() == rewards and mine.end[-1] and mine.unknown == ()


@pytest.mark.parametrize("v3", [False, True])
def test_lerobot(tmp_path: Path, v3: bool) -> None:
    pytest.importorskip("av"), pytest.importorskip("pyarrow")
    episodes = [
        (frames, np.random.default_rng(i).normal(size=(len(frames), 2))) for i, (frames, _) in enumerate((A, B))
    ]
    write.lerobot(tmp_path / "in", episodes, v3)
    store = imported(tmp_path / "in", tmp_path / "out")
    assert_holds(store, [(frames, act.astype(np.float32)) for frames, act in episodes], drop=1)
    assert (store.about.action_shape, store.about.action_dtype) == ((2,), "float32")


def test_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    folder = tmp_path / "meine Vidéos ü"
    folder.mkdir()
    for name, (frames, act) in (("b 2.mp4", A), ("b 10.mp4", B)):
        write.video(folder / name, frames)
        write.csv_of(folder / name.replace("mp4", "csv"), act, reward=np.arange(len(act)))
    store = imported(folder, tmp_path / "öut put")
    assert_holds(store, [A, B])
    assert store[0].rew.tolist() == list(range(12)) and store[0].unknown == ("end", "trunc")
    assert store.about.num_actions == 3


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi"])
def test_videos_as_ffmpeg_makes_them_by_default(tmp_path: Path, suffix: str) -> None:
    """With loss and, but for AVI, frames that refer to later ones."""
    pytest.importorskip("av")
    write.video(tmp_path / f"1.{suffix}", A[0], lossless=False)
    write.csv_of(tmp_path / "1.csv", A[1])
    store = imported(tmp_path, tmp_path / "out")
    assert (store.lengths.tolist(), store[0].act.tolist()) == ([12], A[1].tolist())
    others = np.abs(store[0].obs[:, None].astype(int) - A[0][None]).mean((2, 3, 4))  # of each frame from each frame
    assert (others.diagonal() <= others.min(1) + 1).all() and others.diagonal().max() < 25


def test_pictures(tmp_path: Path) -> None:
    for name, each in (("ep2", A), ("ep10", B)):
        write.pictures(tmp_path / "in" / name, *each)
    assert_holds(imported(tmp_path / "in", tmp_path / "out"), [A, B])


def test_words_and_columns_of_actions(tmp_path: Path) -> None:
    from diamond_gym.data.importers.actions import read_actions

    (tmp_path / "a.csv").write_text("time,action,end\n0,left,0\n1,right,\n2,left,1\n")
    (tmp_path / "b.jsonl").write_text('{"action": "jump"}\n')
    (steps, other), num_actions, words = read_actions([tmp_path / "a.csv", tmp_path / "b.jsonl"])
    assert (steps.act.tolist(), other.act.tolist(), num_actions) == ([1, 2, 1], [0], 3)
    assert (words, steps.end, other.end) == (("jump", "left", "right"), True, None)
    (tmp_path / "c.csv").write_text("gas,wheel\n0,0.5\n1,-1\n")
    (steps,), num_actions, _ = read_actions([tmp_path / "c.csv"])
    assert (steps.act.dtype, steps.act.tolist(), num_actions) == (np.float32, [[0, 0.5], [1, -1]], 0)
    (tmp_path / "d.jsonl").write_text('{"action": [0, 1]}\n{"action": [1, 1]}\n')
    (steps,), _, _ = read_actions([tmp_path / "d.jsonl"])
    assert (steps.act.dtype, steps.act.tolist()) == (np.bool_, [[False, True], [True, True]])


def test_size_crop_gray(tmp_path: Path) -> None:
    write.npz(tmp_path / "1.npz", *A)
    small = imported(tmp_path / "1.npz", tmp_path / "small", size=(8, 4))
    assert small.about.frame_shape == (8, 4, 3)
    np.testing.assert_allclose(small[0].obs[3], A[0][3].reshape(8, 2, 4, 4, 3).mean((1, 3)), atol=1)
    part = imported(tmp_path / "1.npz", tmp_path / "part", crop=(4, 2, 8, 12))
    np.testing.assert_array_equal(part[0].obs, A[0][:, 4:12, 2:14])
    gray = imported(tmp_path / "1.npz", tmp_path / "gray", gray=True)
    np.testing.assert_allclose(gray[0].obs[..., 0], A[0] @ [0.299, 0.587, 0.114], atol=1)


def test_fps_leaves_out_frames(tmp_path: Path) -> None:
    pytest.importorskip("av")
    write.video(tmp_path / "1.mp4", A[0], fps=30)
    write.csv_of(tmp_path / "1.csv", A[1], reward=np.arange(12))
    store = imported(tmp_path / "1.mp4", tmp_path / "out", fps=6)
    np.testing.assert_array_equal(store[0].obs, A[0][[0, 5, 10]])
    assert (store[0].act.tolist(), store[0].rew.tolist()) == (A[1][[0, 5]].tolist(), [10, 35])


@pytest.mark.parametrize("offset", [-2, -1, 1, 3])
def test_action_offset(tmp_path: Path, offset: int) -> None:
    """Actions written `offset` steps too late come back to the frames at which they were taken."""
    frames, act = A
    late = np.roll(act, offset)
    write.npz(tmp_path / "1.npz", frames, late)
    store = imported(tmp_path / "1.npz", tmp_path / "out", action_offset=offset)
    first, n = max(0, -offset), len(act) - abs(offset)
    np.testing.assert_array_equal(store[0].act, act[first : first + n])
    np.testing.assert_array_equal(store[0].obs, frames[first : first + n + 1])
    assert store[0].rew.tolist() == list(range(first, first + n)) and store[0].end[-1] == (offset <= 0)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trips(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any frames, any type of actions, in pieces of any size: what went in comes out."""
    folder = tmp_path_factory.mktemp("trip")
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3])))
    kind = data.draw(st.sampled_from(["int64", "float32", "bool"]))
    act_shape = data.draw(st.sampled_from([(), (2,)])) if kind == "int64" else (2,)
    rng, written = np.random.default_rng(data.draw(st.integers(0, 99))), []
    for i in range(data.draw(st.integers(1, 3))):
        n = data.draw(st.integers(1, 9))
        frames, act = rng.integers(0, 256, (n + 1, *shape), np.uint8), rng.integers(0, 2, (n, *act_shape)).astype(kind)
        write.npz(folder / f"{i}.npz", frames, act, end=data.draw(st.booleans()))
        written.append((frames, act))
    piece = data.draw(st.integers(1, 10)) * int(np.prod(shape))
    with patch("diamond_gym.data.importing._PIECE_AT_MOST", piece):
        assert_holds(imported(folder, folder / "out"), written)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_tables_of_actions_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Numbers written as CSV or JSON lines come back, of the narrowest type that holds them all."""
    from diamond_gym.data.importers.actions import read_actions

    folder, columns = tmp_path_factory.mktemp("tables"), data.draw(st.integers(1, 3))
    number = data.draw(st.sampled_from([st.integers(0, 1), st.integers(0, 99), st.floats(-9, 9, width=32)]))
    rows = data.draw(st.lists(st.lists(number, min_size=columns, max_size=columns), min_size=1, max_size=9))
    rewards = data.draw(st.lists(st.floats(-9, 9, width=32), min_size=len(rows), max_size=len(rows)))
    names = ["action"] if columns == 1 else [f"key{i}" for i in range(columns)]
    with open(folder / "a.csv", "w") as file:
        file.write(",".join([*names, "reward"]) + "\n")
        file.writelines(",".join(map(str, [*row, r])) + "\n" for row, r in zip(rows, rewards, strict=True))
    with open(folder / "b.jsonl", "w") as file:
        each = [dict(zip([*names, "reward"], [*row, r], strict=True)) for row, r in zip(rows, rewards, strict=True)]
        file.writelines(json.dumps(row) + "\n" for row in each)
    found, num_actions, _ = read_actions([folder / "a.csv", folder / "b.jsonl"])
    wanted = np.array(rows, np.float64)
    for steps in found:
        np.testing.assert_array_equal(steps.act.reshape(wanted.shape), wanted)
        np.testing.assert_array_equal(steps.rew, np.array(rewards, np.float32))
        assert steps.act.dtype.kind == "f" or (wanted == wanted.round()).all()
    assert num_actions == (int(wanted.max()) + 1 if columns == 1 and (wanted == wanted.round()).all() else 0)
