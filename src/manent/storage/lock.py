"""Locks of files, and one process a folder: a lock that names its holder, and that the death of its holder releases.

A file system that keeps no locks, or keeps them for one machine while others write too, is refused: nothing would stop a second
process there. Whoever knows that there is none sets the variable MANENT_UNLOCKED=1.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
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
MOUNTS: Final = Path("/proc/self/mountinfo")
_ALONE = {
    "fuse.sshfs",
    "fuse.s3fs",
    "fuse.gcsfuse",
    "fuse.rclone",
    "fuse.goofys",
    "fuse.mount-s3",
    "fuse.davfs",
    "fuse.blobfuse2",
}
"""File systems that others may write at the same time, and that keep locks for this machine alone."""
_CANNOT = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

_MOUNT = re.compile(r"^\S+ \S+ \S+ \S+ (\S+) (\S+) .*?- (\S+) \S+ (\S+)$", re.MULTILINE)  # see proc(5)

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
        Refused: where the file system keeps no locks, and the variable MANENT_UNLOCKED is not 1; see `check_keeps_locks`.
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
    check_keeps_locks(folder)
    if not lock(handle, folder):
        raise InvalidInput(
            f"{folder} is in use by {holder(folder)}. Two processes would do its work twice: wait for that one, or stop it."
        )
    if _shared(handle, folder):
        _without_locks(folder, "it gives one lock to two")


def _shared(handle: int, folder: Path) -> bool:
    """Whether the lock that a handle has is given to another one as well."""
    try:
        second = os.open(folder / FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # whoever held it has removed the file meanwhile
    try:
        return os.path.samestat(os.fstat(handle), os.fstat(second)) and lock(second, folder)
    finally:
        os.close(second)


def lock(handle: int, path: Path, *, wait: bool = False) -> bool:
    """Lock an open file for this handle alone, until it is unlocked or closed, or its process ends.

    Args:
        path: of the file or its folder, for messages.
        wait: for whoever holds it.

    Returns whether it is locked now; without `wait`, false where another handle has it.

    Raises Refused where the file system keeps no locks, and the variable MANENT_UNLOCKED is not 1.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        _without_locks(path, str(error.strerror))
    return True


def check_keeps_locks(folder: Path) -> None:
    """Raises Refused where the system says that a folder's file system keeps no locks, or for this machine alone.

    That is network file systems that are mounted so, and some that are programs. What the system does not tell is not found.
    """
    kind, options = _mounted(folder)
    if kind in _ALONE:
        _without_locks(folder, f"{kind} keeps them for this machine alone")
    off = {"nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"} if kind.startswith("nfs") else {"nobrl", "nolock"}
    found = sorted(off & options) if kind.startswith(("nfs", "cifs", "smb", "lustre")) else []
    if found:
        _without_locks(folder, f"{kind} mounted with {found[0]} keeps them for this machine alone")


def _mounted(folder: Path) -> tuple[str, frozenset[str]]:
    """The kind of a folder's file system, and how it is mounted; "" where the system does not tell."""
    try:
        rows = _MOUNT.findall(MOUNTS.read_text())
        where = folder.resolve()
    except (OSError, ValueError, RuntimeError):
        return "", frozenset()
    deepest, found = -1, ("", frozenset[str]())
    for escaped, options, kind, of in rows:  # the last of two mounts on one point is the one that is seen
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped))
        if len(point.parts) >= deepest and (point == where or point in where.parents):
            deepest, found = len(point.parts), (kind, frozenset([*options.split(","), *of.split(",")]))
    return found


def _without_locks(path: Path, why: str) -> None:
    """Raises Refused, unless it was said that this does no harm."""
    if os.environ.get(UNLOCKED) != "1":
        raise Refused(
            f"The file system of {path} keeps no locks ({why}), so nothing would stop a second process there. "
            f"Use a folder on a local disk; or set {UNLOCKED}=1 and see to it yourself that there is one process."
        )


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
