"""Training with a store's frames on the device is training without; what a CPU cannot show is marked `gpu`."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import two_stages
import worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_gym.data import Episode, EpisodeStore, on_device
from diamond_gym.data.on_device import FramesOnDevice
from diamond_gym.trainers import world_model
from diamond_gym.trainers.two_stage import TwoStageTrainer
from diamond_gym.trainers.world_model import WorldModelTrainer

CPU = torch.device("cpu")
CONFIG = replace(
    worlds.CONFIG, across_lives=True, denoiser_focus=0.25, appearance_focus=0.25, prioritized=0.25, focus=0.5
)


def shown(copies, store, episode, t):
    frames = copies.pixels(torch.from_numpy(copies(episode, t)))
    assert frames.dtype == torch.uint8
    np.testing.assert_array_equal(frames.numpy(), store.frames(episode, t))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 7)), min_size=1, max_size=12), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_frames_are_the_stores_while_it_grows(tmp_path_factory, growth, seed):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("store")
    writer = EpisodeStore(folder, "a", worlds.ABOUT)
    reader, copies, moves = EpisodeStore(folder), None, []
    for goes_on, steps in growth:
        frames = rng.integers(256, size=(steps + 1, worlds.SIZE, worlds.SIZE, 3), dtype=np.uint8)
        open_episodes = [n for n in range(len(writer)) if not writer[n].over]
        number = int(rng.choice(open_episodes)) if goes_on and open_episodes else None
        if number is not None:
            frames[0] = writer[number].obs[-1]
        end = np.arange(steps) == steps - 1 if rng.random() < 0.3 else np.zeros(steps, bool)
        writer.write([(number, Episode(frames, np.zeros(steps, np.int64), end=end))])
        reader.refresh()
        copies = copies or FramesOnDevice(reader, CPU, lambda: moves.append(0))
        episode = rng.integers(len(reader), size=(3, 4))
        shown(copies, reader, episode, rng.integers(reader.lengths[episode] + 1))
        for number, length in enumerate(reader.lengths):
            shown(copies, reader, np.full(length + 1, number), np.arange(length + 1))
    assert copies._used == reader.num_steps + len(reader), "each frame is copied once"
    assert len(moves) <= 1 + np.log2(copies._used), "room is doubled"


def test_files_that_others_delete(tmp_path):
    store = worlds.store(tmp_path / "walks", 4)
    copies = FramesOnDevice(store, CPU)
    shown(copies, store, np.array([0, 3]), np.array([0, 1]))
    (tmp_path / "walks" / store.pieces(1)[0].path).unlink()
    store.refresh()
    assert len(store) == 3
    shown(copies, store, np.array([0, 1, 2]), np.array([0, 1, 1]))


def test_frames_that_do_not_fit_stay_where_they_are(tmp_path, monkeypatch):
    store, moves = worlds.store(tmp_path / "walks", 6), []
    size = store.num_steps + len(store)
    for room, numbers in ((size, True), (size - 1, False)):
        monkeypatch.setattr(on_device, "free_memory", lambda device, room=room: 4 * room * 3 * worlds.SIZE**2)
        copies = FramesOnDevice(store, CPU, lambda: moves.append(0))
        assert (copies(np.array([0]), np.array([1])).dtype == np.int64) == numbers
        shown(copies, store, np.array([0, 3]), np.array([0, 1]))
    assert len(moves) == 2, "graphs are forgotten before the copies are"


def fit(kind, config, store, monkeypatch, device="cpu", copies=True, grow=None):
    """Metrics of a training with or without the frames on its device."""
    made = FramesOnDevice if copies else lambda *_: None
    monkeypatch.setattr(world_model, "copies_of", made)
    trainer = kind(config, store, 16, seed=1, device=device)
    assert (trainer._copies is not None) == copies
    metrics = []
    for step in range(16):
        if grow is not None and step in (7, 11):
            grow(step)
            trainer.denoiser_batches.store.refresh()
        metrics.append({name: float(value) for name, value in trainer.train_step().items()})
    return metrics


@pytest.mark.parametrize("dreams_from", [0.3, 1.0])
def test_a_training_is_the_same_bit_for_bit(dreams_from, tmp_path, monkeypatch):
    config, results = replace(CONFIG, reward_end_dreams_from=dreams_from), []
    for copies in (True, False):
        folder = tmp_path / str(copies)
        worlds.store(folder, 6)
        results.append(
            fit(
                WorldModelTrainer,
                config,
                EpisodeStore(folder),
                monkeypatch,
                copies=copies,
                grow=lambda step, folder=folder: worlds.store(folder, 2, seed=step),
            )
        )
    assert results[0] == results[1]


def test_the_dynamics_of_two_stages_too(tmp_path, monkeypatch):
    store = two_stages.store(tmp_path / "large")
    both = [fit(TwoStageTrainer, two_stages.CONFIG, store, monkeypatch, copies=copies) for copies in (True, False)]
    assert both[0] == both[1]


@pytest.mark.gpu
def test_on_a_gpu_with_a_store_that_outgrows_its_place(tmp_path, monkeypatch):
    results = []
    for copies in (True, False):
        folder = tmp_path / str(copies)
        worlds.store(folder, 6)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        results.append(
            fit(
                WorldModelTrainer,
                CONFIG,
                EpisodeStore(folder),
                monkeypatch,
                "cuda",
                copies,
                lambda step, folder=folder: worlds.store(folder, 12, seed=step),
            )
        )
    for one, other in zip(*results, strict=True):
        assert one == pytest.approx(other, rel=0.05)
