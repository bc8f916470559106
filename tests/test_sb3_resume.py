"""Trainings of Stable-Baselines3's agents that stop, or are killed, and go on with SB3's own saved state."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

import torch
from stubs import save_tiny_model
from test_kill import at_call, die, half_save
from test_train_agent import SIDE, config, dream_of_stubs

from diamond_gym import cli
from diamond_gym.errors import DamagedModel
from diamond_gym.trainers import sb3
from diamond_gym.trainers.loop import Rhythm, train
from diamond_gym.trainers.run import CHECKPOINT, RunFolder
from diamond_gym.trainers.sb3 import ALGORITHMS, AgentConfig, SB3Trainer
from diamond_gym.trainers.sb3_files import open_agent

OFTEN = Rhythm(log_steps=8, checkpoint_seconds=0)


@pytest.fixture
def stub_dreams(monkeypatch):
    dream_of_stubs(monkeypatch)


@pytest.fixture
def short(monkeypatch):
    """Settings by which everything that DQN does now and then happens within a few steps."""
    usual = AgentConfig.settings

    def settings(self):
        of_dqn = {"target_update_interval": 10, "buffer_size": 32, "batch_size": 8}
        return usual(self) | (of_dqn if self.algo == "dqn" else {"n_steps": 4})

    monkeypatch.setattr(AgentConfig, "settings", settings)


def run_training(folder, rollouts=None, **words):
    """Trains for so many rollouts, or to the end, in a trainer of its own, which is returned."""
    with RunFolder(folder, tensorboard=False) as run, SB3Trainer(config(**words), run) as trainer:
        if rollouts is None:
            train(trainer, run)
        else:
            for _ in range(rollouts):
                trainer.train_step()
            run.save(trainer.state_dict())
    return trainer


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize(
    "algo", [name for name in ALGORITHMS if name != "sac"]
)  # whose actions are numbers within bounds
def test_goes_on_with_what_it_had_learnt(algo, frame_stack, tmp_path, stub_dreams, short):
    words = {"algo": algo, "steps": 60, "frame_stack": frame_stack}
    before = run_training(tmp_path, 3, **words)
    with RunFolder(tmp_path, tensorboard=False) as run, SB3Trainer(config(**words), run) as trainer:
        assert (trainer.step, trainer.seconds, trainer.settings) == (before.step, before.seconds, before.settings)
        twin = before.agent.get_parameters()
        for part, state in trainer.agent.get_parameters().items():
            assert same(state, twin[part]), part  # optimizer included
    assert run_training(tmp_path, **words).step >= 60


def same(one, other):
    """Whether two states are equal to the bits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_dqn_goes_on_with_its_schedule_and_its_replay_buffer(tmp_path, stub_dreams, short):
    words = {"algo": "dqn", "steps": 100}
    before = run_training(tmp_path, 5, **words)
    with RunFolder(tmp_path, tensorboard=False) as run, SB3Trainer(config(**words), run) as trainer:
        assert (trainer.step, trainer.agent._n_calls, trainer.agent.replay_buffer.size()) == (10, 5, 5)
        np.testing.assert_array_equal(trainer.agent.replay_buffer.observations, before.agent.replay_buffer.observations)
        assert trainer.agent.exploration_rate == before.agent.exploration_rate == pytest.approx(1 - 0.98 * 0.4)
        trainer.train_step()
        assert trainer.agent.exploration_rate == pytest.approx(1 - 0.98 * 0.48)
    done = run_training(tmp_path, **words)
    assert done.step == 100 and done.agent.exploration_rate == pytest.approx(0.02)


def test_returns_of_a_resumed_dqn_stop_where_the_run_was_stopped(tmp_path, stub_dreams, short):
    """What is stored next is of other dreams, which do not follow from these."""
    words = {"algo": "dqn", "steps": 100}
    run_training(tmp_path, 5, **words)
    with RunFolder(tmp_path, tensorboard=False) as run, SB3Trainer(config(**words), run) as trainer:
        buffer = trainer.agent.replay_buffer
        last = buffer.pos - 1
        assert np.logical_or(buffer.timeouts[last], buffer.dones[last]).all()


def test_more_steps_go_on_with_the_settings_of_the_beginning(tmp_path, stub_dreams):
    first = run_training(tmp_path, algo="ppo", steps=32)
    assert run_training(tmp_path, algo="ppo", steps=32).seconds == first.seconds  # nothing was left to do
    more = run_training(tmp_path, 1, algo="ppo", steps=100_000)
    assert (more.step, more.total_steps) == (48, 100_000)
    assert more.settings == first.settings != config(algo="ppo", steps=100_000).settings()


def test_real_games_go_on(tmp_path):
    pytest.importorskip("ale_py")
    words = {"algo": "dqn", "steps": 30, "real": True, "frame_stack": 2}
    assert run_training(tmp_path, 12, **words).step == 24
    assert run_training(tmp_path, **words).step == 30


def test_a_checkpoint_of_another_kind(tmp_path, stub_dreams):
    run_training(tmp_path, 1, algo="a2c")
    torch.save({"step": 1, "agent": {}}, tmp_path / CHECKPOINT)
    with pytest.raises(DamagedModel, match="of another version of diamond-gym"):
        run_training(tmp_path, 1, algo="a2c")


WORDS = (
    *("train-agent", "--game", "Breakout", "--model", "tiny", "--n-envs", "2", "--max-episode-steps", "5"),
    *("--device", "cpu", "--episodes", "0"),
)


def command(*words):
    return cli.main([*WORDS, *words])


def test_the_command_goes_on(home, capsys):
    save_tiny_model(size=SIDE)
    words = ("--algo", "a2c", "--steps", "64")
    assert command(*words, "--minutes", "1e-9") == 0
    said = capsys.readouterr().err
    assert "runs/tiny-agent-a2c: step 0 of 64 of A2C in dreams of tiny" in said
    assert "stopped at step 16 of 64; repeat the command to go on" in said
    assert open_agent(home / "agents" / "breakout-a2c.zip").card.steps == 16
    assert command(*words) == 0
    said = capsys.readouterr().err
    assert "runs/tiny-agent-a2c: step 16 of 64" in said and "saved" in said and "stopped" not in said
    card = open_agent(home / "agents" / "breakout-a2c.zip").card
    assert card.steps == 64
    assert command(*words, "--register") == 0  # all is done but that
    said = capsys.readouterr().err
    assert "step 64 of 64" in said and "registered the agent with tiny" in said
    assert open_agent(home / "agents" / "breakout-a2c.zip").card == card
    assert command(*words) == 0  # in a model that has been written anew with its agent


def test_a_run_keeps_its_options(tmp_path, capsys):
    save_tiny_model(size=SIDE)
    words = ("--algo", "a2c", "--steps", "16", "--run", str(tmp_path))
    assert command(*words) == 0
    before = (tmp_path / CHECKPOINT).read_bytes()
    for other, message in (
        (("--seed", "1"), "was begun with seed = 0, not 1; repeat its options or name another --run"),
        (("--n-envs", "3"), "was begun with n_envs = 2, not 3"),
        (("--algo", "ppo"), "was begun with algo = a2c, not ppo"),
        (("--quality", "paper"), "was begun with quality = None, not paper"),
    ):
        capsys.readouterr()
        assert command(*words, *other) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    save_tiny_model(size=SIDE, seed=1)  # another model of the same name
    assert command(*words) == 2
    assert "was begun with world_model" in capsys.readouterr().err
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_run_that_was_killed_before_its_first_checkpoint_has_not_begun(tmp_path, capsys, monkeypatch):
    save_tiny_model(size=SIDE)
    words = ("--algo", "a2c", "--steps", "16", "--run", str(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(SB3Trainer, "train_step", lambda _: 1 / 0)
        command(*words)
    assert (tmp_path / "settings.json").exists() and not (tmp_path / CHECKPOINT).exists()
    assert command(*words, "--seed", "1") == 0
    assert command(*words) == 2
    assert "was begun with seed = 1, not 0" in capsys.readouterr().err


def test_another_process_in_the_folder(tmp_path, capsys):
    save_tiny_model(size=SIDE)
    with RunFolder(tmp_path):
        assert command("--algo", "a2c", "--run", str(tmp_path)) == 1
    assert "another process is training in" in capsys.readouterr().err


def test_lines_where_there_is_no_terminal(monkeypatch, capsys):
    from diamond_gym.cli import terminal as progress

    save_tiny_model(size=SIDE)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    monkeypatch.setattr(sb3, "RHYTHM", OFTEN)
    assert command("--algo", "dqn", "--steps", "40") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == [f"{step}/40" for step in range(8, 41, 8)]
    assert all("return " in line and "steps/s, 0:0" in line and line.endswith("left") for line in lines[2:])


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that find torch and Stable-Baselines3 loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_sb3_resume", "diamond_gym.trainers.sb3", "torch._dynamo"])
    with mock.patch.dict(os.environ, {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}):
        yield context


save_checkpoint = RunFolder.save


def half_checkpoint(run, state):
    """A checkpoint, were the process killed while it is written."""
    torch.save = half_save
    save_checkpoint(run, state)


# what is replaced, by what, and at which of its calls
POINTS = {
    "before the first checkpoint": (SB3Trainer, "train_step", die, 1),
    "learning": (SB3Trainer, "train_step", die, 9),
    "saving": (RunFolder, "save", half_checkpoint, 3),
    "before renaming": (os, "replace", die, 4),
}


def killed(home, run, out, point):
    """The command in a process of its own, killed at a point."""
    os.environ["DIAMOND_GYM_HOME"] = str(home)
    torch.set_num_threads(1)
    sb3.RHYTHM = OFTEN
    if point is not None:
        owner, name, fatal, count = POINTS[point]
        setattr(owner, name, at_call(count, getattr(owner, name), fatal))
    sys.exit(command("--algo", "dqn", "--steps", "32", "--run", str(run), "--out", str(out)))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_again_and_again(processes, home, tmp_path):
    save_tiny_model(size=SIDE)

    def go(run, point=None):
        child = processes.Process(target=killed, args=(home, tmp_path / run, tmp_path / f"{run}.zip", point))
        child.start()
        child.join()
        return child.exitcode

    assert go("whole") == 0
    for point in POINTS:
        assert go("parts", point) == -signal.SIGKILL, f"never came to {point}"
    assert not (tmp_path / "parts.zip").exists()
    assert go("parts") == 0
    assert not list((tmp_path / "parts").glob(".*.tmp-*"))
    whole, parts = (open_agent(tmp_path / f"{name}.zip") for name in ("whole", "parts"))
    assert whole.card.steps == parts.card.steps == 32
    assert whole.epsilon == parts.epsilon == pytest.approx(0.02)


def test_damage_is_told_in_one_line(tmp_path, capsys):
    save_tiny_model(size=SIDE)
    assert command("--algo", "a2c", "--steps", "16", "--run", str(tmp_path)) == 0
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    capsys.readouterr()
    assert command("--algo", "a2c", "--steps", "16", "--run", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert "is not a readable checkpoint; remove it to begin the run anew" in said and said.count("\n") == 1
