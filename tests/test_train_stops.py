"""`diamond-gym train` asked to stop after its last step: in the test, in the films, before and in the scoring."""

import time
from types import SimpleNamespace

import pytest
from test_train import asking, checkpoint, lines, same, train

from diamond_gym.cli import train as train_module
from diamond_gym.data import EpisodeStore
from diamond_gym.trainers.held_out import HeldOut

LAST = ("--epochs", "1", "--test-every", "1", "--final-episodes", "2")
# what Ctrl-C meets in the last epoch or after it, what is said then, and how many epochs are done
MEETS = {
    "the test's games": (HeldOut, "measure", "stopped with epoch 0 of 1 done and the next one begun; repeat", 0),
    "the test's losses": (HeldOut, "_losses", "stopped with epoch 0 of 1 done and the next one begun; repeat", 0),
    "what follows the test": (train_module.EpochTable, "line", "epoch 1 of 1 done; repeat the command to register", 1),
    "the films": (train_module, "_film", "epoch 1 of 1 done; repeat the command to register and score", 1),
    "scoring": (train_module, "score", "interrupted", 1),
}


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """The folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("tested")
    assert train("--run", str(folder), *LAST) == 0
    return folder


@pytest.mark.parametrize("moment", MEETS)
def test_ctrl_c_is_obeyed_after_the_last_step_too(moment, tested, tmp_path, capsys, monkeypatch):
    owner, name, said, epochs = MEETS[moment]
    words = ("--run", str(tmp_path), *LAST, "--videos-every", str(int(moment == "the films")))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, asking(getattr(owner, name)))
        assert train(*words) == 130
    err = capsys.readouterr().err
    assert said in err and "whole games at the end" not in err
    assert (tmp_path / "model").exists() == (moment == "scoring")
    assert checkpoint(tmp_path)["epoch"] == epochs
    assert train(*words) == 0
    assert "whole games at the end" in capsys.readouterr().err
    assert same(checkpoint(tested), checkpoint(tmp_path))
    figures, expected = (
        {key: value for line in lines(folder) for key, value in line.items() if key.startswith(("test/", "final/"))}
        for folder in (tmp_path, tested)
    )
    assert figures == expected and "test/score" in figures and "final/score" in figures
    stores = [EpisodeStore(folder / "test-experience") for folder in (tested, tmp_path)]
    assert stores[0].num_steps == stores[1].num_steps, "the test that was left is forgotten"


def test_a_stop_between_two_epochs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_module.EpochTable, "line", asking(train_module.EpochTable.line))
    assert train("--run", str(tmp_path)) == 130
    assert "stopped with epoch 1 of 3 done; repeat the command to go on" in capsys.readouterr().err
    assert not checkpoint(tmp_path)["play"], "the second has not begun"


def test_minutes_end_before_the_scoring(tmp_path, capsys, monkeypatch):
    known, now = HeldOut.measure, [0.0]

    def slow(*args):
        now[0] += 300
        return known(*args)

    monkeypatch.setattr(HeldOut, "measure", slow)
    fake = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("diamond_gym.trainers.loop.time", fake)
    words = ("--run", str(tmp_path), *LAST, "--minutes", "4")
    assert train(*words) == 0
    assert "stopped with epoch 1 of 1 done; repeat the command to register" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    assert train(*words) == 0
    assert "whole games at the end" in capsys.readouterr().err, "the next call's minutes are enough for that"
