"""Whole stores: facts, pictures, merging, splitting without leaks, and Minari reading what was exported."""

import json
from pathlib import Path

import numpy as np
import pytest
import recordings as write
from stores import ABOUT, assert_same, episode

from diamond_gym.actions import Box, MultiDiscrete
from diamond_gym.cli import main
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.data.stores import together


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIAMOND_GYM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def a_store(folder: Path, count: int = 6) -> EpisodeStore:
    with EpisodeStore(folder, "a", ABOUT) as store:
        for i in range(count):
            store.append(episode(4 + i, i))
    return EpisodeStore(folder)


def test_from_a_name_to_facts_and_pictures(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    write.npz(home.parent / "1.npz", *write.walk(12, 1))
    assert main(["data", "import", "1.npz", "--name", "Squares"]) == 0
    assert "12 steps in 1 episodes" in capsys.readouterr().out
    assert main(["data", "info", "Squares", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["frames"], sum(found["actions"].values())) == (12, [16, 16, 3], 12)
    assert found["rewards"] == {"sum": 66.0, "not_zero": 11} and (found["ended"], found["truncated"]) == (1, 0)
    assert main(["data", "info", "Squares"]) == 0
    assert "episodes     1" in capsys.readouterr().out
    assert main(["data", "preview", "Squares", "--frames", "4"]) == 0
    sheet = np.asarray(Image.open("Squares.png"))
    assert sheet.shape == (96 + 12, 4 * (96 + 2), 3)
    store = EpisodeStore(home / "data" / "Squares")
    np.testing.assert_array_equal(sheet[3:96:6, 3:96:6], store[0].obs[0])
    assert sheet[96:, :96].max() > 200, "the action is drawn under the frame"
    assert Image.open("Squares.gif").n_frames > 6  # type: ignore[attr-defined]


def test_facts_of_vectors(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EpisodeStore(home / "data" / "known", "a", About.of("Catch", ABOUT.frame_shape, MultiDiscrete([3, 2]))).close()
    bare = About("Catch", ABOUT.frame_shape, 0, action_dtype="float32", action_shape=(2,))
    EpisodeStore(home / "data" / "bare", "a", bare).close()
    said = {}
    for name in ("known", "bare"):
        assert main(["data", "info", name]) == 0
        said[name] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("action")]
    assert said["known"] == ["action space MultiDiscrete([3 2])", "action type  int64 (2,)"]
    assert said["bare"] == ["action type  float32 (2,)"]


def test_merge(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = a_store(home / "data" / "a", 2), a_store(home / "data" / "b", 3)
    assert main(["data", "merge", "a", "b", "--name", "both"]) == 0
    both = EpisodeStore(home / "data" / "both")
    for mine, theirs in zip(both, [*a, *b], strict=True):
        assert_same(mine, Episode(theirs.obs, theirs.act, theirs.rew, theirs.end, theirs.trunc, mine.info))
    assert main(["data", "merge", "a", "b", "--name", "both"]) == 2
    for name in "ab":
        life = episode(3, 5)
        with EpisodeStore(home / "data" / name, "a") as store:
            store.write([(None, Episode(life.obs, life.act, info={"game": 7}))] * 2)
    assert main(["data", "merge", "a", "b", "--name", "games"]) == 0
    assert EpisodeStore(home / "data" / "games").before.tolist() == [-1, -1, -1, 2, -1, -1, -1, -1, 7]
    with EpisodeStore(home / "data" / "c", "a", About("Catch", (5, 5, 3), 3)):
        pass
    assert main(["data", "merge", "a", "c", "--name", "more"]) == 1
    assert "frame shape" in capsys.readouterr().err and not (home / "data" / "more").exists()
    about = About.of("Catch", ABOUT.frame_shape, Box([-2, -2], [2, 2]))
    EpisodeStore(home / "data" / "d", "a", about).close()
    assert main(["data", "merge", "a", "d", "--name", "more"]) == 1
    said = capsys.readouterr().err
    assert "holds experience with actions 0 to 2, not Box(-2.0, 2.0, (2,), float32): use another folder" in said
    assert main(["data", "merge", "a", "b", str(home / "data" / "a"), "--name", "more"]) == 2
    assert "is named twice" in capsys.readouterr().err and not (home / "data" / "more").exists()


def test_split_keeps_near_copies_and_games_together(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EpisodeStore(home / "data" / "all", "a", ABOUT) as store:
        for i in range(8):
            store.append(episode(6, i))
        near = episode(6, 0)
        store.append(Episode((near.obs // 2 * 2), near.act, near.rew, near.end, near.trunc))
        for i in (20, 21):
            life = episode(6, i)
            store.append(Episode(life.obs, life.act, life.rew, life.end, life.trunc, {"game": 1}))
    groups = together(store)
    assert groups[8] == groups[0] and groups[9] == groups[10] and len(set(groups)) == 9
    assert main(["data", "split", "all", "--share", "0.3"]) == 0
    train, test = (EpisodeStore(home / "data" / f"all-{side}") for side in ("train", "test"))
    assert 0.15 < test.num_steps / store.num_steps < 0.5 and train.num_steps + test.num_steps == store.num_steps
    sides = [{int(side.info(i)["source"]) for i in range(len(side))} for side in (train, test)]
    assert all(len({0, 8} & side) != 1 and len({9, 10} & side) != 1 for side in sides)
    assert main(["data", "split", "all"]) == 2, "the names are taken"
    a_store(home / "data" / "one", 1)
    assert main(["data", "split", "one"]) == 1
    assert "cannot be split" in capsys.readouterr().err


def test_pieces_of_one_recording_that_overlap_stay_together(home: Path) -> None:
    """Their beginnings and ends differ, so only the play that both hold shows it."""
    whole = episode(90, 0)
    with EpisodeStore(home / "data" / "cut", "a", ABOUT) as store:
        for first, last in ((0, 50), (40, 90), (20, 60)):  # 24 steps in common are a copy
            store.append(Episode(whole.obs[first : last + 1], whole.act[first:last]))
        store.append(episode(90, 1))
    assert together(store)[2] == together(store)[0] != together(store)[3]
    assert len(set(together(store))) == 3, "10 or 20 steps in common are none"


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("kind", ["numbers", "bool", "float32"])
def test_export_to_minari(
    home: Path, monkeypatch: pytest.MonkeyPatch, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(home / "minari"))
    about, rng = ABOUT, np.random.default_rng(0)
    if kind != "numbers":
        about = About("Catch", ABOUT.frame_shape, 0, action_dtype=kind, action_shape=(2,))
    with EpisodeStore(home / "data" / "all", "a", about) as store:
        for n in (3, 5):
            each = episode(n, n, end=n == 3)
            act = each.act if kind == "numbers" else rng.integers(0, 2, (n, 2)).astype(kind)
            store.append(Episode(each.obs, act, each.rew, each.end, each.trunc))
    assert main(["data", "export", "all", "mine/all-v0"]) == 0
    data = minari.load_dataset("mine/all-v0")
    assert (data.total_episodes, data.total_steps) == (2, 8)
    for mine, theirs in zip(data, EpisodeStore(home / "data" / "all"), strict=True):
        np.testing.assert_array_equal(mine.observations, theirs.obs)
        np.testing.assert_array_equal(mine.actions, theirs.act)
        np.testing.assert_allclose(mine.rewards, theirs.rew)
    assert [bool(e.terminations[-1]) for e in data] == [True, False] and [bool(e.truncations[-1]) for e in data] == [
        False,
        True,
    ]
    assert main(["data", "import", "mine/all-v0", "--name", "back"]) == 0
    assert [e.act.shape for e in EpisodeStore(home / "data" / "back")] == [e.act.shape for e in store]
    assert main(["data", "export", "all", "mine/all-v0"]) == 2, "the id is taken"
    for name in ("bad", "bad-v", "../all-v0", ""):
        assert main(["data", "export", "all", name]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"{name!r} is not a data set's id: call it NAME-v0")
