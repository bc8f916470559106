"""What a study compares: figures that were measured against one and the same reference, and no others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds
from test_study import CONFIGS, SIZES, STEPS, T

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.trainers import study as studies
from diamond_gym.trainers.rollouts import Rollouts
from diamond_gym.trainers.study import Study
from diamond_gym.trainers.study_page import write_page
from diamond_gym.trainers.study_reference import RecordedFrames, Reference

ABOUT = {"world": "Walk", "updates": 6, "preset": "tiny", "frames": [8, 8, 3]}


def reference(store: EpisodeStore, held_out: EpisodeStore, windows: int = 3, steps: int = STEPS) -> Reference:
    long = Rollouts.held_out(held_out, 3, T, steps, seed=1)
    return Reference(Rollouts.held_out(held_out, windows, T, STEPS), long, RecordedFrames(store))


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return worlds.store(tmp_path / "walks")


@pytest.fixture
def study(tmp_path: Path, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose figures say against how many windows, and over how many steps, they were measured."""

    def measured(model, against, n, seed=0):
        steps = against.long.rew.shape[1]
        curves = dict.fromkeys(("drift", "nearest", "left"), [0.0] * steps)
        table = {"mse_over_copy_1": float(len(against.windows)), "steps": list(range(1, steps + 1)), **curves}
        return table, np.full((1, 3, 8, 8), len(against.windows), np.uint8)

    monkeypatch.setattr(studies, "measure_fit", measured)
    monkeypatch.setattr(studies, "over_noises", lambda *_: ({}, np.zeros((7, 3, 8, 8), np.uint8)))
    sizes = replace(SIZES, objectives=("edm", "ddpm"), denoising_steps=(1,))
    return Study(tmp_path / "study", sizes, CONFIGS, store, 1, lambda line: None)


class Model:
    def use_kernels(self) -> None:
        pass


def measure(study: Study, against: Reference, *objectives: str) -> None:
    for objective in objectives:
        (study.folder / f"{objective}-0").mkdir(parents=True, exist_ok=True)
        study.measure(objective, 0, Model(), against)


def test_a_reference_is_known_by_what_is_in_it(store: EpisodeStore, tmp_path: Path) -> None:
    first = reference(store, store)
    assert first.fingerprint == reference(store, store).fingerprint
    assert json.loads(json.dumps(first.fingerprint)) == first.fingerprint
    assert (first.fingerprint["windows"], first.fingerprint["long"]) == (3, [3, STEPS])
    other = worlds.store(tmp_path / "others", seed=1)
    others = reference(store, store, 4), reference(store, store, 3, 3), reference(store, other), reference(other, store)
    cut = np.ones((3, STEPS), np.bool_)
    masked = replace(first, long=replace(first.long, going=cut))
    assert len({each.fingerprint["sha256"] for each in (first, masked, *others)}) == 6


@pytest.mark.parametrize("change", ["windows", "drift steps", "held-out play"])
def test_only_what_was_measured_against_the_same_is_shown(
    change: str, study: Study, store: EpisodeStore, tmp_path: Path
) -> None:
    before = reference(store, store)
    after = {
        "windows": lambda: reference(store, store, 5),
        "drift steps": lambda: reference(store, store, 3, 3),
        "held-out play": lambda: reference(store, worlds.store(tmp_path / "others", seed=1)),
    }[change]()
    measure(study, before, "edm", "ddpm")
    assert list(study.results(before)) == ["edm-0", "ddpm-0"] and study.results(after) == {}
    assert study.pictures("edm-0", after) == {}
    measure(study, after, "edm")  # and then the time was up
    assert list(study.results(after)) == ["edm-0"] and list(study.results(before)) == ["ddpm-0"]
    assert study.results(after)["edm-0"]["n"]["1"]["mse_over_copy_1"] == len(after.windows)
    pytest.importorskip("matplotlib")
    about = ABOUT | {"long_dreams": list(after.long.rew.shape)}
    write_page(tmp_path / "page", study, after, about)
    page = json.loads((tmp_path / "page" / "study.json").read_text())
    assert list(page["fits"]) == ["edm-0"] and [row["objective"] for row in page["summary"]] == ["edm"]


def test_no_measurement_begins_after_the_time_is_up(study: Study, store: EpisodeStore, monkeypatch) -> None:
    against, now = reference(store, store), [0.0]
    several = Study(study.folder, replace(study.config, denoising_steps=(1, 2, 3)), CONFIGS, store, 1, print)
    measured = studies.measure_fit

    def slowly(*args):
        now[0] += 60
        return measured(*args)

    monkeypatch.setattr(studies, "measure_fit", slowly)
    monkeypatch.setattr(studies.time, "monotonic", lambda: now[0])
    (study.folder / "edm-0").mkdir(parents=True)
    assert not several.measure("edm", 0, Model(), against, until=90)
    assert several.result("edm-0", against)["n"].keys() == {"1", "2"}, "the second began before the time was up"
    assert not several.measure("edm", 0, Model(), against, until=130)
    assert several.pictures("edm-0", against).keys() == {"1", "2", "3"}, "one frame over noises is left"
    assert several.measure("edm", 0, Model(), against, until=200)
    assert several.pictures("edm-0", against).keys() == {"1", "2", "3", "over_noises"}
    assert several.measure("edm", 0, Model(), against, until=0), "nothing is left to measure"


def test_pictures_go_with_the_figures_that_they_belong_to(study: Study, store: EpisodeStore) -> None:
    few, many = reference(store, store), reference(store, store, 5)
    measure(study, few, "edm")
    again = Study(study.folder, replace(study.config, denoising_steps=(2,)), CONFIGS, store, 1, print)
    assert again.results(few) == {}, "it was measured with another number of steps"
    measure(again, many, "edm")
    assert again.pictures("edm-0", many).keys() == {"2", "over_noises"}, "those of the other windows are gone"
    assert (again.pictures("edm-0", many)["2"] == 5).all()
