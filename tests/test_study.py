"""The design study: distances of dreams whose frames are known, fits that go on where they stopped, and the page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds

from diamond_gym.cli import main
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.trainers import study as studies
from diamond_gym.trainers.rollouts import Rollouts
from diamond_gym.trainers.study import Study, StudyConfig, measure_fit, over_noises
from diamond_gym.trainers.study_page import summary
from diamond_gym.trainers.study_reference import RecordedFrames, Reference

T, STEPS = 2, 4
SIZES = StudyConfig(seeds=1, denoising_steps=(1, 2), windows=3, drift_steps=STEPS, trajectories=3)
CONFIGS = {
    objective: replace(
        worlds.CONFIG,
        denoiser=replace(worlds.CONFIG.denoiser, objective=objective, residual=False),
        num_autoregressive_steps=0,
    )
    for objective in ("edm", "ddpm")
}


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return worlds.store(tmp_path / "walks")


@pytest.fixture
def reference(store: EpisodeStore) -> Reference:
    windows = Rollouts.held_out(store, 3, T, STEPS)
    return Reference(windows, Rollouts.held_out(store, 3, T, STEPS, seed=1), RecordedFrames(store))


def dreaming(monkeypatch: pytest.MonkeyPatch, frames) -> list[int]:
    """Has dreams be what a function makes of real play; returns the numbers of steps that are asked for."""
    asked = []

    def dream_rollouts(model, real, sampler, make_policy=None, seed=0, progress=None, steps=None):
        asked.append(sampler.num_denoising_steps)
        chances = np.zeros((*real.rew.shape, 3), np.float32), np.zeros(real.rew.shape, np.float32)
        obs = real.obs.copy()
        obs[:, T:] = frames(real.after, sampler.num_denoising_steps)
        return replace(real, obs=obs, rew_prob=chances[0], end_prob=chances[1])

    monkeypatch.setattr(studies, "dream_rollouts", dream_rollouts)
    return asked


def preset(folder: Path) -> Path:
    """A preset of tiny networks."""
    path = folder / "tiny.toml"
    path.write_text(
        'preset = "study-nano"\n[denoiser.inner-model]\ncond-channels = 8\ndepths = [1]\nchannels = [8]\n'
        "attn-depths = [0]\nnum-steps-conditioning = 2\n[reward-end]\nlstm-dim = 8\ndepths = [1]\nchannels = [8]\n"
        "attn-depths = [0]\n[denoiser-optimizer]\nbatch-size = 2\n[reward-end-optimizer]\nbatch-size = 2\n"
    )
    return path


def test_distances_to_the_nearest_recorded_frame(store: EpisodeStore) -> None:
    recorded = np.moveaxis(store[0].obs[:3], -1, 1)
    known = RecordedFrames(store)
    assert known.distances(recorded).max() == 0
    frames = np.concatenate([np.moveaxis(episode.obs, -1, 1) for episode in store]).reshape(-1, 3 * 8 * 8) / 255
    farthest = max(np.abs(frames - frame).mean(1).max() for frame in frames)
    assert known.limit == pytest.approx(farthest, rel=1e-6), "of so many pairs one has the largest distance"
    brighter = recorded + (recorded < 200) * np.uint8(51)  # every dark pixel by a fifth
    part = (recorded < 200).mean()
    assert known.distances(brighter) == pytest.approx(np.full(3, 0.2 * part), rel=1e-5)


def test_a_perfect_dream_does_not_drift(reference: Reference, monkeypatch) -> None:
    dreaming(monkeypatch, lambda after, n: after)
    table, shown = measure_fit(None, reference, 1)
    assert table["steps"] == [1, 2, 3, 4] and table["drift"] == [0] * 4 == table["drift_spread"]
    assert max(table["nearest"]) < 1e-6 and table["left"] == [0] * 4 and table["mse_1"] == 0
    assert shown.shape == (1, 3, 8, 8) and (shown[0] == reference.long.last[0, 0]).all(), "step 0 is the last real one"


def test_a_dream_that_leaves_the_data(reference: Reference, monkeypatch) -> None:
    def frames(after, n):
        after = after.copy()
        after[:, 2:] = 100  # no frame of the walk is grey
        return after

    dreaming(monkeypatch, frames)
    table, _ = measure_fit(None, reference, 1)
    assert table["left"] == [0, 0, 1, 1] and table["drift"][1] == 0 < table["drift"][2]
    going = np.ones((3, STEPS), np.bool_)
    going[0, 1:], going[1, 3:], going[2, 3:] = False, False, False
    masked = replace(reference, long=replace(reference.long, going=going))
    table, _ = measure_fit(None, masked, 1)
    assert table["drift_dreams"] == [3, 2, 2, 0] and table["drift"][3] is None, "another game is no measure"
    assert table["left"] == [0, 0, 1, 1]


def test_over_noises_takes_the_variance_of_one_frame(reference: Reference, monkeypatch) -> None:
    def frames(after, n):
        after = after.copy()
        after[::2] = 0 if n == 1 else 255
        after[1::2] = 255
        return after

    dreaming(monkeypatch, frames)
    table, line = over_noises(None, reference.windows)
    assert table["variance_1"] == pytest.approx(0.25 * 32 / 31) and table["variance_3"] == 0
    assert line.shape == (7, 3, 8, 8)
    assert (line[2] == 128).all() and (line[6] == 0).all(), "the mean of one step, the deviation of three"


def test_fits_and_measurements_go_on_where_they_stopped(
    store: EpisodeStore, reference: Reference, tmp_path: Path, monkeypatch
) -> None:
    said: list[str] = []
    sizes = replace(SIZES, objectives=("edm", "ddpm"))
    study = Study(tmp_path / "study", sizes, CONFIGS, store, 6, said.append)
    assert study.fits() == [("edm", 0), ("ddpm", 0)]
    assert study.fit("edm", 0, minutes=0) is None
    model = study.fit("edm", 0)
    assert model is not None and "to 6" in said[0] and "from update 0" not in said[1]
    assert study.fit("edm", 0) is not None and len(said) == 2, "it has been fitted"
    study.measure("edm", 0, model, reference)
    first = study.result("edm-0", reference)
    assert list(first["n"]) == ["1", "2"] and first["over_noises"]["variance_3"] >= 0

    monkeypatch.setattr(studies, "measure_fit", lambda *_: pytest.fail("it has been measured"))
    study.measure("edm", 0, model, reference)
    assert study.result("edm-0", reference) == first and list(study.results(reference)) == ["edm-0"]
    assert study.pictures("edm-0", reference)["over_noises"].shape == (7, 3, 8, 8)
    with pytest.raises(BadArgument, match="was begun with updates = 6, not 7"):
        Study(tmp_path / "study", sizes, CONFIGS, store, 7, said.append).fit("edm", 0)


def test_the_summary_is_over_seeds() -> None:
    def fit(error: float, drift: float) -> dict:
        curves = {"steps": [1, 10], "drift": [0.0, drift], "nearest": [0.0, 0.1], "left": [0, 0.5]}
        return {"n": {"1": {"mse_over_copy_1": error, **curves}}}

    results = {"edm-0": fit(1.0, 0.2), "edm-1": fit(3.0, 0.4), "ddpm-0": fit(5.0, 0.6)}
    rows = summary(results, StudyConfig())
    assert [(row["objective"], row["n"], row["seeds"]) for row in rows] == [("edm", 1, 2), ("ddpm", 1, 1)]
    assert rows[0]["mse_over_copy_1"] == 2 and rows[0]["mse_over_copy_1_sd"] == pytest.approx(2**0.5)
    assert rows[0]["drift_10"] == pytest.approx(0.3) and rows[1]["drift_10"] == 0.6
    assert "drift_10_sd" not in rows[1] and "drift_100" not in rows[0]


def test_the_page_from_recordings(home: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    for name in ("walks", "walks-test"):
        worlds.store(home / "data" / name)
    words = ["study", "--data", "walks", "--preset", str(preset(tmp_path)), "--updates", "2", "--windows", "2"]
    words += ["--seeds", "1", "--denoising-steps", "1", "3", "--drift-steps", "4", "--trajectories", "2"]
    words += ["--precision", "bfloat16"]
    assert main([*words, "--out", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr()
    assert "measuring with 3 denoising steps" in printed.err and "Walk: 2 updates" in printed.out
    page = json.loads((tmp_path / "page" / "study.json").read_text())
    assert page["about"]["world"] == "Walk" and page["about"]["fitted_on"] == "cpu in bfloat16"
    assert 0 <= page["about"]["held_out_at_most"] <= page["about"]["left_beyond"]
    assert set(page["fits"]) == {"edm-0", "ddpm-0", "flow-0"}
    assert [(row["objective"], row["n"]) for row in page["summary"]] == [
        (objective, n) for objective in ("edm", "ddpm", "flow") for n in (1, 3)
    ]
    text = (tmp_path / "page" / "study.html").read_text()
    assert text.count("<tr>") == 7 and "data:image/png;base64," in text
    assert (tmp_path / "page" / "study.png").read_bytes().startswith(b"\x89PNG")
    assert main(words) == 0
    assert "measuring" not in capsys.readouterr().err, "all of it has been measured"
    assert main([*words, "--precision", "float32"]) == 2
    assert "precision" in capsys.readouterr().err, "fits that are compared have the same arithmetic"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which game: diamond-gym study --game Breakout"),
        (("--game", "Pong", "--objectives", "score"), "--objectives takes edm, ddpm, flow, not score"),
        (("--game", "Pong", "--denoising-steps", "0"), "--denoising-steps must lie between 1 and 1000"),
        (("--game", "Pong", "--denoising-steps", "3", "3"), "needs one or more different values"),
        (("--game", "Pong", "--size", "128"), "--size of a game must lie between 16 and 64, not 128"),
        (("--game", "Pong", "--seeds", "0"), "--seeds must be at least 1"),
        (("--game", "Pong", "--updates", "0"), "--updates must be at least 1"),
        (("--data", "nowhere"), "nowhere"),
        (("--game", "Pong", "--device", "abacus"), "device 'abacus' cannot be used here"),
        (("--game", "Pong", "--precision", "float8"), "float8"),
    ],
)
def test_options_that_cannot_be_used(words: tuple[str, ...], message: str, home: Path, capsys) -> None:
    assert main(["study", *words]) in (1, 2)
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error and "Traceback" not in error


def test_quick_measures_less() -> None:
    quick = StudyConfig().quicker()
    assert (quick.seeds, quick.denoising_steps, quick.drift_steps) == (1, (1, 3, 10), 200)
    assert StudyConfig(denoising_steps=(2, 5), trajectories=2).quicker().denoising_steps == (2,)
    assert StudyConfig(trajectories=2).quicker().trajectories == 2
