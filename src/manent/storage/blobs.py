"""Blobs: files of any size, named by the SHA-256 of their content; and uploads that arrive in parts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.storage.bucket import Bucket
from manent.storage.folder import Folder
from manent.storage.opening import is_url

_DIGEST = re.compile(r"[0-9a-f]{64}")
CHUNK = 1 << 20
Chunk = TypeVar("Chunk", bytes, bytes | memoryview)


class Place(Protocol):
    """Where blobs lie. The caller has checked names. Errors of the disk or the network raise ProtocolAbort."""

    def spool(self) -> AbstractContextManager[BinaryIO]:
        """A file that nobody else sees, and that is gone after the block unless it was published."""
        ...

    def write(self, spool: BinaryIO, chunk: bytes | memoryview) -> None:
        """Write to the end of a spool."""
        ...

    def publish(self, spool: BinaryIO, digest: str) -> None:
        """Make a spool a blob, whole and durable, in one step."""
        ...

    def size(self, digest: str) -> int | None:
        """Bytes of a blob; None if there is none."""
        ...

    def read(self, digest: str, start: int, stop: int, chunk: int) -> Iterator[bytes]:
        """The bytes of a range that lies within the blob."""
        ...

    def remove(self, digest: str) -> None:
        """Remove a blob if there is one."""
        ...

    def names(self) -> Iterator[str]:
        """The names of all that lies here."""
        ...

    def length(self, upload: str) -> int:
        """How many bytes of an upload have arrived without a gap."""
        ...

    def append(self, upload: str, offset: int, chunks: Iterable[bytes]) -> int:
        """Continue an upload that stands at the offset. If the chunks break off, what came before is kept."""
        ...

    def finish(self, upload: str, digest: str) -> None:
        """Publish an upload if it has this digest; discard it if it has another."""
        ...

    def discard(self, upload: str) -> None:
        """Forget an upload."""
        ...


class Spool:
    """What may become a blob. It is hashed while it is written."""

    def __init__(self, place: Place, file: BinaryIO) -> None:
        self._place, self._file, self._hash = place, file, sha256()
        self.size = 0

    def write(self, chunk: bytes | memoryview) -> None:
        """Write to its end."""
        self._hash.update(chunk)
        self._place.write(self._file, chunk)
        self.size += len(chunk)

    @property
    def digest(self) -> str:
        """SHA-256 of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def read(self, chunk: int = CHUNK) -> Iterator[bytes]:
        """What was written, in pieces. Nothing may be written after that."""
        self._file.seek(0)
        while data := self._file.read(chunk):
            yield data

    def publish(self) -> str:
        """Make it a blob, whole and durable, in one step. Returns its digest."""
        self._place.publish(self._file, self.digest)
        return self.digest


class Blobs:
    """Blobs in a folder, or in a bucket of an S3-compatible service.

    A blob gets its name once it is whole, has the right digest, and is durable: in a folder, the file and the folder's entry for
    it are on disk; in a bucket, the service has acknowledged it. A process that dies earlier leaves nothing visible (in a bucket,
    hidden parts may stay until the service's own rule for incomplete uploads removes them). Equal content is one blob: only
    remove one that nobody else needs. Memory does not grow with the blobs; what goes to a bucket lies in the system's temporary
    folder until it is there.

    Args:
        path_or_url: a folder, which is made if there is none; "file:///folder"; "s3://bucket/prefix", with the keys and the
            address of the service in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL); or
            "memory://", which is gone with the object.

    Raises:
        InvalidInput: for a folder that cannot be written, or a URL of another kind.
        MissingExtra: for a bucket without obstore.
    """

    def __init__(self, path_or_url: str | os.PathLike[str]) -> None:
        self._place = _place(path_or_url)

    def put(self, chunks: Iterable[bytes | memoryview], digest: str | None = None, most: int | None = None) -> str:
        """Store the content of the chunks. Returns its digest, 64 hexadecimal digits.

        Args:
            digest: the digest that the content must have; None for any.
            most: bytes that the content may have; None for any number.

        Raises:
            InvalidInput: for another digest, or more bytes. Nothing is kept then.
        """
        if digest is not None:
            _check(digest)
        with self.spool() as spool:
            for chunk in _bounded(chunks, 0, most):
                spool.write(chunk)
            if digest is not None and spool.digest != digest:
                raise InvalidInput(f"The content has the digest {spool.digest}, not {digest}; send it again.")
            return spool.publish()

    @contextmanager
    def spool(self) -> Iterator[Spool]:
        """A spool to write to a piece at a time. It is gone after the block unless it was published."""
        with self._place.spool() as file:
            yield Spool(self._place, file)

    def there(self, digest: str) -> bool:
        """Whether there is such a blob."""
        return self._place.size(_check(digest)) is not None

    def size(self, digest: str) -> int:
        """Bytes of a blob. Raises InvalidInput if there is none."""
        found = self._place.size(_check(digest))
        if found is None:
            raise InvalidInput(f"There is no blob {digest}.")
        return found

    def read(self, digest: str, start: int = 0, stop: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        """The bytes from `start` up to `stop` (None: the end), in pieces of at most `chunk`. They are not compared with the
        digest.

        Raises:
            InvalidInput: at once, for an unknown blob or a range that does not lie in it.
        """
        size = self.size(digest)
        stop = size if stop is None else stop
        if not 0 <= start <= stop <= size or chunk < 1:
            raise InvalidInput(f"The blob has {size:,} bytes; found the range from {start:,} to {stop:,}, by {chunk:,}.")
        return self._place.read(digest, start, stop, chunk)

    def verify(self, digest: str) -> None:
        """Read a blob and compare it with its digest. Raises InvalidInput if there is none, and ProtocolAbort if it differs."""
        found = sha256()
        for chunk in self.read(digest):
            found.update(chunk)
        if found.hexdigest() != digest:
            raise ProtocolAbort(f"Blob {digest} was altered or damaged: it has {found.hexdigest()} now. Store it anew.")

    def remove(self, digest: str) -> None:
        """Remove a blob if there is one."""
        self._place.remove(_check(digest))

    def digests(self) -> Iterator[str]:
        """The digests of all blobs, in no order. From them, blobs that a crash left unnamed can be found."""
        return (name for name in self._place.names() if _DIGEST.fullmatch(name))


class Parts:
    """Uploads under way. Any process may append to them, over any time; at the end they become blobs.

    What has arrived counts for nothing until `finish` has found that the whole has its digest.

    Args:
        blobs: where uploads lie, and where they go.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._place = blobs._place

    def length(self, upload_id: str) -> int:
        """How many bytes have arrived, which is where to continue; 0 for an unknown upload."""
        return self._place.length(_name(upload_id))

    def append(self, upload_id: str, offset: int, chunks: Iterable[bytes], most: int | None = None) -> int:
        """Add chunks at the end. Returns the new length, which is durable. If the chunks break off, what came before is kept as
        well.

        Args:
            upload_id: any text. It cannot reach uploads of another text.
            offset: where the caller believes that the upload stands.
            most: bytes that the whole may have.

        Raises:
            InvalidInput: if it stands elsewhere, such as after another process's append, and for more bytes than `most`.
        """
        return self._place.append(_name(upload_id), offset, _bounded(chunks, offset, most))

    def finish(self, upload_id: str, digest: str) -> str:
        """Make an upload a blob, and return its digest.

        Raises:
            InvalidInput: if nothing has arrived; and if what has arrived has another digest, in which case it is discarded.
        """
        self._place.finish(_name(upload_id), _check(digest))
        return digest

    def discard(self, upload_id: str) -> None:
        """Forget what has arrived."""
        self._place.discard(_name(upload_id))


def _bounded(chunks: Iterable[Chunk], size: int, most: int | None) -> Iterator[Chunk]:
    for chunk in chunks:
        size += len(chunk)
        if most is not None and size > most:
            raise InvalidInput(f"At most {most:,} bytes are taken here; found more.")
        if chunk:
            yield chunk


def _check(digest: str) -> str:
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidInput("A blob is named by its SHA-256, as 64 hexadecimal digits in lower case.")
    return digest


def _name(upload_id: str) -> str:
    # A hash of the text: whatever the text holds, it names one entry of one folder.
    return sha256(upload_id.encode("utf-8", "surrogatepass")).hexdigest()


def _place(path_or_url: str | os.PathLike[str]) -> Place:
    if not isinstance(path_or_url, str) or not is_url(path_or_url):
        return Folder(Path(path_or_url))
    url = urlsplit(path_or_url)
    if url.scheme == "file" and url.netloc in ("", "localhost") and url.path:
        return Folder(Path(unquote(url.path)))
    if url.scheme in ("s3", "memory") and not (url.query or url.fragment):
        return Bucket(path_or_url)
    raise InvalidInput(f"Expected a folder, file:///folder or s3://bucket/prefix; found {url.scheme}://{url.hostname or ''}.")
