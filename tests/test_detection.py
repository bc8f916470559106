"""Detection of rewards and ends where there is nothing to detect, or nothing detected: undefined, and not 0."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds

from diamond_gym.trainers import held_out
from diamond_gym.trainers.fidelity import Detection, detection, figures, rounded
from diamond_gym.trainers.measuring import Fidelity
from diamond_gym.trainers.rollouts import Rollouts
from diamond_gym.trainers.study import StudyConfig
from diamond_gym.trainers.study_page import summary

SOME, NONE = np.array([1, 0, -1]), np.zeros(3, np.int64)


@pytest.mark.parametrize(
    ("real", "found", "expected"),
    [
        (SOME, SOME, Detection(1, 1, 1, 2)),
        (SOME, np.array([-1, 0, -1]), Detection(0.5, 0.5, 0.5, 2)),
        (SOME, NONE, Detection(np.nan, 0, 0, 2)),
        (NONE, SOME, Detection(0, np.nan, 0, 0)),
        (NONE, NONE, Detection(np.nan, np.nan, np.nan, 0)),
    ],
)
def test_what_has_nothing_to_be_measured_on_is_undefined(
    real: np.ndarray, found: np.ndarray, expected: Detection
) -> None:
    assert detection(real, found) == pytest.approx(expected, nan_ok=True)


@pytest.fixture
def quiet() -> tuple[Rollouts, Rollouts]:
    """Play in which no reward and no end came, and dreams that sampled a reward once but never expected one."""
    rng = np.random.default_rng(0)
    obs, none = rng.integers(0, 256, (4, 3, 3, 12, 12), dtype=np.uint8), np.zeros((4, 2), np.float32)
    real = Rollouts(obs, none.astype(np.int64), none, none > 0)
    rew = none.copy()
    rew[0, 0] = 1
    chances = np.tile(np.array([0.1, 0.8, 0.1], np.float32), (4, 2, 1))
    return real, replace(real, rew=rew, rew_prob=chances, end_prob=none)


def test_a_card_names_what_is_undefined(quiet: tuple[Rollouts, Rollouts]) -> None:
    card = rounded(figures(*quiet))
    assert card["rewards"] == card["ends"] == 0
    names = [f"{kind}_{score}" for kind in ("reward", "end", "end_sampled") for score in ("precision", "recall", "f1")]
    assert {*names, "reward_sampled_recall"} <= set(card["undefined"].split(", "))
    assert not {*names, "reward_sampled_recall"} & card.keys()
    assert card["reward_sampled_precision"] == card["reward_sampled_f1"] == 0, "one was dreamed that did not come"


def test_a_page_says_so_in_words(quiet: tuple[Rollouts, Rollouts], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from diamond_gym.trainers.plots import _outcomes

    figure = Figure()
    _outcomes(figure, Fidelity(figures(*quiet) | {"reward_precision": 0.25}))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["0.25", *["undefined"] * 5]


def test_a_studys_mean_is_of_the_seeds_that_have_the_figure() -> None:
    curves = {"steps": [1], "drift": [0.0], "nearest": [0.0], "left": [0.0]}
    some, none = {"n": {"1": {"reward_f1": 0.5, **curves}}}, {"n": {"1": curves}}
    (row,) = summary({"edm-0": some, "edm-1": none}, StudyConfig(objectives=("edm",), denoising_steps=(1,)))
    assert row["reward_f1"] == 0.5 and "reward_f1_sd" not in row
    assert "reward_f1" not in summary({"edm-0": none}, StudyConfig())[0]


def test_test_collections_leave_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diamond_gym.trainers.world_model import WorldModelTrainer

    found = iter((Detection(np.nan, 0.0, 0.0, 3), Detection(0.5, np.nan, 0.0, 0)))
    monkeypatch.setattr(held_out, "detection", lambda *_: next(found))
    store = worlds.store(tmp_path / "walks")
    tests = held_out.HeldOut(store.folder, worlds.ABOUT, lambda rows: None, 0, store.mark)
    table = tests._losses(1, WorldModelTrainer(worlds.CONFIG, store, 1), lambda: False)
    tests.close()
    assert table["test/reward_recall"] == 0 and table["test/end_precision"] == 0.5
    assert not {"test/reward_precision", "test/end_recall"} & table.keys()
    assert "NaN" not in json.dumps(table)
