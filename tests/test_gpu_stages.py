"""The stages of `benchmarks/gpu.sh` at tiny sizes on a CPU, so that no GPU time is lost to a typing error."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import gpu_cells
import pytest
from test_train import TINY

from benchmarks import drift
from benchmarks.gpu import cells, curves, rates, table
from diamond_gym.registry import load_world_model
from diamond_gym.trainers.worlds import about_game

ONE_GAME = " ".join([*TINY, "--name", "tiny", "--final-episodes", "0"])
CELLS = {  # modules, options that leave one cell, and what it measures
    "table": (table, "--tiny --batches 1 --sizes paper --ways eager", "frames_per_s"),
    "rates": (rates, f"--only 0 --seconds 0.1 {' '.join(TINY)}", "a_second"),
}
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the stages are run by bash")


@pytest.fixture
def stages(root, tmp_path):
    """Runs stages on a CPU; returns the exit status and what was printed."""

    def run(*stages, **variables):
        names = {"OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "DEVICE": "cpu"}
        command = ["bash", str(root / "benchmarks" / "gpu.sh"), *stages]
        done = subprocess.run(command, env=os.environ | names | variables, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def recorder(tmp_path):
    """In Python's place: keeps the words it is called with and does nothing, for minutes where they say CutOff."""
    path, words = tmp_path / "python", tmp_path / "words"
    path.write_text(
        f"""#!/bin/sh
echo "$DIAMOND_GYM_HOME $*" >> {words}
case "$*" in *CutOff*) exec sleep 300 ;; esac
"""
    )
    path.chmod(0o755)
    return str(path), words


def unpacked(archive: Path) -> Path:
    with tarfile.open(archive) as file:
        file.extractall(archive.parent, filter="data")
    return archive.with_suffix("")


def test_worlds_are_trained_registered_and_packed_whatever_becomes_of_others(stages, tmp_path):
    pytest.importorskip("ale_py")
    # never done in its time, so that another command has to finish it
    status, said = stages("worlds", GAMES="Pong NoSuchGame", TRAIN=f"{ONE_GAME} --epochs 100000", MINUTES="0.2")
    assert status == 1, said
    folder = unpacked(tmp_path / "out" / "Pong.tar")
    model = load_world_model(str(folder / "tiny"), "cpu", "float32")
    assert model.actor_critic is not None and model.dream(1).reset(seed=0).shape == (1, 3, 64, 64), said
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["game"] == "Pong" and settings["loop"]["epochs"] == 100_000
    epochs = {json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    assert epochs == set(range(1, len(epochs) + 1)) and epochs
    log = (folder / "log.txt").read_text()
    assert "stopped with epoch" in log and log.count("registered tiny") == 1
    failed = unpacked(tmp_path / "out" / "NoSuchGame.tar")
    assert [path.name for path in failed.iterdir()] == ["log.txt"]
    assert "NoSuchGame" in (failed / "log.txt").read_text()


@pytest.mark.slow
def test_worlds_that_come_to_their_end_and_once_more_into_the_same_folder(stages, tmp_path):
    pytest.importorskip("ale_py")
    for epochs in (1, 2):
        status, said = stages("worlds", GAMES="Pong", TRAIN=f"{ONE_GAME} --epochs {epochs}")
        assert status == 0 and said.count("registered tiny") == 1, said
        folder = unpacked(tmp_path / "out" / "Pong.tar")
        assert (folder / "tiny" / "tiny.toml").exists()
        assert json.loads((folder / "settings.json").read_text())["loop"]["epochs"] == epochs


def test_the_ablation_is_one_process_for_each_game_and_seed(stages, recorder, tmp_path, monkeypatch):
    python, words = recorder
    variables = {"GAMES": "Pong CutOff", "SEEDS": "0 3", "ABLATION": "--updates 7", "ABLATION_S": "1"}
    status, said = stages("ablation", PYTHON=python, **variables)
    out = tmp_path / "out"
    assert status == 1, said  # one game had to be cut off
    homes, commands = zip(*(line.split(" ", 1) for line in words.read_text().splitlines()), strict=True)
    assert len(set(homes)) == 4, "they play and fit in folders of their own"
    assert sorted(commands) == [
        f"-m benchmarks.drift --games {game} --seeds {seed} --device cpu --precision bfloat16 "
        f"--out {out}/drift-{game}-{seed}.json --updates 7"
        for game in ("CutOff", "Pong")
        for seed in (0, 3)
    ]
    asked = []
    monkeypatch.setattr(drift, "run", lambda game, seed, args, results: asked.append((game, seed, args.out)))
    monkeypatch.setattr(drift, "print_tables", lambda results: None)
    monkeypatch.setattr(sys, "argv", sorted(commands)[-1].removeprefix("-m ").split())
    drift.main()
    assert asked == [("Pong", 3, out / "drift-Pong-3.json")]


@pytest.mark.slow
def test_the_ablation(stages, tmp_path):
    pytest.importorskip("ale_py")
    options = "--precision float32 --updates 2 --batch 2 --steps 400 --test-steps 300 --windows 2 --dreams 2"
    variables = {"GAMES": "Pong", "SEEDS": "1", "ABLATION_S": "500", "ABLATION": f"{options} --variants preset"}
    status, said = stages("ablation", **variables)
    assert status == 0, said
    results = json.loads((tmp_path / "out" / "drift-Pong-1.json").read_text())
    assert list(results["Pong"]["preset"]) == ["1"]


def test_the_gpu_tests_are_named(stages, recorder, root):
    python, words = recorder
    assert stages("tests", PYTHON=python)[0] == 0
    command = words.read_text().split()
    named = {word for word in command if word.startswith("tests/")}
    assert Counter(command)["-m"] == 2 and command[command.index("pytest") - 1] == "-m" and "gpu" in command
    assert "tests/test_recorded.py" in named and all((root / path).exists() for path in named)


@pytest.mark.parametrize("name", list(CELLS))
def test_the_commands_of_table_and_rates(name, stages, recorder, tmp_path, monkeypatch):
    python, words = recorder
    module, options, key = CELLS[name]
    monkeypatch.setattr(module, "measured", lambda prepare, cells, *_, **__: [prepare(**cell)() for cell in cells])
    assert stages(name, PYTHON=python, **{name.upper(): options})[0] == 0
    _, dash_m, called, *arguments = words.read_text().split()
    assert (dash_m, called) == ("-m", module.__name__)
    module.main(arguments)
    (line,) = json.loads((tmp_path / "out" / f"{name}.json").read_text())["lines"]
    assert line[key] > 0


@pytest.mark.slow
def test_table_and_rates(stages, tmp_path):
    status, said = stages("table", "rates", **{name.upper(): options for name, (_, options, _) in CELLS.items()})
    assert status == 0, said
    for name, (_, _, key) in CELLS.items():
        (line,) = json.loads((tmp_path / "out" / f"{name}.json").read_text())["lines"]
        assert line[key] > 0, line


def test_there_is_no_other_stage(stages):
    status, said = stages("world")
    assert status == 2 and "there is no stage world" in said


@pytest.mark.parametrize("way", ["graph", "plain", "eager"])
@pytest.mark.parametrize("size", ["paper", "nano"])
def test_cells_of_the_table(way, size):
    measure = table.prepare(way, size, "float32", "fast", 1, "cpu", tiny=True)
    assert measure()["frames_per_s"] > 0


def test_the_table_of_two_stages():
    (cell,) = [cell for cell in table.cells_of([1], ["csgo"], ["graph"]) if cell["quality"] == "fast"]
    assert table.prepare(**cell, device="cpu", tiny=True)()["frames_per_s"] > 0


@pytest.mark.parametrize("what", ["fit", "fit early", "reward", "imagine"])
def test_cells_of_the_rates(what):
    measure = rates.prepare(what, "nano-gpu", 2, 0.05, TINY)
    assert measure()["a_second"] > 0


def test_rates_are_of_what_each_cell_names():
    for cell in rates.CELLS:
        loop = rates.training(cell["preset"]).loop.for_game(about_game("Breakout"))
        config = rates.configured(cell["what"], cell["batch"], loop)
        if cell["what"] == "imagine":
            assert config.agent.optimizer.batch_size == cell["batch"]
        else:
            optimizers = config.fit.denoiser_optimizer, config.fit.reward_end_optimizer
            assert [optimizer.batch_size for optimizer in optimizers if optimizer.lr] == [cell["batch"]]


def test_cells_that_fail_or_do_not_answer_are_said_to(tmp_path, capsys):
    answers = [{"answer": answer} for answer in ("fine", "raise", "exit", "sleep")]
    lines = cells.measured(gpu_cells.cell_of, answers, 300, 5, tmp_path)
    assert lines[0] == {"answer": "fine", "result": 1}
    assert lines[1] == {"answer": "raise", "error": "ValueError: no such thing"}
    assert lines[2]["error"] == "the process has ended"
    assert lines[3]["error"] == "not in time"


def test_the_curves_are_drawn(tmp_path):
    curves.draw(tmp_path / "curves.png", ["Pong"])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
