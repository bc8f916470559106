"""A hub in a folder, and the errors of the one on the internet."""

import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_error(kind: type[Exception], status: int) -> Exception:
    """What huggingface_hub raises when the hub answers with an error; its constructors differ by version."""
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error\nmore about it")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


class ConnectError(Exception):
    """As an HTTP library of another name has it."""


ConnectError.__module__ = "httpx2"


def serve(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a folder the hub: `user/repo/<file>` there, served as huggingface_hub would."""

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        if not (root / repo_id).exists():
            raise hub_error(hub_errors.RepositoryNotFoundError, 404)
        folder = cache / "snapshots" / COMMIT
        for path in sorted((root / repo_id).rglob("*")):
            name = path.relative_to(root / repo_id).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)
        return str(folder)

    class Api:
        def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
            assert exist_ok
            (root / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id: str, folder_path: Path, delete_patterns: str, **_: Any) -> Any:
            for path in (root / repo_id).glob(delete_patterns):
                path.unlink()
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
            return SimpleNamespace(oid=COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return root
