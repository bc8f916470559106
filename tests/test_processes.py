"""Two processes that share batches end with the losses and the weights of one that has them whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes
import worlds

from diamond_gym.errors import BadArgument
from diamond_gym.trainers.loop import ALONE, Processes, launch
from diamond_gym.trainers.run import CHECKPOINT, RunFolder

pytest.importorskip("lightning_fabric")


def torchrun(*words: str) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process finds, and what the two find."""
    folder = tmp_path_factory.mktemp("two")
    store = worlds.store(folder / "walks")
    torchrun("two_processes.py", str(folder))
    alone = {
        "plain": two_processes.fit(store, two_processes.PLAIN),
        "everything": two_processes.fit(store, two_processes.EVERYTHING),
        "uneven": two_processes.fit(store, two_processes.UNEVEN),
        "agent": two_processes.agent(),
        "diamond": two_processes.diamond(folder / "alone"),
    }
    return alone, *(torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2))


def leaves(tree):
    """All tensors and numbers of nested data, by their places."""
    if isinstance(tree, dict):
        return {f"{key}.{k}": v for key, value in tree.items() for k, v in leaves(value).items()}
    if isinstance(tree, list | tuple):
        return leaves(dict(enumerate(tree)))
    return {"": tree}


def same(tree, other, **tolerance):
    first, second = leaves(tree), leaves(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        if torch.is_tensor(value):
            torch.testing.assert_close(second[key], value, **tolerance, msg=lambda text, key=key: f"{key}: {text}")
        else:
            assert second[key] == value, key


def test_there_were_two(found):
    _, one, two = found
    assert (one["rank"], two["rank"], one["world"], two["world"]) == (0, 1, 2, 2)
    assert one["any"] == two["any"] == [False, True]


@pytest.mark.parametrize("which", ["plain", "everything", "uneven", "agent", "resumed"])
def test_both_have_the_same_bits(found, which):
    _, one, two = found
    same(one[which], two[which], rtol=0, atol=0)


@pytest.mark.parametrize("which", ["plain", "everything", "uneven", "agent"])
def test_losses_and_weights_are_those_of_one_process(found, which):
    alone, one, _ = found
    for mine, theirs in zip(alone[which][0], one[which][0], strict=True):
        assert mine.keys() == theirs.keys()
        assert [theirs[key] for key in mine] == pytest.approx(list(mine.values()), rel=1e-4, abs=1e-6)
        assert all(np.isfinite(value) for value in mine.values())
    same(alone[which][1], one[which][1], rtol=1e-3, atol=1e-5)


def test_the_uneven_shares_include_one_without_a_real_step(tmp_path):
    """Else the case of a share that has nothing to learn from would not have been tried."""
    from diamond_gym.trainers.world_model import WorldModelTrainer

    fit = WorldModelTrainer(two_processes.UNEVEN, worlds.store(tmp_path / "walks"), 10, seed=3)
    masks = [fit.reward_end_batches.sample().mask_padding[:, :-1] for _ in range(two_processes.STEPS)]
    assert any(not mask[row].any() and mask.any() for mask in masks for row in range(2))


def test_a_training_goes_on_with_another_number_of_processes(found):
    alone, one, _ = found
    same(alone["agent"][1], one["resumed"][1], rtol=1e-3, atol=1e-5)  # from one process to two
    _, whole = two_processes.agent(state=one["interrupted"][1], steps=two_processes.STEPS - 2)  # and from two to one
    same(alone["agent"][1], whole, rtol=1e-3, atol=1e-5)


def test_the_outer_loop_plays_once_and_learns_together(found):
    alone, one, two = found
    figures, weights, episodes = alone["diamond"]
    same(one["diamond"][1], two["diamond"][1], rtol=0, atol=0)
    for one_episode, two_episode, episode in zip(one["diamond"][2], two["diamond"][2], episodes, strict=True):
        for first, second, third in zip(one_episode, two_episode, episode, strict=True):
            assert (first == second).all() and (first == third).all()
    assert [f["real/steps"] for f in one["diamond"][0]] == [28, 36, 40, 40]
    for mine, theirs in zip(figures, one["diamond"][0], strict=True):
        # a pixel may fall on another of 256 levels with another size of batch
        assert [theirs[key] for key in mine] == pytest.approx(list(mine.values()), rel=0.02, abs=0.02)
    assert one["diamond"][1].keys() == weights.keys()


def test_one_process_writes(found, tmp_path):
    with RunFolder(tmp_path, tensorboard=False), RunFolder(tmp_path, tensorboard=False, main=False) as other:
        other.save({"step": 1})
        other.log(1, {"loss": 1.0})
        other.settle({"lr": 1})
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}
        assert other.load() is None
    folder = found[1]["folder"] / "diamond"
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_command_on_two_processes(tmp_path):
    """`torchrun --nproc-per-node 2 -m diamond_gym.cli -- train ...`, interrupted by nothing, and once more."""
    from test_kill import EPOCHS, WORDS

    run = tmp_path / "run"
    torchrun("-m", "diamond_gym.cli", "--", *WORDS, "--run", str(run))
    assert torch.load(run / CHECKPOINT)["epoch"] == EPOCHS
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps, scores = [line["step"] for line in lines], [line["final/score"] for line in lines if "final/score" in line]
    assert len(scores) == 1 and -1 <= scores[0] <= 1
    assert [line["step"] for line in lines if "denoiser/loss" in line] == list(range(1, EPOCHS + 1))
    assert steps == sorted(steps) and set(steps) == set(range(1, EPOCHS + 1))
    before = (run / CHECKPOINT).read_bytes()
    torchrun("-m", "diamond_gym.cli", "--", *WORDS, "--run", str(run))
    assert (run / CHECKPOINT).read_bytes() == before


def test_shares_cover_the_batch():
    for world in range(1, 6):
        for joint in range(world, 12):
            rows = []
            for rank in range(world):
                processes = Processes()
                processes.rank, processes.world = rank, world
                share = processes.share(joint)
                assert torch.equal(share.own(torch.arange(joint)), torch.arange(joint)[share.rows])
                assert len(share) in (joint // world, joint // world + 1)
                rows += range(joint)[share.rows]
            assert rows == list(range(joint))
    with pytest.raises(BadArgument, match="5 processes cannot share a batch of 4"):
        processes.share(4)


def test_alone_without_torchrun(monkeypatch):
    assert launch() is ALONE and ALONE.main and ALONE.alone
    monkeypatch.setenv("WORLD_SIZE", "2")  # somebody else's variable: torchrun sets more than that
    assert launch() is ALONE
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(BadArgument, match="under torchrun --device is"):
        launch("mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadArgument, match="2 processes need as many GPUs, and there are 1"):
        launch("cuda")
