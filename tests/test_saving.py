"""Models are saved whole or not at all, whatever fails and whoever reads or writes beside."""

import errno
import multiprocessing
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import WEIGHTS, a_card, listed, some_starts
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from diamond_gym.errors import DamagedModel, DiamondGymError
from diamond_gym.registry import Entry, resolve, save_model, survey, update_card, verify
from diamond_gym.registry.loading import read_model
from diamond_gym.registry.models import read_entry

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


def test_failed_rename_keeps_the_old_model(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    old = save_model(a_card(), WEIGHTS)
    rename = os.replace

    def refused(source: Any, target: Any) -> None:
        if Path(target) == old.path:
            raise PermissionError(errno.EACCES, "denied")
        rename(source, target)

    monkeypatch.setattr("os.replace", refused)
    with pytest.raises(PermissionError):
        save_model(a_card(summary="new"), {"denoiser.b": torch.zeros(1)})
    assert verify(resolve("tiny")) == old
    assert os.listdir(home / "models") == ["tiny"]
    monkeypatch.setattr("os.replace", rename)
    save_model(a_card(summary="new"), WEIGHTS)
    assert listed(old.folder) == ["tiny.md", "tiny.safetensors", "tiny.toml"], "what was left over is gone"


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


def named_plainly(folder: Path) -> Entry:
    """A model as it was saved before its files were named by their hashes."""
    entry = save_model(a_card(), WEIGHTS, some_starts(), folder)
    files = {}
    for kind, name in (("weights", "tiny.safetensors"), ("starts", "tiny.starts.npz")):
        files[kind] = replace(entry.card.files[kind], name=name)
        (entry.folder / entry.card.files[kind].name).rename(entry.folder / name)
    entry.path.write_text(replace(entry.card, files=files).to_toml())
    return read_entry(entry.path)


@pytest.mark.parametrize("own", [True, False])
def test_a_model_of_plain_file_names_is_read_and_replaced(own: bool, tmp_path: Path, home: Path) -> None:
    folder = home / "models" / "tiny" if own else tmp_path
    old = named_plainly(folder)
    (folder / "tiny-0123abcd.safetensors").write_bytes(b"another model's, by its old name")
    (folder / "tiny-0123abcd.toml").write_text("")
    assert old.file("weights") == folder / "tiny.safetensors"
    assert verify(read_entry(old.path)) == old
    changed = update_card(old, replace(old.card, summary="new"))
    assert changed.card.files == verify(changed).card.files == old.card.files
    new = save_model(a_card(), {"denoiser.b": torch.zeros(1)}, folder=None if own else folder)
    assert verify(read_entry(old.path)) == new
    names = [path.name for path in folder.iterdir() if "0123abcd" not in path.name]
    assert sorted(names) == sorted(["tiny.md", "tiny.toml", new.card.files["weights"].name])
    assert (folder / "tiny-0123abcd.safetensors").exists()
    assert read_model(old)[0] == new, "who had read the old card gets the new model"


def test_the_card_of_a_replaced_model_is_not_written() -> None:
    old = save_model(a_card(), WEIGHTS)
    new = save_model(a_card(), {"denoiser.b": torch.zeros(1)})
    with pytest.raises(DamagedModel, match="has been replaced"):
        update_card(old, replace(old.card, figures={"mse": 0.5}))
    assert verify(resolve("tiny")) == new


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


def test_old_files_are_removed_before_another_process_may_write(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Else those of a model that another process has saved in between would be removed with them."""
    old = save_model(a_card(), {"denoiser.a": torch.ones(1)})
    unlink, removed = Path.unlink, list[str]()

    def watched(path: Path, **how: Any) -> None:
        if path.parent == old.folder and path.name.startswith("tiny"):
            with pytest.raises(Timeout):
                FileLock(home / ".models.lock").acquire(timeout=0)
            removed.append(path.name)
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", watched)
    save_model(a_card(), {"denoiser.a": torch.zeros(1)})
    assert removed == [old.card.files["weights"].name]


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({}, "train it again with `diamond-gym train-wm --game Breakout` or fetch it with `diamond-gym pull Breakout`"),
        (
            {"game": "Maze", "source": "diamond-gym train-wm --data maze"},
            "make it again: diamond-gym train-wm --data maze",
        ),
        ({"game": "Maze", "source": "Trained in two stages."}, "copy it here again"),
        (
            {"training": {"pulled": {"repository": "eloialonso/diamond", "sha256": {}}}},
            "fetch it again with `diamond-gym pull Breakout`",
        ),
        (
            {"training": {"pulled": {"repository": "user/repo", "sha256": {}}}},
            "fetch it again with `diamond-gym remove tiny` and `diamond-gym pull hf:user/repo`",
        ),
    ],
)
def test_a_damaged_model_says_how_to_come_by_it_again(changes: dict[str, Any], remedy: str) -> None:
    entry = save_model(replace(a_card(), **changes), WEIGHTS)
    entry.file("weights").write_bytes(b"")
    with pytest.raises(DamagedModel, match=f"; {re.escape(remedy)}$"):
        verify(entry)
