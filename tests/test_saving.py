"""Models are saved whole or not at all, whatever fails and whoever reads or writes beside."""

import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import WEIGHTS, a_card, some_starts
from safetensors.torch import load_file

from diamond_gym.errors import DiamondGymError
from diamond_gym.registry import resolve, save_model, survey, verify
from diamond_gym.registry.loading import read_model

CONTEXT = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")


def test_full_disk_while_saving_keeps_the_old_model(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    old = save_model(a_card(), WEIGHTS, some_starts())

    def no_room(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("diamond_gym.starts.np.savez_compressed", no_room)
    with pytest.raises(DiamondGymError, match="the disk is full: could not write .*models/tiny "):
        save_model(a_card(summary="new"), {"denoiser.b": torch.zeros(1)}, some_starts())
    assert verify(resolve("tiny")) == old
    assert os.listdir(home / "models") == ["tiny"]


def test_failed_rename_puts_the_old_model_back(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    old = save_model(a_card(), WEIGHTS)
    rename, calls = os.rename, []

    def third_time_unlucky(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 3:  # over the old folder (refused), the old one aside, and now the new one into place
            raise PermissionError(errno.EACCES, "denied")
        rename(source, target)

    monkeypatch.setattr("os.rename", third_time_unlucky)
    with pytest.raises(PermissionError):
        save_model(a_card(summary="new"), WEIGHTS)
    assert verify(resolve("tiny")) == old
    assert os.listdir(home / "models") == ["tiny"]


def _save_often(value: int) -> None:
    for _ in range(20):
        save_model(a_card(summary=f"of {value}"), {"denoiser.a": torch.full((1000,), float(value))})


def test_readers_always_find_a_model_while_it_is_replaced(home: Path) -> None:
    save_model(a_card(), WEIGHTS)
    writer = CONTEXT.Process(target=_save_often, args=(1,))
    writer.start()
    while writer.is_alive():
        assert verify(resolve("Breakout")).name == "tiny"
        assert read_model(resolve("tiny"))[1]
        assert survey()[1] == {}
    assert writer.exitcode == 0
    assert os.listdir(home / "models") == ["tiny"]


def test_a_crash_between_the_two_renames_costs_nothing(home: Path) -> None:
    entry = save_model(a_card(), WEIGHTS)
    os.rename(entry.folder, home / "models" / ".tiny.old-0123abcd")
    assert verify(resolve("Breakout")) == entry
    assert os.listdir(home / "models") == ["tiny"]


def test_two_processes_saving_one_name_leave_a_whole_model(home: Path) -> None:
    processes = [CONTEXT.Process(target=_save_often, args=(value,)) for value in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    entry = verify(resolve("tiny"))
    value = int(entry.card.summary.removeprefix("of "))
    path = entry.file("weights")
    assert path
    assert load_file(path)["denoiser.a"].tolist() == [value] * 1000
    assert os.listdir(home / "models") == ["tiny"]
