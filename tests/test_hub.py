"""Models from the hub, of which a folder takes the part, and to it; nothing here uses the network."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub_errors
from released import ATARI_FILES, episodes, mirror
from safetensors.torch import save_file

from diamond_gym import cli
from diamond_gym.errors import BadArgument, DamagedModel, ModelNotFound
from diamond_gym.registry import entries, load_world_model, resolve, save_model, with_agent
from diamond_gym.registry.address import Address
from diamond_gym.registry.export import export
from diamond_gym.registry.games import games
from diamond_gym.registry.hub import Unreachable, fetch_model, fetch_published
from diamond_gym.registry.published import CSGO, REVISION, published
from diamond_gym.registry.released import read_released

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PULL = ["--start-steps", "200"]


def err(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def hub_error(kind: type[Exception], status: int) -> Exception:
    """What huggingface_hub raises when the hub answers with an error; its constructors differ by version."""
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error\nmore about it")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


class ConnectError(Exception):
    """As an HTTP library of another name has it."""


ConnectError.__module__ = "httpx2"


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    line = err(capsys)
    assert line.count("\n") == 1, line
    return line


@pytest.fixture
def golden() -> str:
    """The golden agent in the registry."""
    model = read_released(*ATARI_FILES, "Breakout", "golden")
    return save_model(replace(model.card, license="MIT"), model.weights).name


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub in a folder: `user/repo/<file>`, served as huggingface_hub would."""
    root = tmp_path / "hub"
    cache = tmp_path / "cache"

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        from fnmatch import fnmatch

        folder = cache / "snapshots" / COMMIT
        for path in sorted((root / repo_id).rglob("*")):
            name = path.relative_to(root / repo_id).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)
        return str(folder)

    class Api:
        def repo_info(self, repo_id: str, *, revision: str | None, timeout: float) -> None:
            if not (root / repo_id).exists():
                raise hub_error(hub_errors.RepositoryNotFoundError, 404)

        def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
            assert exist_ok
            (root / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> Any:
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
            return SimpleNamespace(oid=COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return root


# Cards of what can be pulled


def test_everything_published_has_a_card() -> None:
    assert list(published()) == [*games(), CSGO]
    for model in published().values():
        card = model.card()
        assert card.to_toml()  # which checks it
        assert "none stated for the weights" in card.license
        assert "huggingface.co/eloialonso/diamond" in card.source
        assert card.training["parameters"] == model.parameters
        if model.game != CSGO:
            figures = card.figures["published"]
            assert len(figures["scores"]) == 5
            assert figures["mean_score"] == pytest.approx(games()[model.game].diamond, rel=2e-3)
    hns = [model.figures["published"]["human_normalised"] for model in published().values() if model.scores]
    assert sum(hns) / len(hns) == pytest.approx(1.459, abs=2e-3)  # the paper's headline


def test_list_tells_what_can_be_pulled(golden: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    assert "diamond-gym pull NAME" in capsys.readouterr().out
    assert cli.main(["list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["golden"]["from"] == "you"
    row = rows["pong-diamond"]
    assert (row["from"], row["pull"]) == ("hub", "diamond-gym pull Pong")
    assert row["license"] == published()["Pong"].license
    assert (rows["golden"]["agent"], row["agent"], rows["csgo-diamond"]["agent"]) == (True, True, False)
    assert row["published"]["mean_score"] == 20.36


# The authors' models, from a mirror


def test_pull_from_a_mirror(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ale_py")
    folder = mirror(tmp_path / "mirror")
    assert cli.main(["pull", "breakout", "--from", str(folder), *PULL]) == 0
    entry = resolve("Breakout")
    card = entry.card
    assert (card.name, card.license) == ("breakout-diamond", published()["Breakout"].license)
    assert len(card.training["pulled"]["sha256"]) == 3
    assert card.figures["published"]["mean_score"] == 132.48
    assert "starts" in card.files
    assert load_world_model("Breakout", "cpu", "float32").actor_critic is not None
    assert resolve("hf:eloialonso/diamond") == entry
    capsys.readouterr()

    assert cli.main(["pull", "Breakout", "--from", str(folder), *PULL]) == 0
    assert "is here already" in err(capsys)
    assert cli.main(["pull", "Breakout", "--from", str(folder), "--again", *PULL]) == 0
    assert resolve("Breakout").card.training == card.training
    capsys.readouterr()

    # ever after, the file is that of the first pull
    (folder / "atari_100k/models/Breakout.pt").write_bytes(ATARI_FILES[0].read_bytes())
    before = resolve("Breakout")
    assert cli.main(["pull", "Breakout", "--from", str(folder), "--again", *PULL]) == 1
    assert "is not the file of the first pull" in one_line(capsys)
    assert resolve("Breakout") == before

    # a damaged model is fetched again without being asked
    weights = before.file("weights")
    assert weights is not None
    weights.write_bytes(b"")
    assert cli.main(["pull", "Breakout", "--from", str(mirror(tmp_path / "same")), *PULL]) == 0
    assert cli.main(["verify", "breakout-diamond"]) == 0


def test_pull_the_engine_from_a_mirror(tmp_path: Path) -> None:
    assert cli.main(["pull", "csgo", "--from", str(mirror(tmp_path))]) == 0
    model = load_world_model("CSGO", "cpu", "float32")
    assert model.upsampler is not None
    assert model.starts is not None
    assert model.card is not None
    assert set(model.card.training["pulled"]["sha256"]) == {*published()[CSGO].files, "csgo/spawn"}


def test_pull_all_goes_on_after_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ale_py")
    folder = mirror(tmp_path, "Pong", num_actions=6)
    assert cli.main(["pull", "--all", "--from", str(folder), *PULL]) == 1
    assert err(capsys).count("there is no such file; was it fetched completely?") == 25
    assert [entry.name for entry in entries() if not entry.bundled] == ["pong-diamond"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pull"], 2, "which?"),
        (["pull", "Pong", "--all"], 2, "which?"),
        (["pull", "Pung"], 2, "nothing to pull for 'Pung'; did you mean Pong?"),
        (["pull", "a/b/c"], 2, "is not an address"),
        (["pull", "hf:../../etc"], 2, "is not an address"),
        (["pull", "Pong", "--from", "nowhere"], 2, "there is no folder nowhere"),
        (["push", "golden", "nobody"], 2, "is not an address"),
        (["push", "nothing", "a/b"], 1, "nothing"),
        (["verify"], 2, "which?"),
        (["remove", "../golden"], 1, "cannot be used"),
        (["remove", "nothing"], 1, "no model 'nothing' of your own"),
    ],
)
def test_asked_for_wrongly(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == code
    assert message in one_line(capsys)


def test_another_games_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mirror(tmp_path, "Pong", num_actions=4)
    assert cli.main(["pull", "Pong", "--from", str(folder), *PULL]) == 1
    assert "Pong has 6 actions" in one_line(capsys)


def test_a_link_out_of_the_mirror_is_refused(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mirror(tmp_path / "mirror")
    path = folder / "atari_100k/models/Breakout.pt"
    shutil.move(path, tmp_path / "secret.pt")
    path.symlink_to(tmp_path / "secret.pt")
    assert cli.main(["pull", "Breakout", "--from", str(folder), *PULL]) == 1
    assert "refused, it leads out of its folder" in one_line(capsys)
    assert not any(home.rglob("*.toml"))


# Anybody's models


def test_push_pull_and_use_by_address(golden: str, hub: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["push", golden, "user/repo"]) == 0
    address = capsys.readouterr().out.strip()
    assert address == f"hf:user/repo@{COMMIT}"
    pushed = hub / "user" / "repo"
    assert sorted(p.name for p in pushed.iterdir()) == ["README.md", "golden.safetensors", "golden.toml"]
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


def test_a_pushed_model_that_changes_is_not_taken(golden: str, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_path_traversing_name_in_a_hub_folder(
    golden: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    folder = tmp_path / "evil"
    export(resolve(golden), folder)
    cli.main(["remove", golden])
    card = folder / "golden.toml"
    text = card.read_text()
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


def test_a_pushed_model_is_checked_key_by_key(golden: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = export(resolve(golden), tmp_path / "copy")
    cli.main(["remove", golden])
    weights = torch.load(ATARI_FILES[0], weights_only=True)
    weights.pop(next(iter(weights)))
    save_file(weights, entry.folder / "golden.safetensors")
    capsys.readouterr()
    assert cli.main(["pull", "user/repo", "--from", str(entry.folder)]) == 1
    assert "golden.safetensors" in one_line(capsys)  # another length than the card says
    saved = save_model(entry.card, weights, folder=tmp_path / "short")
    assert cli.main(["pull", "user/repo", "--from", str(saved.folder)]) == 1
    assert "1 key is missing" in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "message", "kind"),
    [
        (ConnectionError("[Errno -2] Name or service not known\nmore"), "check the connection", Unreachable),
        (hub_errors.LocalEntryNotFoundError("Cannot reach the hub"), "check the connection", Unreachable),
        (hub_errors.OfflineModeIsEnabled("offline mode is enabled"), "check the connection", Unreachable),
        (ConnectError("no route"), "check the connection", Unreachable),
        (hub_error(hub_errors.HfHubHTTPError, 503), "check the connection", Unreachable),
        (hub_error(hub_errors.HfHubHTTPError, 401), "hf auth login", BadArgument),
        (hub_error(hub_errors.RevisionNotFoundError, 404), "no such revision", ModelNotFound),
        (TimeoutError("timed out"), "check the connection", Unreachable),
        (hub_errors.HFValidationError("bad\nname"), "bad name", BadArgument),
    ],
)
def test_offline_in_one_line(
    error: Exception,
    message: str,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", fails)
    for words in (["pull", "Pong"], ["pull", "--all"], ["pull", "user/repo"]):
        assert cli.main(words) in (1, 2)
        assert message in one_line(capsys)
    with pytest.raises(kind):
        fetch_published(published()["Pong"], "main")
    assert not any(home.iterdir())


def test_the_cache_will_do_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []
    there = mirror(tmp_path) / "csgo"

    def knock(*_: Any, **__: Any) -> None:
        raise ConnectError("no route")

    def snapshot_download(repo_id: str, *, local_files_only: bool, **_: Any) -> str:
        asked.append(local_files_only)
        if not there.exists():
            raise hub_errors.LocalEntryNotFoundError("nothing in the cache")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", knock)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    fetched = fetch_published(published()[CSGO], REVISION)
    assert (asked, fetched.asked, fetched.address.revision) == ([True], REVISION, REVISION)
    shutil.rmtree(there)
    assert cli.main(["pull", "csgo"]) == 1
    line = one_line(capsys)
    assert "could not be reached (no route); check the connection" in line


def test_a_revision_that_is_gone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def knock(*_: Any, revision: str, **__: Any) -> None:
        assert revision == REVISION
        raise hub_error(hub_errors.RevisionNotFoundError, 404)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", knock)
    assert cli.main(["pull", "Pong"]) == 1
    assert "no such revision or file; `--revision main` asks for the newest" in one_line(capsys)


def test_what_can_be_pulled_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("Alien", "alien-diamond", "CSGO"):
        assert cli.main(["info", word]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "the hub: `diamond-gym pull" in said
        assert "none stated for the weights" in said
        assert ("mean_score" in said) == (word != "CSGO")
    assert cli.main(["info", "pong-diamond", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert (table["pull"], table["path"]) == ("diamond-gym pull Pong", None)
    assert len(table["figures"]["published"]["scores"]) == 5


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
    assert "is here already" in err(capsys)
    assert cli.main(["pull", "Breakout", "--from", str(folder), "--again", *PULL]) == 2
    assert "the agent of 'breakout-diamond' was trained here and would be lost" in one_line(capsys)
    assert resolve("breakout-diamond") == mine

    # but an agent that came along comes again
    assert cli.main(["push", "breakout-diamond", "user/repo"]) == 0
    shutil.rmtree(home)
    for _ in range(2):
        assert cli.main(["pull", "user/repo"]) == 0
    assert resolve("breakout-diamond").card.training["agent"] == {"windows": 3}


def test_not_on_the_hub(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pull", "user/nothing"]) == 1
    assert "hf:user/nothing is not on the hub" in one_line(capsys)


def test_a_partial_snapshot_is_no_model(tmp_path: Path) -> None:
    """What huggingface_hub returns offline is what its cache happens to hold."""
    (tmp_path / "atari_100k/models").mkdir(parents=True)
    with pytest.raises(DamagedModel, match="was it fetched completely"):
        fetch_published(published()["Pong"], "main", tmp_path)
    with pytest.raises(DamagedModel, match="one card"):
        fetch_model(Address("user/repo"), tmp_path)


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "hf:a", "a/../b", "a/b@", "hf:/b", "a b/c", "a/b@-x", "-a/b"])
def test_no_address(text: str) -> None:
    with pytest.raises(BadArgument, match="is not an address"):
        Address.parse(text)


def test_addresses() -> None:
    assert Address.parse("a/b") == Address.parse("hf:a/b") == Address("a/b")
    assert str(Address.parse("a-1/b.c@refs/pr/1")) == "hf:a-1/b.c@refs/pr/1"


# The local registry


def test_export_verify_remove(golden: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", golden, str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["golden.md", "golden.safetensors", "golden.toml"]
    assert load_world_model(out, "cpu", "float32").num_actions == 5
    assert cli.main(["export", golden, str(out)]) == 0  # the same model again
    other = read_released(*ATARI_FILES, "Breakout", "other")
    save_model(other.card, other.weights)
    capsys.readouterr()
    assert cli.main(["export", "other", str(out)]) == 2
    assert "holds another model already" in one_line(capsys)

    assert cli.main(["verify", "--all"]) == 0
    weights = resolve(golden).file("weights")
    assert weights is not None
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    assert cli.main(["verify", "--all"]) == 1
    out_text, err_text = capsys.readouterr()
    assert "other: 1 files, as its card says" in out_text
    assert err_text.count("\n") == 1
    assert "is truncated" in err_text
    assert cli.main(["verify", golden]) == 1
    assert cli.main(["export", golden, str(tmp_path / "no")]) == 1
    assert not (tmp_path / "no").exists()

    assert cli.main(["remove", golden]) == 0
    assert [path.name for path in (home / "models").iterdir()] == ["other"]


def test_starts_go_along(tmp_path: Path, hub: Path) -> None:
    pt, config, env = map(str, ATARI_FILES)
    store = str(episodes(tmp_path / "store"))
    words = ["import-diamond", pt, "--config", config, "--env-config", env, "--game", "Breakout", "--starts", store]
    assert cli.main([*words, "--name", "a"]) == 0
    assert cli.main(["push", "a", "user/a"]) == 0
    assert cli.main(["remove", "a"]) == 0
    assert cli.main(["pull", "user/a"]) == 0
    model = load_world_model("hf:user/a", "cpu", "float32")
    assert model.starts is not None
