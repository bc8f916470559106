"""The outer loop collects as it should, and a killed training ends with the bits of one that was not."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from catch_loop import begin, train

from diamond_gym.errors import DiamondGymError
from diamond_gym.trainers.loop import Loop, Rhythm
from diamond_gym.trainers.run import RunFolder


def test_collects_by_the_schedule(whole):
    folder, figures, _, episodes = whole
    # One game of seven steps brings one reward: three of them, of which the two rarer signs (0 is not) are three.
    assert [f["real/steps"] for f in figures] == [28, 36, 40, 40]
    assert sum(len(episode) for episode in episodes) == 40
    assert all(np.isfinite(value) for f in figures for value in f.values())
    assert {"denoiser/loss", "reward_end/loss_end", "agent/policy_entropy", "real/score"} <= set(figures[0])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize("kill_at", [0, 1, 3])
def test_killed_and_resumed_ends_with_the_same_bits(whole, tmp_path, kill_at):
    _, figures, expected, episodes = whole
    train(tmp_path, kill_at, kill=True)
    resumed, weights, again = train(tmp_path, 4)
    assert resumed == figures[kill_at:]
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    assert len(again) == len(episodes)
    assert all((a.obs == b.obs).all() and (a.act == b.act).all() for a, b in zip(again, episodes, strict=True))


class Killed(Exception):
    """Ends a training after a checkpoint."""


SLOW = pytest.mark.slow  # what comes in the same phase of an epoch as another one


@pytest.mark.parametrize("checkpoint", [1, 4, 9, 14, *(pytest.param(number, marks=SLOW) for number in (2, 6, 10, 12))])
def test_killed_within_an_epoch_it_goes_on_from_there(whole, tmp_path, checkpoint):
    """With a checkpoint after every step: in the first two epochs one while it plays, fits, and dreams."""
    _, figures, expected, episodes = whole
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run)
        save, number = diamond.save, count(1)

        def save_and_die():
            save()
            if next(number) == checkpoint:
                raise Killed

        diamond.save = save_and_die
        with pytest.raises(Killed), Loop(diamond.save, rhythm=Rhythm(checkpoint_seconds=-1)) as loop:
            while True:
                diamond.train_epoch(loop)
        done = diamond.epoch, diamond.store.num_steps, diamond.world_model.step, diamond.agent.step
        diamond.close()
        diamond = begin(run)
        assert done == (diamond.epoch, diamond.store.num_steps, diamond.world_model.step, diamond.agent.step)
        diamond.close()
    resumed, weights, again = train(tmp_path, 4)
    for mine, theirs in zip(resumed, figures[-len(resumed) :], strict=True):
        assert mine == pytest.approx(theirs)
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    assert all((a.obs == b.obs).all() and (a.act == b.act).all() for a, b in zip(again, episodes, strict=True))


def test_a_stopped_epoch_is_saved_and_gone_on_with(whole, tmp_path):
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run)
        with Loop(diamond.save, minutes=1e-9) as loop:
            assert diamond.train_epoch(loop) is None and loop.stopped == "minutes"
        assert (diamond.store.num_steps, diamond.world_model.step, run.load()["epoch"]) == (20, 0, 0)
        assert diamond.train_epoch() == whole[1][0]
        diamond.close()


def test_a_second_process_is_refused(whole):
    with RunFolder(whole[0], tensorboard=False), pytest.raises(DiamondGymError, match="another process"):
        RunFolder(whole[0], tensorboard=False)
