"""A number that only grows, kept outside the ledger. With it, a ledger that was restored from an old copy is noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from manent.core.errors import InvalidInput
from manent.storage.durable import sync_folder
from manent.storage.lock import check_keeps_locks, lock


class Counter(Protocol):
    """A number that only grows: in a file on another disk, a hardware counter, a service."""

    def read(self) -> int:
        """The number; 0 before the first `advance`."""
        ...

    def advance(self, to: int) -> None:
        """Set it to the larger of its value and `to`, durably."""
        ...


class FileCounter:
    """A counter in a small file. Keep the file where no backup of the ledger restores it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def read(self) -> int:
        """The number; 0 where there is no file yet. Raises InvalidInput where the file holds something else."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return 0
        if not text.strip().isdecimal():
            raise InvalidInput(f"{self.path} should hold a whole number; found {text[:20]!r}.")
        return int(text)

    def advance(self, to: int) -> None:
        """See `Counter`. Raises Refused where the file system keeps no locks, see `storage.lock`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        check_keeps_locks(self.path.parent)
        handle = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock(handle, self.path, wait=True)
            if to > self.read():
                fresh = self.path.with_name(self.path.name + ".new")
                with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                    file.write(str(to))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(fresh, self.path)
                sync_folder(self.path.parent)
        finally:
            os.close(handle)
