"""`--dry-run`: the work is counted, a step of each kind is measured, and nothing is left behind."""

import pytest
import torch
from catch_loop import ID, TINY, WORLD

from diamond_gym import cli
from diamond_gym.cli.dry_run import Phase, measure, print_phases


def nothing_in(folder):
    return all(path.name.startswith("torchinductor") for path in folder.iterdir())  # torch's own cache


def test_each_kind_of_work_is_measured_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    state = torch.get_rng_state()
    phases = measure(TINY, WORLD, (40, 9, 9), 1)
    assert nothing_in(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert [(phase.name, phase.amount) for phase in phases] == [("playing", 40), ("world model", 9), ("agent", 9)]
    assert all(phase.seconds_each > 0 for phase in phases)
    without_agent = measure(TINY, WORLD, (40, 9, 0), 1)
    assert [phase.name for phase in without_agent] == ["playing", "world model"]


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        (["train", "--env", ID, "--preset", "smoke"], ["1,000 real steps", "100 updates", "16 windows"]),
        (["train-wm", "--game", "Pong", "--preset", "nano"], ["36,000 real steps", "10,000 updates"]),
    ],
)
def test_dry_runs_leave_nothing(words, counts, home, tmp_path, monkeypatch, capsys):
    if words[0] == "train-wm":
        pytest.importorskip("ale_py")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main([*words, "--dry-run", "--device", "cpu", "--precision", "float32"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert all(count in printed for count in [*counts, "together"]), printed
    assert nothing_in(home) and nothing_in(tmp_path)


def test_times_are_products_and_a_sum(capsys):
    print_phases([Phase("playing", 100_000, "real steps", 0.02), Phase("agent", 404_600, "windows", 2.0)], "cpu")
    printed = capsys.readouterr().out
    for part in ("100,000 real steps", "50/s", "0:33:20", "404,600 windows", "9 d 8 h", "9 d 9 h"):
        assert part in printed, part
