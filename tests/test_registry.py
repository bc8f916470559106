"""Models and their cards in the registry: saved and read back, named, verified and removed."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import WEIGHTS, a_card, listed, some_starts

from diamond_gym.errors import DamagedModel, ModelNotFound
from diamond_gym.registry import (
    Entry,
    FileRecord,
    entries,
    models_folder,
    remove,
    resolve,
    save_model,
    survey,
    update_card,
    verify,
)
from diamond_gym.registry.human_card import human_card
from diamond_gym.registry.loading import read_model
from diamond_gym.registry.models import read_entry
from diamond_gym.registry.saving import export


def test_save_and_read_back(home: Path) -> None:
    entry = save_model(a_card(), WEIGHTS, some_starts())
    folder = home / "models" / "tiny"
    assert entry.folder == folder
    assert listed(folder) == ["tiny.md", "tiny.safetensors", "tiny.starts.npz", "tiny.toml"]
    assert os.listdir(home / "models") == ["tiny"]
    assert verify(resolve("tiny")) == entry
    _, weights, starts = read_model(entry)
    assert set(weights) == set(WEIGHTS)
    assert all(torch.equal(weights[key], WEIGHTS[key]) and weights[key].dtype == WEIGHTS[key].dtype for key in WEIGHTS)
    assert starts
    assert starts.obs.shape == (2, 4, 64, 64, 3)


def test_same_tensors_give_the_same_hash() -> None:
    first = save_model(a_card(), WEIGHTS).card.files["weights"]
    second = save_model(a_card(), dict(reversed(WEIGHTS.items()))).card.files["weights"]
    assert first == second


def test_tensors_that_share_memory_are_saved_each() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tied = {"a": whole, "b": whole, "row": whole[1], "column": whole[:, 1], "turned": whole.T, "none": torch.ones(0)}
    _, weights, _ = read_model(save_model(a_card(), tied | {"nothing": torch.ones(0)}))
    for key, value in tied.items():
        assert torch.equal(weights[key], value)


def test_update_card_keeps_the_files() -> None:
    entry = save_model(a_card(), WEIGHTS)
    changed = update_card(entry, replace(entry.card, figures={"mse": 0.5}, files={}))
    assert verify(resolve("tiny")) == changed
    assert changed.card == replace(entry.card, figures={"mse": 0.5})
    assert "| mse | 0.5 |" in entry.path.with_suffix(".md").read_text()


def test_a_preview_is_a_file_of_the_model(tmp_path: Path) -> None:
    entry = save_model(a_card(), WEIGHTS, extras={"preview": b"a picture"})
    shown = entry.path.with_suffix(".md").read_text()
    picture = entry.file("preview")
    assert picture and f"]({picture.name})" in shown and picture.read_bytes() == b"a picture"
    assert "png" not in save_model(replace(a_card(), name="bare"), WEIGHTS).path.with_suffix(".md").read_text()
    entry = update_card(entry, entry.card, {"preview": b"another"})
    picture = verify(entry).file("preview")
    assert picture and picture.read_bytes() == b"another"
    assert listed(entry.folder).count("tiny.png") == 1, "the old one is gone"
    assert update_card(entry, entry.card) == entry, "kept where there is no new one"
    copy = export(entry, tmp_path / "copy")
    assert (copy.folder / picture.name).read_bytes() == b"another"
    picture.write_bytes(b"damaged")
    with pytest.raises(DamagedModel, match="preview"):
        verify(entry)


def test_save_into_a_folder(tmp_path: Path) -> None:
    entry = save_model(a_card(), WEIGHTS, folder=tmp_path / "run")
    assert listed(tmp_path / "run") == ["tiny.md", "tiny.safetensors", "tiny.toml"]
    assert resolve(tmp_path / "run") == resolve(str(tmp_path / "run")) == entry
    assert all(e.bundled for e in entries()), "a folder of its own is not the registry"


def test_tensors_that_share_memory_are_saved() -> None:
    base = torch.zeros(2, 4)
    entry = save_model(a_card(), {"a": base[:, 1:], "b": base})
    assert read_model(entry)[1]["a"].shape == (2, 3)


def test_own_model_before_the_newer_bundled_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> None:
    monkeypatch.setattr("diamond_gym.registry.models.bundled_folder", lambda: tmp_path)
    bundled = save_model(a_card("shipped", created="2027-01-01T00:00:00Z"), WEIGHTS, folder=tmp_path)
    assert resolve("Breakout") == bundled
    assert bundled.bundled
    save_model(a_card("older", created="2026-01-01T00:00:00Z"), WEIGHTS)
    newer = save_model(a_card("newer", created="2026-06-01T01:00:00+02:00"), WEIGHTS)
    assert resolve("Breakout") == newer
    assert resolve("older").name == "older"
    assert resolve("shipped") == bundled
    assert [entry.name for entry in entries()] == ["newer", "older", "shipped"]


def test_a_game_is_the_game_even_if_a_model_is_called_so() -> None:
    save_model(a_card("Breakout", created="2026-01-01T00:00:00Z"), WEIGHTS)
    newer = save_model(a_card("newer", created="2026-06-01T00:00:00Z"), WEIGHTS)
    assert resolve("Breakout") == newer
    save_model(a_card("catch", game="Catch", created="2026-01-01T00:00:00Z"), WEIGHTS)
    newest = save_model(a_card("other", game="Catch"), WEIGHTS)
    assert resolve("catch").name == "catch"
    assert resolve("Catch") == newest


def test_nothing_found_names_the_two_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diamond_gym.registry.models.bundled_folder", lambda: tmp_path)
    with pytest.raises(ModelNotFound) as caught:
        resolve("Alien")
    assert "diamond-gym train-wm --game Alien" in str(caught.value)
    assert "diamond-gym pull Alien" in str(caught.value)
    with pytest.raises(ModelNotFound, match="'Brakout'; did you mean Breakout"):
        resolve("Brakout")
    with pytest.raises(ModelNotFound, match="no folder"):
        resolve(tmp_path / "nowhere")


def test_folder_without_a_card(tmp_path: Path, home: Path) -> None:
    with pytest.raises(DamagedModel, match="no card"):
        resolve(tmp_path)
    (home / "models" / "empty").mkdir(parents=True)
    with pytest.raises(DamagedModel, match="no card"):
        resolve("empty")
    assert survey()[0] == entries()
    assert "the card is missing" in survey()[1]["empty"]


def test_damaged_card_hides_no_other_model() -> None:
    good, bad = save_model(a_card("good"), WEIGHTS), save_model(a_card("bad"), WEIGHTS)
    bad.path.write_text("format = 1")
    found, problems = survey()
    assert good in found
    assert len(problems) == 1
    assert "bad.toml: key 'name' is missing" in problems["bad"]
    assert resolve("Breakout") == good
    with pytest.raises(DamagedModel):
        resolve("bad")


def _truncate(entry: Entry) -> None:
    path = entry.file("weights")
    assert path
    path.write_bytes(path.read_bytes()[:-5])


def _change(entry: Entry) -> None:
    path = entry.file("weights")
    assert path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _wrong_hash(entry: Entry) -> None:
    record = entry.card.files["starts"]
    entry.path.write_text(entry.path.read_text().replace(record.sha256, "0" * 64))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "the weights file is truncated"),
        (_change, "the weights file is not the one its card describes"),
        (_wrong_hash, "the starts file is not the one its card describes"),
        (lambda entry: entry.file("starts").unlink(), "the starts file is missing"),
        (lambda entry: entry.path.unlink(), "the card is missing"),
    ],
)
def test_every_file_is_verified(damage: Any, message: str) -> None:
    entry = save_model(a_card(), WEIGHTS, some_starts())
    damage(entry)
    with pytest.raises(DamagedModel, match=message) as caught:
        verify(read_entry(entry.path))
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_safetensors_with_a_matching_hash(tmp_path: Path) -> None:
    from diamond_gym.files import sha256_file

    entry = save_model(a_card(), WEIGHTS)
    path = entry.file("weights")
    assert path
    path.write_bytes(b"PK not at all")
    files = {"weights": FileRecord(path.name, sha256_file(path), path.stat().st_size)}
    card = replace(entry.card, files=files)
    entry.path.write_text(card.to_toml())
    with pytest.raises(DamagedModel, match="not readable as safetensors"):
        read_model(read_entry(entry.path))


def test_names_that_would_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    for name in ("../evil", "a/b", "", ".hidden", "a\\b", "C:x", "x" * 65, "tail."):
        with pytest.raises(DamagedModel, match="cannot be used"):
            save_model(a_card(name), WEIGHTS)
        with pytest.raises(DamagedModel, match="cannot be used"):
            remove(name)


def test_remove(home: Path) -> None:
    save_model(a_card(), WEIGHTS)
    remove("tiny")
    assert os.listdir(home / "models") == []
    with pytest.raises(ModelNotFound):
        remove("tiny")


def test_removing_a_linked_model_leaves_what_it_points_to(tmp_path: Path, home: Path) -> None:
    save_model(a_card(), WEIGHTS, folder=tmp_path / "elsewhere")
    models_folder().mkdir(parents=True, exist_ok=True)
    (models_folder() / "tiny").symlink_to(tmp_path / "elsewhere")
    assert resolve("tiny").name == "tiny"
    remove("tiny")
    assert (tmp_path / "elsewhere" / "tiny.toml").exists()


def test_bundled_models_are_whole() -> None:
    for entry in entries():
        assert entry.bundled
        verify(entry)
        assert entry.path.with_suffix(".md").read_text(encoding="utf-8") == human_card(entry.card)
        assert entry.bytes <= 6_000_000


def test_a_bundled_card_that_names_a_command_was_made_by_it() -> None:
    for entry in entries():
        stages = [stage for stage in entry.card.training["history"] if not stage.startswith("the agent")]
        assert entry.card.source.startswith(("diamond-gym train-wm ", "diamond-gym train ")) == (len(stages) == 1)
        assert ("(see training.history)" in entry.card.summary) == (len(stages) > 1)
        shown = entry.path.with_suffix(".md").read_text(encoding="utf-8").split("\n\n")
        assert shown[1] == entry.card.summary


def test_renamed_folder_is_still_a_model(tmp_path: Path) -> None:
    save_model(a_card(), WEIGHTS, folder=tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert verify(resolve(tmp_path / "b")).name == "tiny"
