import errno

import numpy as np
import pytest
from stubs import make_starts

import diamond_gym.starts
from diamond_gym.errors import DamagedModel, DiamondGymError
from diamond_gym.starts import Starts, load_starts, save_starts


def test_round_trip(tmp_path):
    starts = make_starts()
    save_starts(tmp_path / "a.starts.npz", starts)
    assert [p.name for p in tmp_path.iterdir()] == ["a.starts.npz"]
    read = load_starts(tmp_path / "a.starts.npz")
    for name in ("obs", "act", "first"):
        np.testing.assert_array_equal(getattr(read, name), getattr(starts, name))
        assert getattr(read, name).dtype == getattr(starts, name).dtype


def test_pool():
    starts = make_starts(6)
    assert starts.pool().tolist() == [0, 1, 2, 3, 4, 5]
    assert starts.pool("first").tolist() == [0, 3]
    assert starts.pool(5).tolist() == [5]
    for wrong, words in ((6, "there are 6"), (-1, "does not exist"), ("last", '"any", "first" or an index')):
        with pytest.raises(DiamondGymError, match=words):
            starts.pool(wrong)
    later = Starts(starts.obs, starts.act, np.zeros(6, dtype=bool))
    with pytest.raises(DiamondGymError, match="none of the starts begins a game"):
        later.pool("first")


def test_starts_that_do_not_fit_together_are_refused():
    starts = make_starts()
    for obs, act, first in (
        (starts.obs[:0], starts.act[:0], starts.first[:0]),
        (starts.obs.astype(np.float32), starts.act, starts.first),
        (starts.obs, starts.act[:, 1:], starts.first),
        (starts.obs, starts.act, starts.first[1:]),
        (starts.obs, starts.act, starts.first.astype(int)),
    ):
        with pytest.raises(DiamondGymError, match=r"starts .* got"):
            Starts(obs, act, first)


def test_a_damaged_file_is_one_clear_line(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(DamagedModel, match="there is no file of starts"):
        load_starts(path)
    save_starts(path, make_starts())
    whole = path.read_bytes()
    middle = whole[:500] + bytes(255 - b for b in whole[500:600]) + whole[600:]
    for content in (b"", b"words", whole[:100], whole[: len(whole) // 2], b"\0" * 50 + whole[50:], middle):
        path.write_bytes(content)
        with pytest.raises(DamagedModel, match="is not a readable file of starts") as caught:
            load_starts(path)
        assert "\n" not in str(caught.value)
    np.savez(path, obs=np.zeros(3))
    with pytest.raises(DamagedModel, match="is not a readable file of starts"):
        load_starts(path)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save_starts(path, make_starts(seed=1))
    before = path.read_bytes()

    def full(file, **arrays):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(diamond_gym.starts.np, "savez_compressed", full)
    with pytest.raises(DiamondGymError, match="disk is full"):
        save_starts(path, make_starts(seed=2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
