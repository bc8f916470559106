"""Where files lie, and what works for a user who has no home or may not write there."""

import os

import gymnasium as gym
import pytest
from stubs import save_tiny_model

import diamond_gym
from diamond_gym import cli
from diamond_gym.device import cache_folder, prepare_to_compile
from diamond_gym.errors import BadArgument
from diamond_gym.registry import home_folder, load_world_model, models, remove, resolve
from diamond_gym.registry.models import models_folder


@pytest.fixture(params=["unset", "empty", "~"])
def homeless(request, monkeypatch, tmp_path):
    """An unknown user, as containers have them."""
    import pwd

    def unknown(uid):
        raise KeyError(f"uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("DIAMOND_GYM_HOME")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "empty":
        monkeypatch.setenv("HOME", "")
    else:
        monkeypatch.delenv("HOME")
    if request.param == "~":
        monkeypatch.setenv("DIAMOND_GYM_HOME", "~/dreams")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_home_bundled_models_dream(homeless):
    diamond_gym.register_ids()
    assert resolve("breakout-nano").bundled
    env = gym.make("DiamondDream-Breakout-v0", device="cpu")
    assert env.reset(seed=0)[0].shape == (64, 64, 3)
    assert not list(homeless.iterdir())


@pytest.mark.parametrize(
    "words", ["collect --game Pong --steps 100", "train-wm --game Pong", "train --game Pong", "remove mine"]
)
def test_what_needs_a_home_names_the_variable(homeless, words, capsys):
    assert cli.main(words.split()) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.endswith("set DIAMOND_GYM_HOME to a folder")
    assert not list(homeless.iterdir())


def test_a_home_that_cannot_be_written_names_the_variable(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("DIAMOND_GYM_HOME")

    def forbidden(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", forbidden)
    assert cli.main(["train-wm", "--game", "Pong"]) == 1
    assert capsys.readouterr().err.endswith("; set DIAMOND_GYM_HOME to use another folder\n")


@pytest.mark.parametrize("hindrance", ["no home", "a file", "read-only"])
def test_compiling_goes_on_without_a_cache(hindrance, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if hindrance == "no home":
        monkeypatch.setattr("diamond_gym.device.user_folder", lambda _: None)
    elif hindrance == "a file":
        (tmp_path / "diamond-gym").touch()
    else:
        monkeypatch.setattr("os.access", lambda *_: False)
    folder = cache_folder("kernels")
    assert folder.is_dir() and tmp_path not in folder.parents
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back
    del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    prepare_to_compile("cpu")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder.with_name("compiled"))
    assert folder.with_name("compiled").is_dir()


def test_a_cache_that_can_be_written_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("kernels") == tmp_path / "diamond-gym" / "kernels"


@pytest.fixture
def other_case(monkeypatch):
    """A file system that takes capital letters for small ones, and lists a folder as it was made."""
    save_tiny_model("trained")
    (models_folder() / "Trained").symlink_to(models_folder() / "trained")
    monkeypatch.setattr(models, "own_names", lambda: ["trained"])
    return models_folder() / "trained"


def test_a_name_that_differs_in_case_takes_no_other_models_place(other_case, capsys):
    with pytest.raises(BadArgument, match="'Trained' and your model 'trained' have the same folder"):
        save_tiny_model("Trained")
    with pytest.raises(BadArgument, match="the same folder"):
        remove("Trained")
    for words in (["train-wm", "--game", "Pong"], ["train", "--game", "Pong"]):
        assert cli.main([*words, "--name", "Trained"]) == 2
        assert "'trained' have the same folder" in capsys.readouterr().err
    assert not (home_folder() / "runs").exists()
    assert load_world_model("trained", "cpu").card.name == "trained"
    save_tiny_model("trained")
    assert other_case.is_dir()
    remove("trained")
    assert not other_case.exists()


def test_where_case_counts_both_names_can_be_had():
    for name in ("trained", "Trained"):
        save_tiny_model(name)
    assert {entry.name for entry in models.entries() if not entry.bundled} == {"trained", "Trained"}


@pytest.mark.parametrize("words", [["train-wm", "--game", "Pong"], ["train", "--game", "Pong"]])
def test_a_name_that_cannot_be_used_is_refused_before_anything_is_played(words, capsys):
    assert cli.main([*words, "--name", "../mine"]) == 1
    assert "model name '../mine' cannot be used" in capsys.readouterr().err
    assert not home_folder().joinpath("runs").exists()
