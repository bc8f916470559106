"""One folder in place of another, so that whoever looks finds the old one or the new one.

A folder cannot be renamed over one that is not empty, so the old one steps aside first, as
`.<name>.old-<token>`. For that instant neither is in place. A reader who comes just then, or after a crash
just then, puts the old one back; the writer finds it in its way again and goes on. So readers need no lock,
and a crash costs nothing.
"""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from diamond_gym.files import flush_folder

_OLD, _GONE = ".old-", ".gone-"
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # the last one if a link is


def take_place(temporary: Path, target: Path) -> None:
    """Renames `temporary` to `target`, in place of a folder that may be there, which is deleted.

    Of two writers at once, the last one's folder stays.

    Raises:
        OSError: It cannot be done; what was there is there still.
    """
    aside: list[Path] = []
    try:
        while True:
            try:
                os.rename(temporary, target)
                break
            except OSError as error:
                if error.errno not in _IN_THE_WAY and not os.path.lexists(target):
                    raise
            aside.append(target.with_name(f".{target.name}{_OLD}{secrets.token_hex(4)}"))
            with suppress(FileNotFoundError):  # another writer was quicker
                os.rename(target, aside[-1])
    except BaseException:
        _put_back_any(aside, target)
        raise
    flush_folder(target.parent)
    for old in aside:
        discard(old)
    for gone in target.parent.glob(f"{_GONE}*"):  # of a process that was killed while it deleted
        shutil.rmtree(gone, ignore_errors=True)


def put_back(target: Path) -> None:
    """Puts an old folder back where its replacement was interrupted, or is under way; else does nothing."""
    if not os.path.lexists(target):
        _put_back_any(sorted(target.parent.glob(f".{target.name}{_OLD}*")), target)


def names(parent: Path) -> list[str]:
    """The names of the folders in `parent`, in order, those included that have just stepped aside.

    Raises:
        OSError: `parent` is not there or cannot be read.
    """
    result = set()
    for path in parent.iterdir():
        if path.name[0] != ".":
            if path.is_dir() or not path.exists():  # not there: it has been renamed since it was listed
                result.add(path.name)
        elif _OLD in path.name:
            result.add(path.name[1:].rpartition(_OLD)[0])
    return sorted(result)


def discard(folder: Path) -> None:
    """Deletes a folder if it is there, out of sight first, so that half of it is never read or put back."""
    gone = folder.with_name(f"{_GONE}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        os.rename(folder, gone)
        if gone.is_symlink():  # a folder that the user linked in: the link goes, what it points to stays
            gone.unlink()
        else:
            shutil.rmtree(gone, ignore_errors=True)


def _put_back_any(aside: list[Path], target: Path) -> None:
    for old in aside:
        with suppress(OSError):  # whatever is in place by now stays
            os.rename(old, target)
            return
