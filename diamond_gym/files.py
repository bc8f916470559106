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

from diamond_gym.errors import BadArgument, DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lends a temporary path beside `path`; when the block ends well, its file takes the place of `path`.

    For libraries that write the file themselves; the suffix stays, from which some pick the format. The folder is made
    if there is none. When the block fails, the temporary file is removed and `path` is as it was.

    An error of the system's that names the temporary path names `path` instead, which is what the user wrote.

    Raises:
        BadArgument: `path` is a folder or a device.
        DiskFull: There is no room left.
    """
    _refuse_other_than_file(path)
    target = Path(os.path.realpath(path))  # replace what a link points to, not the link
    temporary = target.with_name(f".{target.stem}.tmp-{secrets.token_hex(4)}{target.suffix}")
    try:
        with disk_space_for(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush_to_disk(temporary, os.O_RDWR)  # Windows flushes only what is open for writing
            os.replace(temporary, target)
    except BaseException as error:  # Ctrl-C too must leave no temporary file
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (temporary, str(temporary), os.fsencode(temporary)):
            error.filename, error.filename2 = os.fspath(path), None
        raise
    flush_folder(target.parent)


def _refuse_other_than_file(path: str | os.PathLike[str]) -> None:
    """Raises BadArgument where there is something else than a file, which a rename would replace or fail at."""
    if Path(path).exists() and not Path(path).is_file():
        raise BadArgument(f"{os.fspath(path)} is {'a folder' if Path(path).is_dir() else 'no file'}: name a file")


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """Opens a file, for bytes or UTF-8 text, that replaces `path` once it is complete and on the disk.

    Raises:
        DiskFull: There is no room left; the old file, if there was one, is intact.
    """
    text = {"encoding": "utf-8", "newline": ""} if mode == "w" else {}
    with atomic_path(path) as temporary, open(temporary, mode, **text) as file:  # type: ignore[call-overload]
        yield file


@contextmanager
def temporary_folder(parent: Path, prefix: str = "diamond-gym") -> Iterator[Path]:
    """Lends a new, hidden folder in `parent`, deleted after the block unless it was renamed.

    Those of the same prefix that killed processes left are deleted first: a lock beside each folder says that its
    process lives, and the system lets go of a killed process' lock.
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
    """Turns a full disk, in whatever words a library reports it, into one line that names `path`.

    Of blocks within blocks the outermost names what could not be written: the model, not one of its files.

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
    """Whether `error`, raised while writing in `folder`, means that there is no room left."""
    message = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    if isinstance(error, DiskFull) or "no space left" in message.lower() or "os error 28" in message:
        return True
    # NumPy and torch report a short write without an error number, for which there may be other reasons.
    with suppress(OSError):
        short_write = isinstance(error, OSError) or "PytorchStreamWriter" in message or "inline_container" in message
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
