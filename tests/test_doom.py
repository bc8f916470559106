"""The walker of examples/doom: what it does, and that what it records can be imported."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from diamond_gym.cli import main
from diamond_gym.data import EpisodeStore

SCRIPT = Path(__file__).parents[1] / "examples" / "doom" / "record.py"


@pytest.fixture
def record(monkeypatch):
    """The script's names; the walker needs no ViZDoom."""
    monkeypatch.setitem(sys.modules, "vizdoom", ModuleType("vizdoom"))
    return runpy.run_path(str(SCRIPT))


def walk(walker, seen, steps=2000, stuck=False):
    return [walker(seen, stuck) for _ in range(steps)]


def test_on_purpose_it_turns_to_the_nearest_thing_and_shoots_or_goes_there(record):
    near, far = (0.6, 0.2), (-0.5, 0.01)
    for armed, ahead, turn in ((True, "FIRE", "RIGHT"), (False, "UP", "UPRIGHT")):
        aside, there = (
            walk(record["Walker"](np.random.default_rng(0), armed), seen) for seen in ([far, near], [(0.0, 0.2)])
        )
        assert aside.count(turn) > 0.4 * len(aside) > aside.count(ahead)
        assert there.count(ahead) > 0.4 * len(there)


def test_by_chance_it_takes_every_action_and_holds_it(record):
    acts = walk(record["Walker"](np.random.default_rng(1), True), [])
    assert set(acts) == set(record["ACTIONS"])
    assert np.mean([a == b for a, b in zip(acts[1:], acts[:-1], strict=True)]) > 0.7


def test_stuck_it_turns_away_for_a_while(record):
    walker = record["Walker"](np.random.default_rng(2), False)
    acts = walk(walker, [(0.0, 0.1)], 400, stuck=True)
    assert np.mean([act in ("LEFT", "RIGHT") for act in acts]) > 0.8
    assert {"LEFT", "RIGHT"} <= set(acts)


def test_what_it_records_of_the_game_is_imported(home, tmp_path):
    pytest.importorskip("vizdoom")
    words = [sys.executable, str(SCRIPT), str(tmp_path / "recordings"), "--steps", "120", "--episode", "60"]
    subprocess.run(words, check=True, timeout=120, capture_output=True, cwd=tmp_path)
    assert main(["data", "import", str(tmp_path / "recordings"), "--name", "Doom", "--size", "72x96"]) == 0
    store = EpisodeStore(home / "data" / "Doom")
    assert (store.lengths.tolist(), store.about.frame_shape, store.about.num_actions) == ([60, 60], (72, 96, 3), 8)
    assert store.about.action_meanings[:3] == ("NOOP", "FIRE", "UP")
    assert (store[0].obs[0] != store[0].obs[-1]).any() and store[0].unknown == ()
