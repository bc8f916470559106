"""A study whose recordings have grown since it was begun, or have been replaced."""

import json
from pathlib import Path

import pytest
import worlds
from test_study import preset

from diamond_gym.cli import main

WORDS = ("--updates", "1", "--objectives", "edm", "--seeds", "1", "--windows", "1", "--denoising-steps", "1")
SIZES = ("--drift-steps", "2", "--trajectories", "1", "--precision", "float32", "--device", "cpu")


def test_it_goes_on_with_the_recordings_of_then(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    store = worlds.store(home / "data" / "walks", 6)
    worlds.store(home / "data" / "walks-test", 4)
    words = ["study", "--data", "walks", "--preset", str(preset(tmp_path)), *WORDS, *SIZES]
    assert main([*words, "--out", str(tmp_path / "first")]) == 0
    grown = worlds.store(home / "data" / "walks", 3, seed=1)
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "second")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"has {grown.num_steps} steps by now; the study goes on with the first {store.num_steps}" in said
    assert "measuring" not in said, "it has been measured against the same"
    pages = [json.loads((tmp_path / which / "study.json").read_text()) for which in ("first", "second")]
    assert pages[0]["fits"] == pages[1]["fits"] and pages[1]["about"]["real_steps"] == store.num_steps

    for path in sorted((home / "data" / "walks").glob("*.safetensors"))[:2]:
        path.unlink()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "was begun with other recordings" in said and f"never had just {store.num_steps}" in said
    assert said.count("\n") == 1 and "name another --run" in said


def test_more_steps_than_it_was_begun_with_are_refused_before_they_are_played(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "flow-0").mkdir(parents=True)
    (tmp_path / "run" / "flow-0" / "settings.json").write_text('{"steps": 304}')
    words = ["study", "--env", "DiamondGym/Catch-v0", "--run", str(tmp_path / "run"), "--collect-steps", "350"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "was begun with 304 recorded steps, fewer than --collect-steps 350" in said and said.count("\n") == 1
    assert not (home / "data").exists()
