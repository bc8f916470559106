"""A figure that is a ratio to nothing is undefined, and the card says so."""

from dataclasses import replace

import numpy as np
import pytest
from films import film

from diamond_gym.cli.evaluate_wm import _updated
from diamond_gym.trainers import fidelity
from diamond_gym.trainers.fidelity import figures, over, rounded
from diamond_gym.trainers.measuring import closed_loop


@pytest.mark.filterwarnings("error")
def test_where_nothing_moves_there_is_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves in the first step, everything by 51 levels in the second; dreams are 102 and 51 levels off."""
    monkeypatch.setattr(fidelity, "HORIZONS", (1, 2))
    real = film(np.stack([np.full((2, 3, 12, 12), level, np.uint8) for level in (0, 0, 51)], axis=1))
    dreamed = film(np.stack([np.full((2, 3, 12, 12), level, np.uint8) for level in (0, 102, 102)], axis=1))
    assert over(np.array([1.0, 0, 3]), np.array([0, 0, 2.0])) == pytest.approx([np.nan, np.nan, 1.5], nan_ok=True)
    table = figures(real, dreamed)
    assert np.isnan(table["mse_over_copy_1"]) and table["mse_over_copy_2"] == pytest.approx(1)
    card = rounded({**table, "low_res": {"mse_over_copy_1": np.nan, "mse_1": 0.5}})
    assert card["undefined"] == "mse_over_copy_1, low_res.mse_over_copy_1"
    assert card["mse_1"] == 0.16 and "mse_over_copy_1" not in card and card["low_res"] == {"mse_1": 0.5}
    monkeypatch.setattr(fidelity, "HORIZONS", (2,))
    assert "undefined" not in rounded(figures(real, real))


def test_large_frames_as_the_small_ones_enlarged_have_no_ratio_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "HORIZONS", (1, 2))
    flat = film(np.full((2, 3, 3, 12, 12), 90, np.uint8))
    table = closed_loop(flat, replace(flat, low_res=np.full((2, 3, 3, 6, 6), 90, np.uint8)))
    assert table["mse_1"] == table["low_res"]["mse_2"] == 0
    ratios = table["mse_over_enlarged_2"], table["mse_over_copy_1"], table["low_res"]["mse_over_copy_1"]
    assert np.isnan(ratios).all()


def test_a_card_forgets_a_figure_that_is_undefined_now() -> None:
    card = _updated({"mse_over_copy_1": 0.5, "reward_f1": 0.2}, {"mse_1": 0.1, "undefined": "mse_over_copy_1"})
    assert card == {"reward_f1": 0.2, "mse_1": 0.1, "undefined": "mse_over_copy_1"}
    returns = {"returns": {"random": {"dream": 1.0}}}
    assert _updated(card, returns) == {**card, **returns}, "what was not measured again is as undefined as before"
    assert _updated(card, {"mse_over_copy_1": 0.7}) == {"reward_f1": 0.2, "mse_1": 0.1, "mse_over_copy_1": 0.7}
