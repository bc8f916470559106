"""Real play that is collected where it is missing, and who plays it."""

from pathlib import Path

import numpy as np
import pytest

from diamond_gym.cli.collect import experience, played_by
from diamond_gym.cli.train_wm import TrainWm
from diamond_gym.errors import BadArgument
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.worlds import find_world

pytest.importorskip("ale_py")


def test_auto_is_scripted_where_random_play_shows_too_little() -> None:
    assert (played_by("auto", "Freeway"), played_by("auto", "Breakout")) == ("scripted", "mixed")
    assert (played_by("random", "Freeway"), played_by("scripted", "Pong")) == ("random", "scripted")


def test_the_policy_plays_what_is_missing_and_is_noted(tmp_path: Path) -> None:
    store = experience(tmp_path / "freeway", find_world("Freeway"), 160, seed=0)
    assert {store.info(i)["policy"] for i in range(len(store))} == {"scripted"}
    up = np.concatenate([episode.act for episode in store]) == 1
    assert up.mean() > 0.6, "the script walks on"
    before = store.num_steps
    again = experience(tmp_path / "freeway", find_world("Freeway"), 100, seed=0, policy="random")
    assert again.num_steps == before, "enough is enough, whoever played it"


def test_no_script_for_boxing(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="scripted player for Breakout, Pong, Freeway, RoadRunner, not for Boxing"):
        experience(tmp_path / "boxing", find_world("Boxing"), 100, seed=0, policy="scripted")


def test_a_run_begun_before_there_was_a_policy_goes_on(tmp_path: Path) -> None:
    """Its settings do not know the word, and another policy may collect further play."""
    from diamond_gym.cli.train_wm import _FREE

    command = TrainWm(game="Freeway")
    settings = command._settings(command.fit)
    with RunFolder(tmp_path) as run:
        run.settle({key: value for key, value in settings.items() if key != "policy"}, _FREE)
        run.save({"step": 1})
        run.settle(settings, _FREE)
        run.settle({**settings, "policy": "scripted"}, _FREE)
        with pytest.raises(BadArgument, match="begun with seed"):
            run.settle({**settings, "seed": 5}, _FREE)
