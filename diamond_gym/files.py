"""Files that are either the old ones or the new ones, whole, whatever interrupts the writing."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from diamond_gym.errors import DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lends a temporary path beside `path`; when the block ends well, its file takes the place of `path`.

    For libraries that want a path and write the file themselves. The temporary name keeps the suffix, from
    which some of them pick the format. When the block fails, the temporary file is removed and `path` is
    as it was.

    Args:
        path: The file to write or to replace. Its folder is made if there is none.

    Yields:
        A path in the same folder (so that the final rename stays within one file system).

    Raises:
        DiskFull: There is no room left.
    """
    target = Path(os.path.realpath(path))  # replace what a link points to, not the link
    temporary = target.with_name(f".{target.stem}.tmp-{secrets.token_hex(4)}{target.suffix}")
    try:
        with disk_space_for(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush_to_disk(temporary, os.O_RDWR)  # Windows flushes only what is open for writing
            os.replace(temporary, target)
    except BaseException:  # Ctrl-C too must leave no litter
        with suppress(OSError):
            temporary.unlink()
        raise
    flush_folder(target.parent)


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a file for writing that replaces `path` only once it is complete and on the disk.

    Args:
        path: The file to write or to replace.
        mode: `"wb"` for bytes, `"w"` for text (UTF-8, with the line ends as written).

    Yields:
        The open file.

    Raises:
        DiskFull: There is no room left; the old file, if there was one, is intact.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write opens in mode 'w' or 'wb', not {mode!r}")
    text = {"encoding": "utf-8", "newline": ""} if mode == "w" else {}
    with atomic_path(path) as temporary, open(temporary, mode, **text) as file:  # type: ignore[call-overload]
        yield file


@contextmanager
def temporary_folder(parent: Path, prefix: str = "diamond-gym") -> Iterator[Path]:
    """Lends a new, hidden folder in `parent`, deleted after the block; first deletes those of killed processes.

    A lock beside the folder says that its process lives: the system lets go of a killed process' lock.

    Args:
        parent: Where to make it; made itself if there is none.
        prefix: What such folders are for; only those of the same prefix are looked at.

    Yields:
        The folder, empty. It may be renamed within the block.
    """
    from filelock import FileLock, Timeout

    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f".{prefix}.tmp-*.lock"):
        with suppress(Timeout, OSError), FileLock(left, timeout=0):
            shutil.rmtree(left.with_suffix(""), ignore_errors=True)
            left.unlink(missing_ok=True)
    folder = parent / f".{prefix}.tmp-{secrets.token_hex(4)}"
    with FileLock(f"{folder}.lock", timeout=0) as lock:  # before there is a folder that somebody could delete
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # Windows deletes no file that is open
                Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def disk_space_for(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns a full disk, in whatever words a library reports it, into one clear line.

    Of blocks within blocks the outermost names what could not be written: the model, not one of its files.

    Args:
        path: What is being written, for the message.

    Raises:
        DiskFull: The disk filled up within the block.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error, Path(path).parent):
            raise
        raise DiskFull(
            f"the disk is full: could not write {path} (what was there before is intact); free some space and try again"
        ) from error


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether `error`, raised while writing in `folder`, means that there is no room left.

    NumPy, safetensors and torch report a short write each in their own words, some without an error number,
    so the words and the space that is left are asked too.
    """
    if isinstance(error, DiskFull):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    if "no space left" in str(error).lower() or "os error 28" in str(error):
        return True
    torchs_words = ("PytorchStreamWriter", "inline_container")
    short_write = isinstance(error, OSError) or any(words in str(error) for words in torchs_words)
    with suppress(OSError):
        return short_write and shutil.disk_usage(folder).free < 1 << 20
    return False


def user_folder(kind: Literal["data", "cache"]) -> Path | None:
    """The system's place for this user's data or cache of diamond-gym; None for a user who has no home folder."""
    import platformdirs  # only needed here, and `import diamond_gym` should stay cheap

    try:
        folder = Path(getattr(platformdirs, f"user_{kind}_dir")("diamond-gym", appauthor=False))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # older versions of platformdirs leave the "~" in it


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, as 64 lower-case hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_folder(folder: Path) -> None:
    """Makes a rename within `folder` survive a power cut, where the system can (Windows cannot)."""
    if os.name == "posix":
        with suppress(OSError):
            _flush_to_disk(folder, os.O_RDONLY)


def _flush_to_disk(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
