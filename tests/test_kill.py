"""Trainings killed with SIGKILL at chosen points: the same call again goes on to the bits of one left alone."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from diamond_gym.data import EpisodeStore, episode_files
from diamond_gym.errors import DiamondGymError
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.collect import Collector
from diamond_gym.trainers.run import CHECKPOINT, RunFolder
from diamond_gym.trainers.world_model import WorldModelTrainer

EPOCHS, FINAL = 4, "final.pt"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def half_save(state, path):
    """torch.save, were it killed in its midst."""
    whole(state, path)
    os.truncate(path, os.path.getsize(path) // 2)
    die()


def half_write(contents):
    """What the store writes with, were it killed in its midst."""
    for path, content in contents:
        path.with_name(f".{path.stem}.tmp.safetensors").write_bytes(content[: len(content) // 2])
    die()


def write_some(contents):
    """The same, killed when the first of the files is in its place."""
    write(contents[:1])
    die()


def after(function):
    """A function that kills when it is done."""
    return lambda *words: die(function(*words))


whole, write, rename = torch.save, episode_files.write_files, os.replace
# name: what is replaced, by what, and at which of its calls
POINTS = {
    "collecting": (Collector, "_step", die, 7),
    "storing an episode": (episode_files, "write_files", half_write, 1),
    "storing several": (episode_files, "write_files", write_some, 2),
    "world model": (WorldModelTrainer, "train_step", die, 2),
    "agent": (ActorCriticTrainer, "train_step", die, 4),
    "saving": (torch, "save", half_save, 1),
    "before renaming": (os, "replace", die, 1),
    "after renaming": (os, "replace", after(os.replace), 1),
    "logging": (RunFolder, "log", die, 2),
}


def at_call(count, usual, fatal):
    """The usual function, but for one call; of renamings those of the checkpoint count."""
    calls = 0

    def counting(*words, **options):
        nonlocal calls
        calls += usual is not rename or Path(words[1]).name == CHECKPOINT
        if usual is rename and Path(words[1]).name != CHECKPOINT:
            return usual(*words)
        return (fatal if calls == count else usual)(*words, **options)

    return counting


def arm(point):
    torch.set_num_threads(1)
    if point is not None:
        owner, name, fatal, count = POINTS[point]
        setattr(owner, name, at_call(count, getattr(owner, name), fatal))


def train(folder, point=None):
    """The whole training, or what there is of it until the point."""
    from catch_loop import begin

    arm(point)
    with RunFolder(folder, tensorboard=False) as run:
        diamond = begin(run)
        while diamond.epoch < EPOCHS:
            diamond.train_epoch()
        diamond.close()
        weights = diamond.world_model.world_model.weights() | diamond.agent.agent.state_dict()
        episodes = [(episode.obs, episode.act, episode.rew) for episode in diamond.store]
        whole({"weights": weights, "episodes": episodes}, folder / FINAL)


WORDS = (
    *("train", "--env", "DiamondGym/Catch-v0", "--preset", "smoke", "--precision", "float32", "--device", "cpu"),
    *("--epochs", f"{EPOCHS}", "--real-steps", "40", "--first-steps", "20", "--first-steps-at-most", "30"),
    *("--steps-per-epoch", "8", "--num-envs", "1", "--world-model-steps", "2", "--agent-steps", "2"),
    *("--first-world-model-steps", "3", "--first-agent-steps", "3", "--num-starts", "8", "--test-every", "2"),
    *("--test-episodes", "2", "--final-episodes", "2", "--videos-every", "0"),
    *(
        "--fit.denoiser.inner-model.channels",
        "8",
        "8",
        "8",
        "--fit.denoiser.inner-model.cond-channels",
        "16",
        "--fit.reward-end.channels",
        "8",
        "8",
        "8",
    ),
)


def command(folder, point=None):
    """The same by `diamond-gym train`."""
    from diamond_gym import cli

    arm(point)
    sys.exit(cli.main([*WORDS, "--run", str(folder)]))


def hold(folder, held, let_go):
    with RunFolder(folder, tensorboard=False):
        held.set()
        let_go.wait()


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that find torch loaded already, and what it loads with the first optimizer: 800 modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_kill", "catch_loop", "torch._dynamo"])
    with mock.patch.dict(os.environ, {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}):
        yield context


@pytest.fixture(scope="module")
def run(processes):
    def run(folder, point=None, how=train):
        child = processes.Process(target=how, args=(folder, point))
        child.start()
        child.join()
        return child.exitcode

    return run


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder) == 0
    return torch.load(folder / FINAL, weights_only=False)


def same(folder, expected):
    found = torch.load(folder / FINAL, weights_only=False)
    assert all(torch.equal(found["weights"][key], value) for key, value in expected["weights"].items())
    assert len(found["episodes"]) == len(expected["episodes"])
    for episode, other in zip(found["episodes"], expected["episodes"], strict=True):
        assert all((part == same_part).all() for part, same_part in zip(episode, other, strict=True))


def test_killed_again_and_again(run, expected, tmp_path):
    """Nine deaths of one training, in its first epoch and in later ones."""
    for point in POINTS:
        assert run(tmp_path, point) == -signal.SIGKILL, f"never came to {point}"
    assert not (tmp_path / FINAL).exists()
    assert run(tmp_path) == 0
    same(tmp_path, expected)
    litter = {path.name for path in tmp_path.iterdir() if ".tmp-" in path.name}
    assert not litter, "what a killed process left behind is cleared away by the next"


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_once(run, expected, tmp_path, point):
    assert run(tmp_path, point) == -signal.SIGKILL
    assert run(tmp_path) == 0
    same(tmp_path, expected)
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(set(lines)) and set(lines) <= set(range(1, EPOCHS + 1))


def made(folder):
    """Networks and experience that a command has left."""
    state = torch.load(folder / CHECKPOINT)
    assert state["epoch"] == EPOCHS
    with EpisodeStore(folder / "experience") as store:
        episodes = [(episode.obs, episode.act, episode.rew) for episode in store]
    torch.save({"weights": state["world_model"]["weights"] | state["agent"]["agent"], "episodes": episodes},
               folder / FINAL)  # fmt: skip
    return folder


@pytest.mark.slow
def test_the_command_killed_again_and_again(run, tmp_path):
    """`diamond-gym train`, the same words each time."""
    assert run(tmp_path / "whole", how=command) == 0
    expected = torch.load(made(tmp_path / "whole") / FINAL, weights_only=False)
    for point in POINTS:
        assert run(tmp_path / "killed", point, command) == -signal.SIGKILL, f"never came to {point}"
    assert run(tmp_path / "killed", how=command) == 0
    same(made(tmp_path / "killed"), expected)
    assert run(tmp_path / "killed", how=command) == 0  # once more: there is nothing left to do
    same(made(tmp_path / "killed"), expected)


@pytest.mark.slow
def test_killed_at_any_moment(processes, expected, tmp_path):
    """By the clock, wherever that is, later each time, until it is through."""
    for attempt in range(30):
        child = processes.Process(target=train, args=(tmp_path,))
        child.start()
        child.join(0.3 * 1.3**attempt)
        if not child.is_alive():
            break
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert child.exitcode == 0
    assert attempt > 2
    same(tmp_path, expected)


def test_a_second_process_is_refused_and_the_dead_hold_nothing(processes, tmp_path):
    held, let_go = processes.Event(), processes.Event()
    child = processes.Process(target=hold, args=(tmp_path, held, let_go))
    child.start()
    held.wait()
    with pytest.raises(DiamondGymError, match="another process is training"):
        RunFolder(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    RunFolder(tmp_path).close()


def test_diverged_training_keeps_the_last_good_checkpoint(tmp_path):
    from catch_loop import begin

    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run)
        diamond.train_epoch()
        good = (tmp_path / CHECKPOINT).read_bytes()
        with torch.no_grad():
            diamond.agent.agent.critic_linear.weight.fill_(float("nan"))
        with pytest.raises(DiamondGymError, match=r"agent/\w+ became nan by step 5.*last good checkpoint is kept"):
            diamond.train_epoch()
        diamond.close()
        diamond = begin(run)
        assert diamond.epoch == 1
        with torch.no_grad():
            diamond.world_model.world_model.denoiser.inner_model.conv_in.weight.fill_(float("inf"))
        with pytest.raises(DiamondGymError, match=r"denoiser/\w+ became nan by step 5"):
            diamond.train_epoch()
        diamond.close()
        assert (tmp_path / CHECKPOINT).read_bytes() == good
        diamond = begin(run)
        assert all(torch.isfinite(value).all() for value in diamond.agent.agent.state_dict().values())
        assert torch.isfinite(torch.tensor(list(diamond.train_epoch().values()))).all()
        diamond.close()
