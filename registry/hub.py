"""Models from and to the Hugging Face hub, or from a local mirror of the same layout.

huggingface_hub does the fetching: it resumes where it was interrupted, verifies, caches and shows progress. The hashes
of the files fetched first are kept in the model's card, and every later pull must match them. Whatever goes wrong is
reported as a DiamondGymError of one line.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diamond_gym.errors import BadArgument, DamagedModel, DiamondGymError, DiskFull, ModelNotFound, one_line
from diamond_gym.files import is_disk_full, sha256_file
from diamond_gym.registry.models import Address, Entry, entries, read_entry
from diamond_gym.registry.published import Published

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NETWORK = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet")


class Unreachable(DiamondGymError):
    """The hub does not answer, so that trying other models would not help."""


@dataclass(frozen=True)
class Fetched:
    """Files of a repository that are here now.

    Attributes:
        folder: Where they lie, in the repository's layout.
        address: Where they came from; the revision is the commit, if it is known.
        sha256: The hash of each, by path; a folder counts as one.
        asked: The revision that was asked for, such as a branch.
    """

    folder: Path
    address: Address
    sha256: Mapping[str, str]
    asked: str | None = None

    @property
    def table(self) -> dict[str, Any]:
        """What the model's card records of it, in its table `training.pulled`."""
        revisions = {"revision": self.address.revision, "asked": self.asked}
        metadata = {key: value for key, value in revisions.items() if value is not None}
        return {"repository": self.address.repository, **metadata, "sha256": dict(self.sha256)}


def fetch_published(model: Published, revision: str, mirror: Path | None = None) -> Fetched:
    """Fetches a released model's files, or finds them in a mirror."""
    spawn = [f"{model.spawn}/*"] if model.spawn else []
    address = Address(model.repository, revision)
    try:
        folder, address = _folder(address, [*model.files, *spawn], mirror)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error}; `--revision main` asks for the newest") from None
    hashes = {path: _hash(folder, path) for path in (*model.files, *filter(None, [model.spawn]))}
    return Fetched(folder, address, hashes, None if mirror else revision)


def fetch_model(address: Address, mirror: Path | None = None) -> tuple[Entry, Fetched]:
    """Fetches a model that was pushed: its card first, then only the files that the card names."""
    folder, result = _folder(address, ["*.toml"], mirror)
    cards = sorted(folder.glob("*.toml"))
    if len(cards) != 1:
        raise DamagedModel(f"{address}: one card (a .toml file) is wanted, but there are {len(cards)}")
    entry = read_entry(_inside(folder, cards[0].name))
    names = [record.name for record in entry.card.files.values()]
    if mirror is None:
        folder, result = _folder(Address(address.repository, result.revision or address.revision), names, None)
        entry = read_entry(_inside(folder, cards[0].name))
    hashes = {name: _hash(folder, name) for name in (cards[0].name, *names)}
    return entry, Fetched(folder, result, hashes, address.revision)


def check_first_pull(fetched: Fetched, name: str) -> None:
    """Refuses fetched files that differ from those of the first pull, if the model is here already.

    Raises:
        DamagedModel: A file differs from that of the first pull.
    """
    for entry in entries():
        before = entry.card.training.get("pulled", {})
        if entry.bundled or entry.name != name or before.get("repository") != fetched.address.repository:
            continue
        for path, sha256 in before.get("sha256", {}).items():
            if fetched.sha256.get(path, sha256) != sha256:
                raise DamagedModel(
                    f"{path} is not the file of the first pull (its SHA-256 differs), so '{name}' stays as it is; "
                    f"if you trust the new one: `diamond-gym remove {name}`, then pull again"
                )


def push(entry: Entry, files: Path, repository: str, private: bool = False) -> Address:
    """Uploads a folder with a model's files to a repository of the user's, which is created if it does not exist.

    Returns:
        The address of what was uploaded, with its commit.
    """
    import huggingface_hub

    address = Address.parse(repository)
    with _clear_lines(address, "pushed"):
        api = huggingface_hub.HfApi()
        api.create_repo(address.repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=address.repository,
            folder_path=files,
            revision=address.revision,
            commit_message=f"{entry.name}: a world model of {entry.card.game}",
            delete_patterns=f"{entry.name}-????????.*",  # the files of the model that it replaces
        )
    return Address(address.repository, str(commit.oid))


def _folder(address: Address, wanted: list[str], mirror: Path | None) -> tuple[Path, Address]:
    """The folder that holds the wanted files, and the address with its commit, if it is known."""
    if mirror is not None and not mirror.is_dir():
        raise BadArgument(f"there is no folder {mirror}")
    if mirror is None:
        import huggingface_hub

        with _clear_lines(address, "fetched"):
            folder = huggingface_hub.snapshot_download(
                address.repository, revision=address.revision, allow_patterns=wanted, library_name="diamond-gym"
            )
    here = mirror or Path(folder)
    # A folder of huggingface_hub's cache is named as its commit.
    commit = here.name if _COMMIT.fullmatch(here.name) else None
    return here, Address(address.repository, commit or (None if mirror else address.revision))


def _inside(folder: Path, path: str) -> Path:
    """The file of a path in a folder, if it is there and nowhere else.

    Raises:
        DamagedModel: It is not there, or lies outside.
    """
    result = folder / path
    # huggingface_hub's cache keeps contents beside its snapshots, and links to them.
    root = folder.parent.parent if folder.parent.name == "snapshots" else folder
    if ".." in Path(path).parts or not result.resolve().is_relative_to(root.resolve()):
        raise DamagedModel(f"{result}: refused, it leads out of its folder")
    if not result.exists():
        raise DamagedModel(f"{result}: there is no such file; was it fetched completely?")
    return result


def _hash(folder: Path, path: str) -> str:
    """The hash of a file in a folder; of a folder in it, one of the names and contents of all files below."""
    whole = _inside(folder, path)
    if whole.is_file():
        return sha256_file(whole)
    paths = sorted(below.relative_to(folder).as_posix() for below in whole.rglob("*") if below.is_file())
    lines = [f"{sha256_file(_inside(folder, below))}  {below}\n" for below in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def _clear_lines(address: Address, done: str) -> Iterator[None]:
    """Turns each error that huggingface_hub and the network raise into one clear line."""
    from huggingface_hub import constants, errors

    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # what it warns of, such as each attempt that failed, the line at the end sums up
    try:
        yield
    except Exception as error:
        raise _clear_line(error, errors, f"{address}", done, Path(constants.HF_HOME)) from None
    finally:
        log.setLevel(level)


def _clear_line(error: Exception, errors: Any, address: str, done: str, cache: Path) -> Exception:
    """A one-line error in place of a library's; the library's own error if the user cannot put it right."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(
            f"{address} is not on the hub, or you have no access to it (a gated or private one needs `hf auth login`)"
        )
    not_found = isinstance(error, errors.RevisionNotFoundError | errors.EntryNotFoundError)
    if not_found and not isinstance(error, errors.LocalEntryNotFoundError):
        return ModelNotFound(f"{address} is not on the hub: there is no such revision or file")
    if isinstance(error, errors.HFValidationError):
        return BadArgument(f"{address}: {one_line(error)}")
    if is_disk_full(error, cache):
        return DiskFull(f"the disk is full: {address} was not {done} completely; free some space and repeat")
    if status in (401, 403):
        return BadArgument(f"the hub denied access: log in with `hf auth login` ({status} for {address})")
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _NETWORK:
        cause = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0][:120]
        return Unreachable(
            f"{address} could not be reached ({cause}); check the connection and repeat the command: it goes on where "
            "it stopped"
        )
    return error
