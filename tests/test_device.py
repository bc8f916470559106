"""What the machine is good for: threads by the load, a precision that is decided once."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stubs import save_tiny_model

from diamond_gym import device
from diamond_gym.cli import main
from diamond_gym.device import bfloat16_pays, free_cores_only, pick_precision, running_elsewhere
from diamond_gym.envs import DreamEnv, DreamVectorEnv

CPU = torch.device("cpu")


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Sets the number of threads that run on a machine of eight cores, whose torch takes four."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "_LOADAVG", tmp_path / "loadavg")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)

    def load(running):
        (tmp_path / "loadavg").write_text(f"0.10 0.20 0.30 {running + 1}/300 4711\n")

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield load
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("running", "threads"), [(0, 4), (4, 4), (5, 3), (7, 1), (8, 1), (30, 1)])
def test_no_more_threads_than_free_cores(load, running, threads, capsys):
    load(running)
    assert running_elsewhere() == running
    with free_cores_only():
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (threads < 4)
    if said:
        assert f"({running} other threads run on 8 cores): computing with {threads} of 4 threads" in said[0]


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_users_number_of_threads_stands(load, name, monkeypatch, capsys):
    load(30)
    monkeypatch.setenv(name, "4")
    with free_cores_only():
        assert torch.get_num_threads() == 4
    assert not capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "", "1 2 3 x/9 4"])
def test_without_a_run_queue_there_is_the_load_average(load, content, tmp_path, monkeypatch):
    if content is not None:
        (tmp_path / "loadavg").write_text(content)
    monkeypatch.setattr(os, "getloadavg", lambda: (5.7, 0.0, 0.0))
    assert running_elsewhere() == 5
    monkeypatch.delattr(os, "getloadavg")
    assert running_elsewhere() == 0


def test_commands_make_room_and_libraries_leave_the_threads_alone(load, capsys, monkeypatch):
    load(7)
    save_tiny_model()
    counts = []
    watched = DreamVectorEnv.step
    monkeypatch.setattr(
        DreamVectorEnv, "step", lambda self, act: counts.append(torch.get_num_threads()) or watched(self, act)
    )
    assert main(["dream", "--model", "tiny", "--steps", "2", "--device", "cpu"]) == 0
    assert capsys.readouterr().err.startswith("the machine is overloaded")
    assert main(["list"]) == 0 and main(["dream", "--help"]) == 0
    assert not capsys.readouterr().err
    envs = DreamVectorEnv(model="tiny", num_envs=2, device="cpu")
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    assert counts == [1, 1, 4]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """How often bfloat16 has been measured, with what answers; in a cache of the test's own."""
    answers, asked = [True, False, True, False], []
    monkeypatch.setattr(device, "measure_bfloat16", lambda _: asked.append(answers[len(asked)]) or asked[-1])
    monkeypatch.setattr(device, "user_folder", lambda _: tmp_path / "cache")
    bfloat16_pays.cache_clear()
    yield asked
    bfloat16_pays.cache_clear()


@pytest.mark.parametrize(("capability", "pays"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_is_asked_for_its_kind_and_not_measured(measured, monkeypatch, capability, pays):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert bfloat16_pays(torch.device("cuda")) == pays and not measured


def another_process():
    bfloat16_pays.cache_clear()
    device._passing_cache.cache_clear()
    return pick_precision("auto", CPU)


def test_a_precision_is_decided_once_for_a_machine(measured, tmp_path, monkeypatch):
    assert another_process() == another_process() == "bfloat16"
    assert measured == [True]
    (kept,) = (tmp_path / "cache" / "precision").glob("*.txt")
    assert kept.read_text() == "bfloat16\n"
    for damage, found in ((b"", "float32"), (b"\xff\x00", "bfloat16"), (b"float32\nfloat32\n", "float32")):
        kept.write_bytes(damage)
        assert another_process() == another_process() == found
        assert kept.read_text() == f"{found}\n"
    assert measured == [True, False, True, False]
    monkeypatch.setattr(device, "processor_name", lambda: "another one")
    measured.clear()
    assert another_process() == "bfloat16" and len(measured) == 1


@pytest.mark.parametrize("fault", ["a file in its place", "no home", "full"])
def test_without_a_cache_each_process_decides(measured, fault, tmp_path, monkeypatch, capfd):
    if fault == "a file in its place":
        (tmp_path / "cache").write_text("")
    elif fault == "full":

        @contextlib.contextmanager
        def full(*_):
            raise device.DiskFull("the disk is full")
            yield

        monkeypatch.setattr(device, "atomic_write", full)
    else:
        monkeypatch.setattr(device, "user_folder", lambda _: None)
    asked = [another_process() for _ in range(2)]
    assert asked[0] in ("bfloat16", "float32") and len(measured) >= 2
    assert capfd.readouterr() == ("", "")


def test_environments_tell_the_precision(measured):
    save_tiny_model()
    for kind in (DreamEnv, DreamVectorEnv):
        env = kind(model="tiny", device="cpu")
        assert env.precision == env.world_model.precision == "bfloat16"
        env.close()


def test_two_processes_decide_the_same(tmp_path):
    """Each would answer otherwise; the second one waits for the first."""
    program = """
import sys, time, torch
from diamond_gym import device
device.measure_bfloat16 = lambda _: time.sleep(0.5) or sys.argv[1] == "yes"
print(device.bfloat16_pays(torch.device("cpu")))
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    options = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([sys.executable, "-c", program, answer], **options) for answer in ("yes", "no")]
    found = {process.communicate()[0] for process in running}
    assert len(found) == 1 and found <= {"True\n", "False\n"}
    assert len(list(Path(tmp_path).glob("*/precision/*.txt"))) == 1
