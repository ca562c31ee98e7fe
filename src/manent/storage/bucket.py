"""Blobs in a bucket of an S3-compatible service, through obstore."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any, BinaryIO

from manent.core.errors import InvalidInput, MissingExtra, ProtocolAbort
from manent.storage.folder import elsewhere, nothing, other

STRETCH = 8 << 20  # bytes of one request: of a piece of an upload, or a part of a blob
_REQUESTS = 4  # at once
_PARTS = 9_000  # of one blob; services accept 10,000
_RETRIES = 5


class Bucket:
    """One object for each blob; see `blobs.Place`. An upload lies in pieces, each named by its offset and written once.

    The service must support conditional writes (If-None-Match), as AWS, MinIO, R2 and Ceph do.
    """

    def __init__(self, url: str) -> None:
        try:
            import obstore
        except ModuleNotFoundError:
            raise MissingExtra("obstore", "server", "Keeping blobs in a bucket") from None
        self._obstore, self.url = obstore, url
        try:
            self._store: Any = obstore.store.from_url(url, **_options(url))
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise InvalidInput(
                f"Cannot keep blobs in {url}: {_first(error)}. See the bucket's name and AWS_ENDPOINT_URL."
            ) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (self._obstore.exceptions.BaseError, OSError) as error:
            raise ProtocolAbort(f"The blobs in {self.url} failed: {_first(error)}.") from None

    @contextmanager
    def spool(self) -> Iterator[BinaryIO]:
        """See `blobs.Place`. The file has no name, so a process that dies leaves nothing."""
        with tempfile.TemporaryFile() as file:
            yield file

    def write(self, spool: BinaryIO, chunk: bytes | memoryview) -> None:
        """See `blobs.Place`."""
        with self._explained():
            spool.write(chunk)

    def publish(self, spool: BinaryIO, digest: str) -> None:
        """See `blobs.Place`."""
        with self._explained():
            size = spool.tell()
            spool.seek(0)
            part = max(STRETCH, size // _PARTS + 1)
            self._obstore.put(
                self._store, digest, spool, use_multipart=size > STRETCH, chunk_size=part, max_concurrency=_REQUESTS
            )

    def size(self, digest: str) -> int | None:
        """See `blobs.Place`."""
        with self._explained():
            try:
                return int(self._obstore.head(self._store, digest)["size"])
            except FileNotFoundError:
                return None

    def read(self, digest: str, start: int, stop: int, chunk: int) -> Iterator[bytes]:
        """See `blobs.Place`."""
        return self._pieces(digest, start, stop, chunk)

    def _pieces(self, name: str, start: int, stop: int, chunk: int) -> Iterator[bytes]:
        while start < stop:
            end = min(stop, start + max(chunk, STRETCH))
            with self._explained():
                data = memoryview(self._obstore.get_range(self._store, name, start=start, end=end))
            if len(data) != end - start:
                raise ProtocolAbort(f"The blobs in {self.url} failed: {end - start} bytes were asked for, {len(data)} came.")
            for at in range(0, len(data), chunk):
                yield bytes(data[at : at + chunk])
            start = end

    def remove(self, digest: str) -> None:
        """See `blobs.Place`."""
        self._remove([digest])

    def _remove(self, names: list[str]) -> None:
        if names:  # a name that is not there counts as removed
            with self._explained():
                self._obstore.delete(self._store, names)

    def names(self) -> Iterator[str]:
        """See `blobs.Place`."""
        with self._explained():
            for page in self._obstore.list(self._store):
                yield from (str(entry["path"]) for entry in page)

    def _upload(self, upload: str) -> list[tuple[str, int, int]]:
        """Name, offset and size of each piece of an upload, up to the first gap."""
        with self._explained():
            pieces = sorted(
                (str(e["path"]), int(e["size"])) for e in self._obstore.list(self._store, f"uploads/{upload}/").collect()
            )
        found, stands = [], 0
        for name, size in pieces:
            if int(name.rpartition("/")[2]) != stands:
                break
            found.append((name, stands, size))
            stands += size
        return found

    def length(self, upload: str) -> int:
        """See `blobs.Place`."""
        return sum(size for _, _, size in self._upload(upload))

    def append(self, upload: str, offset: int, chunks: Iterable[bytes]) -> int:
        """See `blobs.Place`. If two processes continue from the same place, one writes the piece there, and the other is
        refused.
        """
        stands = self.length(upload)
        if stands != offset:
            raise elsewhere(stands, offset)
        if offset == 0:
            self.discard(upload)  # a late request may have left pieces after the upload was discarded
        for data in _stretches(chunks):
            self._piece(upload, offset, data)
            offset += len(data)
        return offset

    def _piece(self, upload: str, offset: int, data: bytes) -> None:
        with self._explained():
            try:
                name = f"uploads/{upload}/{offset:020d}"
                self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
                return
            except self._obstore.exceptions.AlreadyExistsError:
                pass
        raise elsewhere(self.length(upload), offset)

    def finish(self, upload: str, digest: str) -> None:
        """See `blobs.Place`."""
        pieces, found = self._upload(upload), sha256()
        if not pieces:
            raise nothing()
        with self.spool() as spool:
            for name, _, size in pieces:
                for data in self._pieces(name, 0, size, STRETCH):
                    found.update(data)
                    self.write(spool, data)
            if found.hexdigest() == digest:
                self.publish(spool, digest)
        self.discard(upload)
        if found.hexdigest() != digest:
            raise other(found.hexdigest(), digest)

    def discard(self, upload: str) -> None:
        """See `blobs.Place`."""
        with self._explained():
            names = [str(entry["path"]) for entry in self._obstore.list(self._store, f"uploads/{upload}/").collect()]
        self._remove(names)


def _options(url: str) -> dict[str, Any]:
    if url.startswith("memory"):
        return {}
    # A request moves at most one stretch: two minutes are enough on a slow link.
    client = {"timeout": "120s", "connect_timeout": "10s", "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"}
    return {"client_options": client, "retry_config": {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=60)}}


def _stretches(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of STRETCH. If the chunks break off with an error, what came before is given first."""
    arrived, broken = bytearray(), None
    try:
        for chunk in chunks:
            arrived += chunk
            while len(arrived) >= STRETCH:
                yield bytes(arrived[:STRETCH])
                del arrived[:STRETCH]
    except Exception as error:  # noqa: BLE001 - raised again below
        broken = error
    if arrived:
        yield bytes(arrived)
    if broken is not None:
        raise broken


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]
