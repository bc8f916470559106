"""Anybody's models: pushed, pulled and used by their address, and what of them is refused."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cards import listed
from hubs import COMMIT, serve
from released import ATARI_FILES, PULL, episodes, import_words, mirror, save_golden
from safetensors.torch import save_file
from said import one_line

from diamond_gym import cli
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.registry import load_world_model, resolve, save_model, with_agent
from diamond_gym.registry.loading import read_extras, read_model
from diamond_gym.registry.models import Address
from diamond_gym.registry.published import published
from diamond_gym.registry.released import read_released
from diamond_gym.registry.saving import export


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub in a folder: `user/repo/<file>`."""
    return serve(tmp_path / "hub", tmp_path / "cache", monkeypatch)


def test_push_pull_and_use_by_address(hub: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = save_golden()
    assert cli.main(["push", golden, "user/repo"]) == 0
    address = capsys.readouterr().out.strip()
    assert address == f"hf:user/repo@{COMMIT}"
    pushed = hub / "user" / "repo"
    assert listed(pushed) == ["README.md", "golden.safetensors", "golden.toml"]
    assert (pushed / "README.md").read_text().startswith("---\nlibrary_name: diamond-gym\nlicense: mit\n")
    assert cli.main(["remove", golden]) == 0

    with pytest.raises(ModelNotFound, match=rf"fetch it with `diamond-gym pull {address}`"):
        load_world_model(address)
    assert cli.main(["pull", address]) == 0
    for word in (address, "hf:user/repo", "golden"):
        assert load_world_model(word, "cpu", "float32").num_actions == 5
    with pytest.raises(ModelNotFound, match="is not here yet"):
        resolve("hf:user/repo@another")
    with pytest.raises(ModelNotFound, match="is not here yet"):
        resolve("hf:user/other")
    assert cli.main(["pull", "user/repo@main"]) == 0
    assert resolve("hf:user/repo@main").card.training["pulled"]["revision"] == COMMIT


def test_a_second_push_replaces_the_files(hub: Path) -> None:
    golden = save_golden()
    assert cli.main(["push", golden, "user/repo"]) == 0
    entry = resolve(golden)
    changed = save_model(entry.card, {key: value + 1 for key, value in read_model(entry)[1].items()})
    assert cli.main(["push", golden, "user/repo"]) == 0
    assert listed(hub / "user" / "repo") == ["README.md", "golden.safetensors", "golden.toml"]
    assert (hub / "user" / "repo" / changed.card.files["weights"].name).exists()


def test_pictures_and_agents_in_files_go_along(hub: Path) -> None:
    entry, weights, _ = read_model(resolve(save_golden()))
    extras = {"preview": b"a picture", "agent": b"an agent"}
    save_model(entry.card, weights, extras=extras)
    assert cli.main(["push", "golden", "user/repo"]) == 0
    assert cli.main(["remove", "golden"]) == 0
    assert cli.main(["pull", "user/repo"]) == 0
    assert read_extras(resolve("golden")) == extras


def test_starts_go_along(tmp_path: Path, hub: Path) -> None:
    store = str(episodes(tmp_path / "store"))
    assert cli.main(import_words(ATARI_FILES, "--starts", store, "--name", "a")) == 0
    assert cli.main(["push", "a", "user/a"]) == 0
    assert cli.main(["remove", "a"]) == 0
    assert cli.main(["pull", "user/a"]) == 0
    model = load_world_model("hf:user/a", "cpu", "float32")
    assert model.starts is not None


def test_an_agent_trained_here_is_not_lost(
    tmp_path: Path, hub: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mirror(tmp_path / "mirror")
    files = [folder / path for path in published()["Breakout"].files]
    released = read_released(*files, "Breakout")
    save_model(replace(released.card, training={**released.card.training, "pulled": {}}), released.weights)
    entry = resolve("breakout-diamond")
    assert entry.card.actor_critic is not None
    agent = {key: value for key, value in released.weights.items() if key.startswith("actor_critic.")}
    mine = with_agent(entry, entry.card.actor_critic, agent, {"windows": 3})
    assert mine.card.summary == f"{entry.card.summary} Its agent is another one, trained later."
    mine = with_agent(mine, entry.card.actor_critic, agent, {"windows": 3})
    assert mine.card.summary.count("another one") == 1
    assert cli.main(["pull", "Breakout", "--from", str(folder), *PULL]) == 0
    assert "is here already" in capsys.readouterr().err
    assert cli.main(["pull", "Breakout", "--from", str(folder), "--again", *PULL]) == 2
    assert "the agent of 'breakout-diamond' was trained here and would be lost" in one_line(capsys)
    assert resolve("breakout-diamond") == mine

    # but an agent that came along comes again
    assert cli.main(["push", "breakout-diamond", "user/repo"]) == 0
    shutil.rmtree(home)
    for _ in range(2):
        assert cli.main(["pull", "user/repo"]) == 0
    assert resolve("breakout-diamond").card.training["agent"] == {"windows": 3}


def test_a_pushed_model_that_changes_is_not_taken(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = save_golden()
    assert cli.main(["push", golden, "user/repo"]) == 0
    assert cli.main(["remove", golden]) == 0
    assert cli.main(["pull", "user/repo"]) == 0
    entry = resolve(golden)
    weights = {key: value + 1 for key, value in torch.load(ATARI_FILES[0], weights_only=True).items()}
    changed = save_model(entry.card, weights, folder=hub.parent / "changed")
    for path in changed.folder.iterdir():
        shutil.copyfile(path, hub / "user" / "repo" / path.name)
    capsys.readouterr()
    assert cli.main(["pull", "user/repo"]) == 1
    assert "is not the file of the first pull" in one_line(capsys)
    assert resolve(golden) == entry


def test_a_path_traversing_name_in_a_hub_folder(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = save_golden()
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    folder = tmp_path / "evil"
    export(resolve(golden), folder)
    cli.main(["remove", golden])
    card = folder / "golden.toml"
    text = re.sub(r"golden-[0-9a-f]{8}", "golden", card.read_text())
    for name in ("../secret.safetensors", "/etc/passwd", "..", "a/../../b", "C:\\\\x"):
        card.write_text(text.replace('"golden.safetensors"', f'"{name}"'))
        capsys.readouterr()
        assert cli.main(["pull", "user/repo", "--from", str(folder)]) == 1
        assert "must be the plain name of a file beside the card" in one_line(capsys)
    for name in ("../golden", "/golden", "..", ".hidden"):
        card.write_text(text.replace('name = "golden"', f'name = "{name}"'))
        assert cli.main(["pull", "user/repo", "--from", str(folder)]) == 1
        assert "cannot be used" in one_line(capsys)
    assert not any((home / "models").iterdir())


def test_a_pushed_model_is_checked_key_by_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = save_golden()
    entry = export(resolve(golden), tmp_path / "copy")
    cli.main(["remove", golden])
    weights = torch.load(ATARI_FILES[0], weights_only=True)
    weights.pop(next(iter(weights)))
    path = entry.file("weights")
    assert path
    save_file(weights, path)
    capsys.readouterr()
    assert cli.main(["pull", "user/repo", "--from", str(entry.folder)]) == 1
    assert path.name in one_line(capsys)  # another length than the card says
    saved = save_model(entry.card, weights, folder=tmp_path / "short")
    assert cli.main(["pull", "user/repo", "--from", str(saved.folder)]) == 1
    assert "1 key is missing" in one_line(capsys)


def test_not_on_the_hub(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pull", "user/nothing"]) == 1
    assert "hf:user/nothing is not on the hub" in one_line(capsys)


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "hf:a", "a/../b", "a/b@", "hf:/b", "a b/c", "a/b@-x", "-a/b"])
def test_no_address(text: str) -> None:
    with pytest.raises(BadArgument, match="is not an address"):
        Address.parse(text)


def test_addresses() -> None:
    assert Address.parse("a/b") == Address.parse("hf:a/b") == Address("a/b")
    assert str(Address.parse("a-1/b.c@refs/pr/1")) == "hf:a-1/b.c@refs/pr/1"
