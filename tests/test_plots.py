"""Strips and videos of dreams beside real play."""

import json
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from test_rollouts import H, T, oracle, recorded

from benchmarks import whole_loop
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.plots import comparison, difference, strip, write_png
from diamond_gym.trainers.rollouts import dream_rollouts


def test_strip_and_png(tmp_path: Path) -> None:
    real = recorded(4)
    picture = strip(real, real, rows=2, columns=5, scale=1)
    assert picture.shape == (4 * 8 + 3 * 2, 5 * 8 + 4 * 2, 3)
    assert np.array_equal(picture[:8], picture[10:18]), "a perfect dream's line is the real one"
    assert np.array_equal(picture[:8, :8], real.obs[0, T - 1].transpose(1, 2, 0)), "the frame before the dream"
    assert np.array_equal(picture[20:28, 40:], real.obs[1, -1].transpose(1, 2, 0))
    assert (picture[8:10] == 96).all(), "a grey gap"
    write_png(tmp_path / "deep" / "strip.png", picture)
    assert np.array_equal(iio.imread(tmp_path / "deep" / "strip.png"), picture)


def test_a_video_of_both() -> None:
    real = recorded()[:2]
    film = comparison(real, dream_rollouts(oracle(), real, SamplerConfig()), ("stay", "left", "right"), scale=8)
    assert len({frame.shape for frame in film}) == 1
    steps = film[-H:]
    first = steps[0][22 : 22 + 64]  # below the titles: reality, dream and difference of the first start
    assert np.array_equal(first[:, :64], first[:, 66:130])
    assert not first[:, 132:196].any()
    assert not np.array_equal(steps[0], steps[1])
    assert difference(np.array([10, 200], np.uint8), np.array([200, 190], np.uint8)).tolist() == [255, 20]


def test_the_curves_of_whole_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whole_loop, "RESULTS", tmp_path / "results.json")
    run = tmp_path / "run"
    run.mkdir()
    agent = {"horizon": 15, "optimizer": {"batch_size": 100}}
    settings = {"loop": {"agent": agent, "first_agent_steps": 200, "agent_steps": 100}}
    (run / "settings.json").write_text(json.dumps(settings))
    lines = [
        {"step": 1, "real/steps": 500.0, "real/score": -20.0},
        {"step": 1, "speed/epoch_seconds": 1800.0},
        {"step": 2, "real/steps": 600.0, "test/score": -19.0, "speed/epoch_seconds": 900.0},
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr(sys, "argv", ["whole_loop", "--out", str(tmp_path / "none.png")])
    with pytest.raises(SystemExit):
        whole_loop.main()
    assert "there is no run" in capsys.readouterr().err
    words = ["--add", str(run), "--game", "Pong", "--out", str(tmp_path / "loop.png")]
    monkeypatch.setattr(sys, "argv", ["whole_loop", *words])
    whole_loop.main()
    (kept,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert kept["random"] == pytest.approx(-20.7)
    assert kept["curve"] == [
        {"epoch": 1, "dreamed_steps": 0.3, "hours": 0.5, "real_steps": 500, "score": -20},
        {"epoch": 2, "dreamed_steps": 0.45, "hours": 0.75, "real_steps": 600, "test": -19},
    ]
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")
