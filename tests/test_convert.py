"""Data folders of earlier versions: converted without loss, in place or elsewhere, and refused until then."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stores import SHAPE, assert_same, episode, part

from diamond_gym.cli import main
from diamond_gym.data import Episode, EpisodeStore
from diamond_gym.data import convert as converting
from diamond_gym.errors import DiamondGymError

STEP = np.dtype([("act", "<i4"), ("rew", "<f4"), ("end", "?"), ("trunc", "?")])
ABOUT = {
    "format": 1, "game": "Catch", "frame_shape": list(SHAPE), "num_actions": 3,
    "action_meanings": ["LEFT", "STAY", "RIGHT"], "created": "2026-01-02T03:04:05+00:00", "versions": {"numpy": "2.0"},
}  # fmt: skip


def an_old_folder(folder: Path, pieces: list[tuple[int, Episode]]) -> list[int]:
    """Writes episodes, piece by piece, as the version before did; returns the index's bytes after each."""
    folder.mkdir()
    (folder / "store.json").write_text(json.dumps(ABOUT))
    records, ends = dict[int, dict[str, list[list[int]]]](), list[int]()
    at = {"frames": 0, "steps": 0}
    with open(folder / "frames.bin", "wb") as frames, open(folder / "steps.bin", "wb") as steps:
        index = open(folder / "index.jsonl", "wb")  # noqa: SIM115
        for number, piece in pieces:
            new = number not in records
            record = records.setdefault(number, {"frames": [], "steps": []})
            obs = piece.obs if new else piece.obs[1:]
            frames.write(np.ascontiguousarray(obs.transpose(0, 3, 1, 2)).tobytes())
            packed = np.empty(len(piece), STEP)
            for name in ("act", "rew", "end", "trunc"):
                packed[name] = getattr(piece, name)
            steps.write(packed.tobytes())
            for name, count in (("frames", len(obs)), ("steps", len(piece))):
                extents = record[name]
                if extents and sum(extents[-1]) == at[name]:
                    extents[-1][1] += count
                else:
                    extents.append([at[name], count])
                at[name] += count
            line = {"id": number, **record, "end": bool(piece.end[-1]), "trunc": bool(piece.trunc[-1])}
            index.write(json.dumps({**line, "info": dict(piece.info)}).encode() + b"\n")
            ends.append(index.tell())
        index.close()
    return ends


A, B, C = episode(10, 1), replace(episode(6, 2, end=False, trunc=True), info={"game": 3}), episode(4, 3, end=False)
PIECES = [(0, part(A, 0, 3)), (1, part(B, 0, 2)), (0, part(A, 3, 5)), (0, part(A, 5, 10)), (1, part(B, 2, 6)), (2, C)]


@pytest.mark.parametrize("in_place", [True, False])
def test_nothing_is_lost(tmp_path: Path, in_place: bool, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old", tmp_path / "deep" / "new"
    an_old_folder(old, PIECES)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    assert main(["data", "convert", str(old), *([] if in_place else [str(new)])]) == 0
    store = EpisodeStore(old if in_place else new)
    assert f"{store.folder}: 20 steps in 3 episodes" in capsys.readouterr().out
    for mine, theirs in zip(store, (A, B, C), strict=True):
        assert_same(mine, theirs)
    assert (store.about.game, store.about.action_meanings) == ("Catch", ("LEFT", "STAY", "RIGHT"))
    assert store.about.created == ABOUT["created"]
    after = {path.name: path.read_bytes() for path in old.iterdir()}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == ({"store.json"} if in_place else set())
    with EpisodeStore(store.folder, "a") as writer:
        writer.extend(2, episode(2, 9))
        assert len(writer[2]) == 6


def test_an_old_folder_is_refused_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    an_old_folder(tmp_path / "old", PIECES)
    for mode in ("r", "a"):
        with pytest.raises(DiamondGymError, match=r"convert it with `diamond-gym data convert .*old`"):
            EpisodeStore(tmp_path / "old", mode)  # type: ignore[arg-type]
    assert main(["data", "convert", str(tmp_path / "old")]) == 0
    capsys.readouterr()
    assert main(["data", "convert", str(tmp_path / "old")]) == 1
    assert capsys.readouterr().err.count("\n") == 1, "there is nothing left to convert"


def test_a_checkpoints_mark_holds(tmp_path: Path) -> None:
    """A training noted how many bytes of the index it knew; the same number leads back to the same steps."""
    ends = an_old_folder(tmp_path / "old", PIECES)
    converting.convert(tmp_path / "old")
    for end, steps in reversed(list(zip(ends, np.cumsum([len(piece) for _, piece in PIECES]), strict=True))):
        assert EpisodeStore(tmp_path / "old", "a", until=end).num_steps == steps


@pytest.mark.parametrize("calls", [1, 4])
def test_an_interrupted_conversion_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    an_old_folder(tmp_path / "old", PIECES)
    replace_, left = os.replace, iter(range(calls))

    def interrupted(*words: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace_(*words)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            converting.convert(tmp_path / "old")
    with pytest.raises(DiamondGymError, match="data convert"):
        EpisodeStore(tmp_path / "old")
    assert converting.convert(tmp_path / "old") == (3, 20)
    assert EpisodeStore(tmp_path / "old").num_steps == 20


def _without_a_line(index: bytes) -> bytes:
    return b"".join(index.splitlines(keepends=True)[1:])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("frames.bin", lambda content: None, "frames.bin is missing"),
        ("index.jsonl", _without_a_line, "index.jsonl is damaged before byte"),
        ("index.jsonl", lambda content: b"[]\n", "index.jsonl is damaged before byte"),
        ("store.json", lambda content: content[:-9], "store.json is damaged"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes | None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    an_old_folder(tmp_path / "old", PIECES)
    path = tmp_path / "old" / name
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert main(["data", "convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1


def test_a_last_line_that_was_interrupted_is_left_out(tmp_path: Path) -> None:
    an_old_folder(tmp_path / "old", PIECES)
    with open(tmp_path / "old" / "index.jsonl", "ab") as file:
        file.write(b'{"id": 3, "frames"')
    assert converting.convert(tmp_path / "old") == (3, 20)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    an_old_folder(tmp_path / "old", PIECES)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes").write_text("mine")
    with pytest.raises(DiamondGymError, match="is not empty"):
        converting.convert(tmp_path / "old", tmp_path / "new")


@pytest.mark.parametrize("name", ["frames.bin", "steps.bin"])
def test_files_that_lost_their_tail_are_taken_as_far_as_they_go(tmp_path: Path, name: str) -> None:
    an_old_folder(tmp_path / "old", PIECES)
    os.truncate(tmp_path / "old" / name, (tmp_path / "old" / name).stat().st_size - 1)
    with pytest.warns(UserWarning, match="old is incomplete: what is there, 2 episodes, is taken"):
        converting.convert(tmp_path / "old")
    assert_same(EpisodeStore(tmp_path / "old")[1], B)
