"""A single game, or a single start: it has a score, but no interval and no standard deviation."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import models_table
from diamond_gym import cli
from diamond_gym.cli import train
from diamond_gym.cli.evaluate import print_scores
from diamond_gym.trainers.evaluate import Scores, interval
from diamond_gym.trainers.fidelity import compare_returns, rounded
from diamond_gym.trainers.measuring import Fidelity
from diamond_gym.trainers.rollouts import Rollouts
from diamond_gym.trainers.worlds import find_world

ID = "DiamondGym/Catch-v0"
ONE, TWO = Scores("Pong", (-21.0,), (800,)), Scores("Pong", (-21.0, -19.0), (800, 900))


def rollouts(n: int, reward: float) -> Rollouts:
    return Rollouts(
        np.zeros((n, 3, 3, 4, 4), np.uint8),
        np.zeros((n, 2), np.int64),
        np.full((n, 2), reward, np.float32),
        np.zeros((n, 2), bool),
    )


def test_there_is_no_interval_of_one_value() -> None:
    assert interval(np.array([3.0])) is None
    low, high = interval(np.array([3.0, 5.0]))
    assert (low, high) == (3, 5), "both resamples of one value are likelier than one in twenty"
    assert (ONE.std, ONE.interval(), ONE.table()["std"], ONE.table()["interval_95"]) == (None,) * 4
    assert TWO.std == pytest.approx(2**0.5) and TWO.table()["interval_95"] == [-21, -19]


def test_files_have_null_and_tables_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--env", ID, "--random", "--episodes", "1", "--out", str(tmp_path / "scores.json")]
    assert cli.main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["std"], row["interval_95"], row["episodes"]) == (None, None, 1)
    assert json.loads((tmp_path / "scores.json").read_text()) == [row]
    print_scores({"one": ONE, "two": TWO})
    lines = capsys.readouterr().out.splitlines()
    one, two = ([part.strip() for part in line.split("│")] for name in ("one", "two") for line in lines if name in line)
    assert one[2:6] == ["1", "-21.00", "–", "–"] and two[2:6] == ["2", "-20.00", "-21.00 to -19.00", "1.41"]


@pytest.mark.parametrize(
    ("played", "said"), [(ONE, "-21.00 in 1 whole games "), (TWO, "-20.00 (-21.00 to -19.00) in 2")]
)
def test_the_last_line_of_a_training(
    played: Scores, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "score", lambda *_, **__: played)
    monkeypatch.setattr(train, "update_card", lambda *_: None)
    monkeypatch.setattr(train, "replace", lambda card, **_: card)
    run = SimpleNamespace(log=lambda *_: None)
    training = SimpleNamespace(config=SimpleNamespace(final_episodes=1), run=run, epoch=1)
    entry = SimpleNamespace(card=SimpleNamespace(training={"agent": {}}))
    train.Train._score(SimpleNamespace(seed=0), training, SimpleNamespace(agent=None), find_world(env=ID), entry)
    assert said in capsys.readouterr().err


def test_a_card_calls_the_intervals_of_one_start_undefined() -> None:
    card = rounded({"returns": {"random": compare_returns(rollouts(1, 1), rollouts(1, -1))}})
    returns = card["returns"]["random"]
    assert returns == {"steps": 2, "starts": 1, "dream": -2, "real": 2, "difference": -4}
    assert card["undefined"].split(", ")[0] == "returns.random.dream_interval_95"
    assert models_table.returns({"m": {"figures": card}})[2] == "| `m` | random play | −2.00 | 2.00 | −4.00 |"
    assert len(rounded(compare_returns(rollouts(2, 1), rollouts(2, 0)))["dream_interval_95"]) == 2


def test_a_page_draws_one_start_without_an_interval() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from diamond_gym.trainers.plots import _returns

    figure, table = Figure(), compare_returns(rollouts(1, 1), rollouts(1, -1))
    many = compare_returns(rollouts(3, 1), rollouts(3, -1))
    _returns(figure, Fidelity({"returns": {"random": table, "agent": many}}))
    (axes,) = figure.axes
    ends = [container.lines[2][0].get_segments() for container in axes.containers]
    assert ends[0][0].tolist() == [[-0.1, -2], [-0.1, -2]]
