"""Blobs in a folder of a local disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO, cast

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.storage.durable import make_folder, sync_folder
from manent.storage.lock import lock


class Folder:
    """One file for each blob; see `blobs.Place`. Only their owner can read the files.

    A file that is being written has a random name in the folder "unfinished", and is locked by its writer. A file there without a
    lock was left by a process that has died; it is removed when the folder is next opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._spools, self._uploads = path, path / "unfinished", path / "uploads"
        try:
            for folder in (path, self._spools, self._uploads):
                make_folder(folder)
            self._tidy()
        except OSError as error:
            raise InvalidInput(f"Cannot keep blobs in {path}: {error.strerror}. Name a folder that can be written.") from None

    def _tidy(self) -> None:
        for left in self._spools.iterdir():
            try:
                with left.open("rb") as file:
                    if lock(file.fileno(), self.path):  # else its writer lives
                        left.unlink()
            except FileNotFoundError:
                continue  # another process was faster

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ProtocolAbort(f"The blobs in {self.path} failed: {error.strerror or error}. Nothing was stored.") from None

    @contextmanager
    def spool(self) -> Iterator[BinaryIO]:
        """See `blobs.Place`."""
        with self._explained():
            path, file = self._new()
        try:
            yield file
        finally:
            file.close()
            path.unlink(missing_ok=True)

    def _new(self) -> tuple[Path, BinaryIO]:
        while True:
            path = self._spools / secrets.token_hex(16)
            file = _opened(path, os.O_CREAT | os.O_EXCL)
            if lock(file.fileno(), self.path) and _is(path, file):
                return path, file
            file.close()  # another process removed it as left behind, in the moment before it was locked

    def write(self, spool: BinaryIO, chunk: bytes | memoryview) -> None:
        """See `blobs.Place`."""
        with self._explained():
            _write(spool, chunk)

    def publish(self, spool: BinaryIO, digest: str) -> None:
        """See `blobs.Place`."""
        with self._explained():
            os.fsync(spool.fileno())
            os.replace(spool.name, self.path / digest)
            sync_folder(self.path)

    def size(self, digest: str) -> int | None:
        """See `blobs.Place`."""
        try:
            return (self.path / digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: str, start: int, stop: int, chunk: int) -> Iterator[bytes]:
        """See `blobs.Place`. The file is open when this returns, so it can be read to its end even if it is removed meanwhile."""
        with self._explained():
            file = (self.path / digest).open("rb", buffering=0)
        return self._pieces(file, start, stop, chunk)

    def _pieces(self, file: BinaryIO, start: int, stop: int, chunk: int) -> Iterator[bytes]:
        with file:
            file.seek(start)
            while start < stop:
                with self._explained():
                    data = file.read(min(chunk, stop - start))
                if not data:
                    raise ProtocolAbort(f"A blob in {self.path} ends before its {stop:,} bytes: it was cut off meanwhile.")
                start += len(data)
                yield data

    def remove(self, digest: str) -> None:
        """See `blobs.Place`."""
        with self._explained():
            (self.path / digest).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        """See `blobs.Place`."""
        return (entry.name for entry in self.path.iterdir())

    def length(self, upload: str) -> int:
        """See `blobs.Place`."""
        try:
            return (self._uploads / upload).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, upload: str, offset: int, chunks: Iterable[bytes]) -> int:
        """See `blobs.Place`."""
        path = self._uploads / upload
        stands = self.length(upload)
        if stands != offset:
            raise elsewhere(stands, offset)
        for chunk in chunks:
            # Held for one chunk: if a client's connection hangs, it can continue over another, and the old one is refused.
            with self._held(path, make=offset == 0) as file:
                stands = 0 if file is None else os.fstat(file.fileno()).st_size
                if file is None or stands != offset:
                    raise elsewhere(stands, offset)
                with self._explained():
                    file.seek(offset)
                    _write(file, chunk)
                offset += len(chunk)
        with self._held(path, make=False) as file, self._explained():
            if file is not None:
                os.fsync(file.fileno())
                sync_folder(self._uploads)
        return offset

    def finish(self, upload: str, digest: str) -> None:
        """See `blobs.Place`."""
        path = self._uploads / upload
        with self._held(path, make=False) as file:
            if file is None:
                raise nothing()
            with self._explained():
                found = file_digest(cast(BufferedRandom, file), "sha256").hexdigest()
                if found == digest:
                    os.fsync(file.fileno())
                    os.replace(path, self.path / digest)
                    sync_folder(self.path)
                    return
                path.unlink()
        raise other(found, digest)

    def discard(self, upload: str) -> None:
        """See `blobs.Place`."""
        path = self._uploads / upload
        with self._held(path, make=False) as file:
            if file is not None:
                path.unlink()

    @contextmanager
    def _held(self, path: Path, make: bool) -> Iterator[BinaryIO | None]:
        """An upload's file, which nobody else changes in the meantime; None if there is none."""
        while True:
            try:
                with self._explained_but_missing():
                    file = _opened(path, os.O_CREAT if make else 0)
            except FileNotFoundError:
                yield None
                return
            with file:
                lock(file.fileno(), self.path, wait=True)
                if _is(path, file):
                    yield file
                    return

    @contextmanager
    def _explained_but_missing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ProtocolAbort(f"The blobs in {self.path} failed: {error.strerror or error}.") from None


def _opened(path: Path, how: int) -> BinaryIO:
    # Unbuffered: what was written is in the file, and to close it cannot fail.
    return cast(BinaryIO, open(path, "r+b", buffering=0, opener=lambda name, flags: os.open(name, flags | how, 0o600)))


def _write(file: BinaryIO, chunk: bytes | memoryview) -> None:
    left = memoryview(chunk)
    while left:
        left = left[file.write(left) :]


def _is(path: Path, file: BinaryIO) -> bool:
    """Whether a path still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def elsewhere(stands: int, offset: int) -> InvalidInput:
    """The error for an append that is not at the end."""
    return InvalidInput(f"The upload stands at {stands} bytes, not at {offset}; go on from there.")


def nothing() -> InvalidInput:
    """The error for finishing an upload of which nothing has arrived."""
    return InvalidInput("Nothing of this upload has arrived; send it.")


def other(found: str, digest: str) -> InvalidInput:
    """The error for an upload with another content than announced."""
    return InvalidInput(f"What has arrived has the digest {found}, not {digest}, and was discarded; send it again.")
