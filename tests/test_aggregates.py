"""Aggregates over games and seeds: the paper's own figures, and the definitions on numbers done by hand."""

import numpy as np
import pytest

from diamond_gym.errors import BadArgument
from diamond_gym.registry.published import published
from diamond_gym.trainers.aggregate import (
    STATISTICS,
    aggregate,
    bootstrap,
    human_normalised,
)


def paper():
    return {name: list(model.scores) for name, model in published().items() if model.scores}


def test_the_papers_figures():
    """Alonso et al. 2024, table 1, from the scores of the authors' 26 x 5 runs."""
    found = aggregate(paper(), resamples=500)
    assert (len(found.normalised), found.runs, found.at_least_human) == (26, 5, 11)
    expected = {"mean": 1.459, "median": 0.373, "iqm": 0.641, "optimality_gap": 0.480}
    for name, value in expected.items():
        estimate = found.estimates[name]
        assert round(estimate.value, 3) == value
        assert estimate.low < estimate.value < estimate.high
    assert found.normalised["Breakout"] == pytest.approx(4.54, abs=0.01)
    assert found == aggregate(paper(), resamples=500)


def test_statistics_by_hand():
    scores = np.array([[0.0, 1.0], [2.0, 4.0], [0.5, 0.5], [-1.0, 0.0]])
    assert STATISTICS["mean"](scores) == pytest.approx(7 / 8)
    assert STATISTICS["median"](scores) == 0.5  # of 0.5, 3, 0.5, -0.5
    assert STATISTICS["iqm"](scores) == pytest.approx((0 + 0.5 + 0.5 + 1) / 4)  # without -1, 0 and 2, 4
    assert STATISTICS["optimality_gap"](scores) == pytest.approx((1 + 0 + 0 + 0 + 0.5 + 0.5 + 2 + 1) / 8)
    batch = np.stack([scores, 2 * scores])
    for statistic in STATISTICS.values():
        np.testing.assert_allclose(statistic(batch), [statistic(scores), statistic(2 * scores)])


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 3), (7, 7)])
def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end(shape):
    scores = np.random.default_rng(0).normal(size=shape)
    runs, cut = np.sort(scores.ravel()), scores.size // 4
    assert STATISTICS["iqm"](scores) == pytest.approx(runs[cut : scores.size - cut].mean())


def test_resampling_stays_within_games():
    """Games whose runs agree leave nothing to chance, however different the games are."""
    certain = bootstrap(np.array([[0.1] * 4, [5.0] * 4]), resamples=50)
    for estimate in certain.values():
        assert estimate.low == pytest.approx(estimate.value) == pytest.approx(estimate.high)
    # Two runs of one game: a resample's mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4.
    found = bootstrap(np.array([[0.0, 1.0]]), resamples=2500, level=0.4)["mean"]
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    found = bootstrap(np.array([[0.0, 1.0]]), resamples=2500, level=0.6)["mean"]
    assert (found.low, found.high) == (0, 1)


def test_one_line_for_what_is_wrong():
    with pytest.raises(BadArgument, match="Alien has 1 and Pong has 2"):
        human_normalised({"Pong": [1, 2], "Alien": [1]})
    with pytest.raises(BadArgument, match="unknown game 'Pongo'; did you mean Pong"):
        human_normalised({"Pongo": [1]})
    for nothing in ({}, {"Pong": []}):
        with pytest.raises(BadArgument, match="no scores"):
            human_normalised(nothing)
