"""One process a folder: a lock that names its holder, and that the death of its holder releases."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from manent.core.errors import InvalidInput, Refused

FILE: Final = "lock"
UNLOCKED: Final = "MANENT_UNLOCKED"
"""Environment variable: set to 1, folders on file systems without locks are used all the same."""
_CANNOT = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

_held: set[int] = set()  # file descriptors of this process, which a forked child closes


def _close_in_child() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def hold(folder: Path, purpose: str) -> Iterator[None]:
    """Hold a folder for one process as long as the context lasts.

    The system itself releases the lock when the process ends, however that happens, also by `kill -9` or a loss of power. So a
    lock file that was left behind means nothing. A forked child does not hold it. Two holders in one process exclude each other.

    Args:
        folder: is made where it is missing. The file `lock` in it says who holds it; it is removed at the end, and with it a
            folder in which nothing else was written.
        purpose: for people, what is done with it, as "run".

    Raises:
        InvalidInput: where another process holds it, with its number, machine and start; or the folder cannot be written.
        Refused: where the file system keeps no locks, and the variable MANENT_UNLOCKED is not 1.
    """
    handle = _locked(folder)
    os.ftruncate(handle, 0)
    os.pwrite(handle, _said(purpose), 0)
    try:
        yield
    finally:
        if handle in _held:  # a forked child has closed it already
            _remove(folder)
            _release(handle)


def _locked(folder: Path) -> int:
    """A handle of the folder's lock file, which is locked. Raises as `hold`."""
    while True:
        handle = _opened(folder)
        _held.add(handle)
        try:
            _lock(handle, folder)
            if _is_there(handle, folder / FILE):
                return handle
        except BaseException:
            _release(handle)
            raise
        _release(handle)  # whoever held it has removed the file meanwhile


def _opened(folder: Path) -> int:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the folder was removed between the two lines
        except OSError as error:
            raise InvalidInput(f"Cannot write in {folder}: {error.strerror}. Name a folder that can be written.") from None


def _lock(handle: int, folder: Path) -> None:
    """Take the lock, where the file system keeps any. Raises as `hold`."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidInput(
            f"{folder} is in use by {holder(folder)}. Two processes would do its work twice: wait for that one, or stop it."
        ) from None
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        if os.environ.get(UNLOCKED) != "1":
            raise Refused(
                f"The file system of {folder} keeps no locks ({error.strerror}), so nothing would stop a second process there. "
                f"Use a folder on a local disk; or set {UNLOCKED}=1 and see to it yourself that there is one process."
            ) from None


def _is_there(handle: int, path: Path) -> bool:
    """Whether the file that was opened is the one that others would open now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _remove(folder: Path) -> None:
    """Remove the lock file, and the folder where nothing else is in it."""
    with suppress(OSError):
        (folder / FILE).unlink()
        folder.rmdir()


def _release(handle: int) -> None:
    _held.remove(handle)
    with suppress(OSError):  # at once, also where a child is just being forked; where there are no locks, it fails
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def holder(folder: Path) -> str:
    """Who holds a folder, or held it last, as it said itself."""
    try:
        said = json.loads((folder / FILE).read_bytes())
        return f"a {said['purpose']} (process {said['process']} on {said['machine']}, since {said['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _said(purpose: str) -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"purpose": purpose, "process": os.getpid(), "machine": socket.gethostname(), "since": since, "program": sys.argv[0]}
    return json.dumps(facts).encode()
