"""Content-addressed blobs in a folder, and uploads that arrive in parts."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from manent.core.errors import InvalidInput

_NAME = re.compile(r"[0-9a-f]{64}")


class FolderBlobs:
    """Files by the SHA-256 of their content. A file is whole and durable before it has its name."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)

    def put(self, chunks: Iterable[bytes], digest: str | None = None, most: int | None = None) -> str:
        """Store what the chunks hold; its digest. Raises InvalidInput for another digest, or more than `most` bytes."""
        part = self.folder / "parts" / secrets.token_hex(16)
        found, size = sha256(), 0
        try:
            with part.open("wb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    if most is not None and size > most:
                        raise InvalidInput(f"Expected at most {most} bytes; found more.")
                    found.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if digest is not None and found.hexdigest() != digest:
                raise InvalidInput(f"The content's digest is {found.hexdigest()}, not {digest} as was said.")
            os.replace(part, self._path(found.hexdigest()))
        finally:
            part.unlink(missing_ok=True)
        return found.hexdigest()

    def size(self, digest: str) -> int:
        """Bytes. Raises InvalidInput for an unknown blob."""
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            raise InvalidInput(f"There is no blob {digest[:64]}.") from None

    def read(self, digest: str, start: int = 0, stop: int | None = None, chunk: int = 1 << 20) -> Iterator[bytes]:
        """The bytes from start to stop, a chunk at a time."""
        left = (self.size(digest) if stop is None else stop) - start
        with self._path(digest).open("rb") as file:
            file.seek(start)
            while left > 0 and (data := file.read(min(chunk, left))):
                left -= len(data)
                yield data

    def remove(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def older(self, before: float) -> set[str]:
        """Digests of blobs that were stored before a time, in seconds since the epoch."""
        found = set()
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if _NAME.fullmatch(path.name) and path.stat().st_mtime < before:
                    found.add(path.name)
        return found

    def _path(self, digest: str) -> Path:
        if not _NAME.fullmatch(digest):
            raise InvalidInput("A blob is named by 64 hexadecimal digits.")
        return self.folder / digest


class FolderParts:
    """Uploads under way, by an id; appended to at the offset where they stand."""

    def __init__(self, folder: str | Path, blobs: FolderBlobs) -> None:
        self.folder, self.blobs = Path(folder), blobs
        self.folder.mkdir(parents=True, exist_ok=True)

    def length(self, upload_id: str) -> int:
        path = self._path(upload_id)
        return path.stat().st_size if path.exists() else 0

    def append(self, upload_id: str, offset: int, chunks: Iterable[bytes]) -> int:
        """The new length. Raises InvalidInput where the upload does not stand at the offset."""
        if self.length(upload_id) != offset:
            raise InvalidInput(f"The upload stands at {self.length(upload_id)} bytes, not {offset}; go on from there.")
        with self._path(upload_id).open("ab") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return self.length(upload_id)

    def finish(self, upload_id: str, digest: str) -> str:
        """Make it a blob. Raises InvalidInput where its content has another digest; what had arrived is discarded then."""
        path = self._path(upload_id)
        if not path.exists():
            raise InvalidInput("Nothing of this upload has arrived.")
        try:
            with path.open("rb") as file:
                return self.blobs.put(iter(lambda: file.read(1 << 20), b""), digest)
        finally:
            path.unlink(missing_ok=True)

    def discard(self, upload_id: str) -> None:
        self._path(upload_id).unlink(missing_ok=True)

    def _path(self, upload_id: str) -> Path:
        return self.folder / sha256(upload_id.encode()).hexdigest()
