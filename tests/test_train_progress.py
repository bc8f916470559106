"""What a training says while it runs: work, time left and tables, in 80 columns."""

import io
import re
from types import SimpleNamespace

import pytest

import diamond_gym  # noqa: F401
from diamond_gym.cli.terminal import EpochTable, Rates, clock, progress_line
from diamond_gym.trainers.diamond import Phase
from diamond_gym.trainers.diamond_config import DiamondConfig


def test_work_is_counted():
    config = DiamondConfig()
    assert config.updates(0) == (0, 0)
    assert config.updates(1) == (10_000, 5_000)
    assert config.updates(1000) == (10_000 + 999 * 400, 5_000 + 999 * 400)


def test_time_left_is_what_the_rates_say(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("diamond_gym.cli.terminal.time", SimpleNamespace(perf_counter=lambda: now[0]))
    config = DiamondConfig(
        epochs=3, real_steps=100, first_steps=10, steps_per_epoch=5, first_world_model_steps=4, world_model_steps=2,
        first_agent_steps=3, agent_steps=3,
    )  # fmt: skip
    rates = Rates(config, 0, (0, 0, 0))
    rates.begin()
    assert rates.left() == "?"
    said = []
    for phase, seconds in ((Phase("playing", 0, 10), 1), (Phase("world model", 0, 4), 2), (Phase("agent", 0, 3), 5)):
        now[0] += 3  # environments, networks or dreams begin
        for done in range(1, phase.target + 1):
            now[0] += seconds
            said.append(rates.progress(phase, done))
    assert said[:2] == ["playing 1/10", "playing 2/10, 0:00:08 left"]
    assert said[9:12] == ["playing 10/10, 0:00:00 left", "world model 1/4", "world model 2/4, 0:00:04 left"]
    assert rates.progress(Phase("testing", 0, 4), 0) == "testing 0/4"
    figures = rates.end()
    assert figures["speed/epoch_seconds"] == (3 + 10) + (3 + 4 * 2) + (3 + 3 * 5)
    assert figures["speed/dreamed_frames_per_second"] == 32 * 15 / 5
    # two more epochs, each of 5 s of games, 2 * 2 s, 3 * 5 s, and what the first steps took
    assert rates.left() == clock(2 * (5 + 4 + 15 + (3 + 1) + (3 + 2) + (3 + 5)))


def test_progress_of_the_longest_run_fits_80_columns(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("diamond_gym.cli.terminal.time", SimpleNamespace(perf_counter=lambda: now[0]))
    rates = Rates(DiamondConfig(), 0, (0, 0, 0))
    for phase in (Phase("playing", 0, 10_000), Phase("world model", 0, 10_000), Phase("agent", 0, 5_000)):
        for done in (10, 11):
            now[0] += 3
            what = rates.progress(phase, done)
            assert len(progress_line(1000, 1000, what, rates.left())) <= 80
    assert rates.left().endswith(" h") and what.endswith("left")
    assert progress_line(1, 1000, "agent 3/5,000", "?") == "epoch 1/1,000: agent 3/5,000"
    assert [clock(s) for s in (59.6, 90_061, 3 * 86_400, 1e12)] == ["0:01:00", "1 d 1:01:01", "3 d 0 h", "10000 d 0 h"]


def test_a_table_repeats_its_header_keeps_the_last_test_and_fits_a_terminal():
    table = EpochTable()
    first = table.line(1, {"test/score": -20.25, "real/steps": 12345.0, "denoiser/loss": 1.5e-5}, clock(1e12))
    assert len(first.splitlines()) == 2 and "12,345" in first and first.endswith("10000 d 0 h")
    rows = [table.line(i, {}, "?") for i in range(2, 42)]
    assert [i for i, row in enumerate(rows, 2) if "\n" in row] == [21, 41]
    assert all("-20.2" in row for row in rows)
    assert max(len(line) for row in [first, *rows] for line in row.splitlines()) <= 80


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_fits_a_terminal_and_reads_well_in_a_log(terminal, monkeypatch):
    from rich.console import Console

    from diamond_gym.cli import terminal as module

    sent = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=sent, width=80, force_terminal=terminal, highlight=False))
    monkeypatch.setattr(module, "LINE_SECONDS", -1)
    trainer = SimpleNamespace(step=0, total_steps=100_000)
    values = {"denoiser/loss": 0.012345, "reward_end/loss_rew": 0.1, "reward_end/loss_end": 0.1, "speed/x": 3.0}
    with module.fitting(trainer, 10.0) as report:
        report(12_345, values)
    with module.counting("playing Breakout", 20_000, "steps") as advance:
        advance(5_000)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip("\r") for line in sent.getvalue().splitlines()]
    assert max(map(len, lines)) <= (80 if terminal else 100)
    text = "\n".join(lines)
    assert "loss 0.0123" in text and "steps/s" in text and "left" in text and "playing Breakout: 5,000 steps in" in text
    if not terminal:
        assert "\x1b" not in sent.getvalue() and "step 12,345/100,000" in text
