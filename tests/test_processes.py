"""Two processes that train together hold the same weights, draw different rows, and only the first one writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import worlds
from two_stages import store as large_store

from diamond_gym.errors import BadArgument
from diamond_gym.trainers.loop import ALONE, launch, own_rows
from diamond_gym.trainers.run import CHECKPOINT, RunFolder

pytest.importorskip("lightning_fabric")


def torchrun(*words: str) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes have trained, and what each of them has."""
    folder = tmp_path_factory.mktemp("two")
    worlds.store(folder / "walks")
    large_store(folder / "large")
    torchrun("two_processes.py", str(folder))
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_there_were_two(two):
    _, results = two
    assert [(result["rank"], result["world"]) for result in results] == [(0, 2), (1, 2)]
    assert all(result["any"] == [False, True] and result["mean"] == {"rank": 0.5} for result in results)


@pytest.mark.parametrize("which", ["everything", "uneven", "two_stages", "agent", "diamond"])
def test_both_have_the_same_finite_weights(two, which):
    _, results = two
    one, other = (result[which][1] for result in results)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], value) and value.isfinite().all() for key, value in other.items())


@pytest.mark.parametrize("which", ["everything", "agent"])
def test_each_draws_rows_of_its_own(two, which):
    _, results = two
    one, other = (torch.as_tensor(result[which][2]) for result in results)
    assert one.shape != other.shape or not torch.equal(one, other)


@pytest.mark.parametrize("which", ["everything", "uneven", "two_stages", "agent", "diamond"])
def test_losses_are_finite(two, which):
    for result in two[1]:
        assert all(torch.isfinite(torch.tensor(list(step.values()))).all() for step in result[which][0])


def test_logged_losses_are_means_over_both(two):
    one, other = (result["everything"][0] for result in two[1])
    assert [step["denoiser/loss"] for step in one] == [step["denoiser/loss"] for step in other]


def test_the_outer_loop_plays_once(two):
    _, (one, other) = two
    for episode, same in zip(one["diamond"][2], other["diamond"][2], strict=True):
        assert all((a == b).all() for a, b in zip(episode, same, strict=True))
    assert [figures["real/steps"] for figures in one["diamond"][0]] == [28, 36, 40, 40]


def test_the_first_process_writes(two, tmp_path):
    with RunFolder(tmp_path, tensorboard=False), RunFolder(tmp_path, tensorboard=False, main=False) as other:
        other.save({"step": 1})
        other.log(1, {"loss": 1.0})
        other.settle({"lr": 1})
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}
        assert other.load() is None
    for name, steps in (("diamond", [1, 2, 3, 4]), ("uneven", [1, 2, 3, 4, 5, 6])):
        lines = (two[0] / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == steps


@pytest.mark.slow
def test_the_command_on_two_processes(tmp_path):
    """`torchrun --nproc-per-node 2 -m diamond_gym -- train ...`, interrupted by nothing, and once more."""
    from test_kill import EPOCHS, WORDS

    run = tmp_path / "run"
    torchrun("-m", "diamond_gym", "--", *WORDS, "--run", str(run))
    assert torch.load(run / CHECKPOINT)["epoch"] == EPOCHS
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps, scores = [line["step"] for line in lines], [line["final/score"] for line in lines if "final/score" in line]
    assert len(scores) == 1 and -1 <= scores[0] <= 1
    assert [line["step"] for line in lines if "denoiser/loss" in line] == list(range(1, EPOCHS + 1))
    assert steps == sorted(steps) and set(steps) == set(range(1, EPOCHS + 1))
    before = (run / CHECKPOINT).read_bytes()
    torchrun("-m", "diamond_gym", "--", *WORDS, "--run", str(run))
    assert (run / CHECKPOINT).read_bytes() == before


def test_a_batch_is_divided_as_evenly_as_can_be():
    for world in range(1, 6):
        for batch in range(world, 12):
            rows = []
            for rank in range(world):
                process = SimpleNamespace(global_rank=rank, world_size=world)
                rows.append(own_rows(process, batch))
            assert sum(rows) == batch and max(rows) - min(rows) <= 1
    with pytest.raises(BadArgument, match="5 processes cannot share a batch of 4"):
        own_rows(process, 4)


def test_alone_without_torchrun(monkeypatch):
    assert launch() is ALONE and ALONE.is_global_zero
    monkeypatch.setenv("WORLD_SIZE", "2")  # somebody else's variable: torchrun sets more than that
    assert launch() is ALONE
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(BadArgument, match="with torchrun, --device must be"):
        launch("mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadArgument, match="2 processes need as many GPUs, but there are 1"):
        launch("cuda")
