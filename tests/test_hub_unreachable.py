"""A hub that is not there, or has not what is wanted: one line, and what the cache holds."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hubs import ConnectError, hub_error
from huggingface_hub import errors as hub_errors
from said import one_line

from diamond_gym import cli
from diamond_gym.errors import BadArgument, DamagedModel, ModelNotFound
from diamond_gym.registry.hub import Unreachable, fetch_model, fetch_published
from diamond_gym.registry.models import Address
from diamond_gym.registry.published import REVISION, published


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
    for words in (["pull", "Pong"], ["pull", "--all"], ["pull", "user/repo"]):
        assert cli.main(words) in (1, 2)
        assert message in one_line(capsys)
    with pytest.raises(kind):
        fetch_published(published()["Pong"], "main")
    assert not any(home.iterdir())


def test_a_revision_that_is_gone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any, revision: str, **__: Any) -> None:
        assert revision == REVISION
        raise hub_error(hub_errors.RevisionNotFoundError, 404)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    assert cli.main(["pull", "Pong"]) == 1
    assert "no such revision or file; `--revision main` asks for the newest" in one_line(capsys)


def test_a_partial_snapshot_is_no_model(tmp_path: Path) -> None:
    """What huggingface_hub returns offline is what its cache happens to hold."""
    (tmp_path / "atari_100k/models").mkdir(parents=True)
    with pytest.raises(DamagedModel, match="was it fetched completely"):
        fetch_published(published()["Pong"], "main", tmp_path)
    with pytest.raises(DamagedModel, match="one card"):
        fetch_model(Address("user/repo"), tmp_path)
