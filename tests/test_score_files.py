"""Runs gathered from disk, summed up and drawn: `diamond-gym evaluate --runs`."""

import json
from pathlib import Path

import numpy as np
import pytest

from diamond_gym import cli
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry.published import published
from diamond_gym.trainers.aggregate import SCORES, read_runs, rows_of, write_scores
from diamond_gym.trainers.evaluate import Scores

RUNS = {"Pong": [10.0, 20.0], "Breakout": [30.5, 1.7], "Alien": [227.8, 7127.7]}


def paper():
    return {name: list(model.scores) for name, model in published().items() if model.scores}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_runs(folder: Path) -> Path:
    """A folder for each run, as training leaves them."""
    for game, scores in RUNS.items():
        for seed, score in enumerate(scores):
            played = Scores(game, (score - 1, score + 1), (10, 10))
            chance = Scores(game, (0.0,), (10,))
            write_scores(folder / f"{game.lower()}-{seed}" / SCORES, {"agent": played, "random": chance})
            write(folder / f"{game.lower()}-{seed}" / "settings.json", {"game": game})
    return folder


def test_a_folder_of_runs_is_the_same_as_their_table(tmp_path):
    expected = dict(sorted(RUNS.items()))
    assert read_runs(write(tmp_path / "table.json", RUNS)) == expected
    found = read_runs(write_runs(tmp_path / "runs"))
    assert list(found) == list(expected)
    assert list(found.values()) == [
        pytest.approx(scores) for scores in expected.values()
    ]  # the random policy's games are no runs
    assert read_runs(tmp_path / "runs" / "pong-1" / SCORES) == {"Pong": [20.0]}
    assert read_runs(write(tmp_path / "one.json", {"Pong": 3})) == {"Pong": [3.0]}


def test_the_papers_figures_by_command(tmp_path, capsys):
    """Alonso et al. 2024, table 1."""
    path = write(tmp_path / "paper.json", paper())
    assert cli.main(["evaluate", "--runs", str(path), "--published", "--json", "--out", str(tmp_path / "o.json")]) == 0
    said = capsys.readouterr().out
    table = json.loads(said)
    assert list(table) == ["paper", "DIAMOND (published)"] and json.loads((tmp_path / "o.json").read_text()) == table
    for found in table.values():
        rounded = [round(found[name]["value"], 3) for name in ("mean", "median", "iqm", "optimality_gap")]
        assert rounded == [1.459, 0.373, 0.641, 0.480]
        assert (found["games"], found["runs"], found["at_least_human"]) == (26, 5, 11)
        assert found["iqm"]["low"] < found["iqm"]["value"] < found["iqm"]["high"]
    assert cli.main(["evaluate", "--published"]) == 0
    said = capsys.readouterr().out
    assert "1.459 (1." in said and "0.641 (0." in said and "11 of 26" in said and "UpNDown" in said


def test_published_runs_beside_ones_own_are_of_the_same_games(tmp_path, capsys):
    folder = write_runs(tmp_path / "runs")
    assert cli.main(["evaluate", "--runs", str(folder), "--published", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert set(table["runs"]["human_normalised"]) == set(table["DIAMOND (published)"]["human_normalised"]) == set(RUNS)
    assert table["runs"]["human_normalised"]["Breakout"] == pytest.approx(0.5)
    assert table["runs"]["human_normalised"]["Alien"] == pytest.approx(0.5)


def test_a_single_run_is_said_to_be_one(tmp_path, capsys):
    path = write(tmp_path / "one.json", {"Pong": [-20.7], "Freeway": [29.6]})
    assert cli.main(["evaluate", "--runs", str(path)]) == 0
    said = capsys.readouterr().out
    assert "one run of each game" in said and "1 of 2" in said and "0.500 (0.500 to 0.500)" in said


def test_the_picture_shows_every_method(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    import imageio.v3 as iio

    one, two = write(tmp_path / "one.json", {"Pong": [1.0], "Freeway": [2.0]}), write(tmp_path / "two.json", RUNS)
    words = ["evaluate", "--runs", str(one), str(two), "--json", "--plot", str(tmp_path / "p.png")]
    assert cli.main(words) == 0
    picture = iio.imread(tmp_path / "p.png")[..., :3]
    colours = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0)}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # C0 and C1
    again = (tmp_path / "p.png").read_bytes()
    assert cli.main(words) == 0
    assert (tmp_path / "p.png").read_bytes() == again


def test_the_performance_profile_counts_runs_above():
    from diamond_gym.trainers.plots import profile

    tau, share = profile(np.array([[0.5, 1.0], [2.0, -1.0]]))
    assert share[0] == 0.75 and share[tau == 0.5] == 0.5 and share[tau == 2.0] == 0 and share[-1] == 0


@pytest.mark.parametrize(
    "content",
    ["", "not JSON", "3", "[1, 2]", "[]", "{}", '{"Pong": ["ten"]}', '{"Pong": [NaN]}', '{"Pong": [true]}',
     '[{"policy": "random", "game": "Pong", "mean": 1}]', '[{"policy": "a", "game": "Pong"}]',
     '[{"policy": "a", "game": ["Pong"], "mean": 1}]', "[" * 100_000, "\x00\xff", '{"Pong": [1%s]}' % ("0" * 400),
     '{"Pong": -1%s}' % ("0" * 400), '[{"policy": "a", "game": "Pong", "mean": 1%s}]' % ("0" * 400),
     '{"Pong": [1%s]}' % ("0" * 5000)],
)  # fmt: skip
def test_files_without_scores_are_one_line(tmp_path, content, capsys):
    path = write(tmp_path / "scores.json", content)
    with pytest.raises(DiamondGymError) as error:
        read_runs(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "does not hold scores" in str(error.value) or "holds no scores" in str(error.value)
    assert "object" not in str(error.value)
    assert cli.main(["evaluate", "--runs", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_places_without_runs(tmp_path):
    with pytest.raises(BadArgument, match="no scores.json in"):
        read_runs(tmp_path)
    with pytest.raises(BadArgument, match="there is no"):
        read_runs(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs", "{a}", "--game", "Pong"], "--game is for playing, and --runs and --published play nothing"),
        (["--published", "--random"], "--random is for playing"),
        (["--published", "--data", "mine"], "--data is for playing"),
        (["--published", "--env", "CartPole-v1", "--size", "9"], "--env is for playing"),
        (["--published", "--episodes", "5"], "--episodes is for playing"),
        (["--runs", "{a}", "--temperature", "0.5"], "--temperature is for playing"),
        (["--runs", "{a}", "--deterministic"], "--deterministic is for playing"),
        (["--runs", "{a}", "--n-envs", "2"], "--n-envs is for playing"),
        (["--runs", "{a}", "--max-episode-steps", "2"], "--max-episode-steps is for playing"),
        (["--runs", "{a}", "--trust-pickles"], "--trust-pickles is for playing"),
        (["--runs", "{a}", "--plot", "x.jpg"], "--plot must end in .png, not x.jpg"),
        (["--random", "--game", "Pong", "--plot", "p.png"], "--plot draws"),
        (["--runs", "{a}", "{a}"], "the same place twice"),
        (["--runs", "{uneven}"], "uneven: the games need the same number of runs, but Alien has 1 and Pong has 2"),
        (["--runs", "{unknown}"], "unknown: unknown game 'Catch'"),
        (["--published", "--seed", "-1"], "--seed must be at least 0"),
    ],
)
def test_one_line_for_what_is_wrong(words, message, tmp_path, capsys):
    files = {
        "a": write(tmp_path / "a.json", RUNS),
        "uneven": write(tmp_path / "uneven.json", {"Pong": [1, 2], "Alien": [3]}),
        "unknown": write(tmp_path / "unknown.json", {"Catch": [1]}),
    }
    assert cli.main(["evaluate", *(word.format(**files) for word in words)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_rows_are_what_the_command_prints():
    rows = rows_of({"agent": Scores("Pong", (1.0, 3.0), (5, 5))})
    assert (rows[0]["policy"], rows[0]["game"], rows[0]["mean"]) == ("agent", "Pong", 2.0)
