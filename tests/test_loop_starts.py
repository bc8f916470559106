"""The pieces of real play that the loop's dreams and registered models begin from."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from catch_loop import TINY, WORLD, begin, train

from diamond_gym.data import EpisodeStore
from diamond_gym.errors import DiamondGymError
from diamond_gym.trainers import agent_dreams
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.batches import sampling_of
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.start_states import draw_starts, replay_starts


def test_dreams_begin_from_other_play_after_num_starts_of_them(tmp_path, monkeypatch):
    banks, train_step = [], ActorCriticTrainer.train_step

    def watched(agent):
        banks.append(agent.imagination.dream.bank.obs.numpy().tobytes())
        return train_step(agent)

    monkeypatch.setattr(ActorCriticTrainer, "train_step", watched)
    train(tmp_path, 2)
    # Two dreams a window, four starts: the first epoch's third window has new ones, and so has the second epoch.
    assert len(banks) == 5
    assert [a == b for a, b in pairwise(banks)] == [True, False, False, True]


def test_dreams_begin_where_the_denoiser_has_learnt(whole, tmp_path):
    """With lives before an episode's beginning in place of padding, and from the classes of age that it draws."""
    store = EpisodeStore(whole[0] / "experience")
    fit = replace(TINY.fit, age_weights=(0.0, 0.0, 0.0, 1.0))
    starts = replay_starts(store, 2, 64, np.random.default_rng(0), **sampling_of(fit))
    newest = {frame.tobytes() for episode in list(store)[len(store) // 4 * 3 :] for frame in episode.obs}
    assert all(frame.tobytes() in newest for frame in starts.obs[:, -1])
    asked = []
    with RunFolder(tmp_path, tensorboard=False) as run:
        config = replace(TINY, fit=replace(fit, across_lives=True))
        diamond = begin(run, config)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(agent_dreams, "replay_starts", lambda *_, **how: asked.append(how) or starts)
            diamond.train_epoch()
        diamond.close()
    assert asked == [{"across_lives": True, "by_step": False, "weights": (0.0, 0.0, 0.0, 1.0)}] * 2  # drawn twice


def test_starts_are_padded_with_grey_before_an_episode(whole):
    store = EpisodeStore(whole[0] / "experience")
    starts = replay_starts(store, 4, 64, np.random.default_rng(0))
    assert starts.obs.shape == (64, 4, 16, 16, 3)
    grey = (starts.obs == 128).all(axis=(2, 3, 4))
    assert grey[:, :3].any() and not grey[:, 3].any()
    assert (starts.first | ~grey.any(axis=1)).all()
    assert (np.diff(grey.astype(int), axis=1) <= 0).all()  # only at the beginning


def test_registered_starts_hold_the_first_decisions_of_a_game(whole):
    """Every frame that a step begins with can be the last of a piece, games' first ones after padding."""
    store = EpisodeStore(whole[0] / "experience")
    starts = draw_starts(store, 4, store.num_steps)
    grey = (starts.obs == 128).all(axis=(2, 3, 4))
    assert not grey[:, 3].any() and (np.diff(grey.astype(int), axis=1) <= 0).all()
    assert {int(row.sum()) for row in grey[~starts.first]} == {0, 1, 2, 3}
    assert not grey[starts.first].any() and starts.first.any()
    shown = {frame.tobytes() for frame in starts.obs[:, 3]}
    assert {frame.tobytes() for frame in next(iter(store)).obs[:3]} & shown


def test_no_starts_without_experience(tmp_path):
    with EpisodeStore(tmp_path, "a", WORLD.about) as empty, pytest.raises(DiamondGymError, match="no experience"):
        draw_starts(empty, 4)
