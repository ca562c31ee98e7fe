"""Requests and answers: bodies within limits, signatures, errors as JSON, and parts of large files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, ManentError, NotAuthorized, ProtocolAbort, Refused
from manent.network.server.service import Service
from manent.network.trust.signing import Signed, Verifier, received
from manent.network.wire import protocol
from manent.storage.blobs import Blobs, Spool

PATIENCE = 120.0
"""Seconds within which a body must arrive; for 4 MiB, that is 35 kB/s."""
PIECE = 1 << 16
"""Most bytes of an answer that wait for a slow reader."""
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")
_STATUS: tuple[tuple[type[ManentError], int], ...] = (
    (NotAuthorized, 403),
    (InvalidInput, 400),
    (Refused, 409),
    (ProtocolAbort, 409),
)


@dataclass(frozen=True)
class Asked:
    """A request whose signature holds.

    Attributes:
        key: public key of who signed it, 64 hexadecimal digits.
        body: as it was signed.
    """

    key: str
    body: bytes


async def pieces_of(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it arrives. Nothing is ever unpacked.

    Raises InvalidInput for a body that is too large (before more of it is read), takes longer than PATIENCE, is encoded, or
    breaks off.
    """
    _check_told(request, most)
    size = 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise InvalidInput(f"A body of at most {most:,} bytes is taken here; upload what is larger in parts.")
                yield chunk
    except TimeoutError:
        raise InvalidInput(f"The body took more than {PATIENCE:g} s; send smaller parts.") from None
    except ClientDisconnect:
        raise InvalidInput("The body broke off.") from None


async def body_of(request: Request, most: int) -> bytes:
    """The whole body. Raises InvalidInput as `pieces_of`."""
    return b"".join([chunk async for chunk in pieces_of(request, most)])


def told_size(request: Request) -> int:
    """Bytes of the body according to its header. Without that header the body may have any size, and counts as a full part."""
    told = request.headers.get("content-length", "")[:20]
    return int(told) if told.isascii() and told.isdigit() else protocol.PART


def _check_told(request: Request, most: int) -> None:
    """Raises InvalidInput if the headers announce a body that is too large, or encoded."""
    if "content-length" in request.headers and (told := told_size(request)) > most:
        raise InvalidInput(f"A body of at most {most:,} bytes is taken here; this one says {told}. Upload it in parts.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidInput("A body is sent as it is, without Content-Encoding: the server unpacks nothing.")


async def headed(request: Request, verifier: Verifier, origins: tuple[str, ...]) -> Signed:
    """Verify the headers' signature, and say who signed. The body is not read yet, and the nonce not used up.

    Raises NotAuthorized if nobody signed it who may.
    """
    protocol.check_version(request.headers.get(protocol.HEADER))
    return await run_in_threadpool(verifier.examine, *received(request.scope, origins))


async def _sound(request: Request, verifier: Verifier, found: Signed, digest: bytes, once: bool = True) -> None:
    """Check that the body is the signed one, and use up the nonce."""
    found.check_body(digest)
    if once:
        await run_in_threadpool(verifier.spend, found)
    request.state.actor = f"site:{found.keyid}"


async def signed(request: Request, verifier: Verifier, origins: tuple[str, ...], most: int = 1 << 16, once: bool = True) -> Asked:
    """A signed request's body, and who signed it. The body of a stranger is not read.

    Args:
        most: bytes of the body.
        once: whether the nonce is used up. False for what anyone may ask: strangers must not be able to write into the store.

    Raises:
        NotAuthorized: if nobody signed it who may.
        InvalidInput: as `pieces_of`.
    """
    found = await headed(request, verifier, origins)
    body = await body_of(request, most)
    await _sound(request, verifier, found, sha256(body).digest(), once)
    return Asked(found.keyid, body)


@asynccontextmanager
async def spooled(request: Request, verifier: Verifier, found: Signed, blobs: Blobs, most: int) -> AsyncIterator[Spool]:
    """A signed request's body, written to disk and hashed as it arrives, so that memory does not grow with it.

    Raises as `signed`.
    """
    with ExitStack() as stack:
        spool = await run_in_threadpool(lambda: stack.enter_context(blobs.spool()))
        async for chunk in pieces_of(request, most):
            await run_in_threadpool(spool.write, chunk)
        await _sound(request, verifier, found, bytes.fromhex(spool.digest))
        yield spool


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as canonical JSON."""
    return Response(canonical(value), status, {protocol.HEADER: str(protocol.VERSION), **(headers or {})}, "application/json")


def octets(data: bytes | None, kind: str = protocol.OCTETS) -> Response:
    """An answer of bytes; status 204 for None."""
    headers = {protocol.HEADER: str(protocol.VERSION)}
    return Response(status_code=204, headers=headers) if data is None else Response(data, 200, headers, kind)


def failure(request: Request, error: Exception) -> Response:
    """An error as JSON, in words for people."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, status, {protocol.HEADER: str(protocol.VERSION)})


def blob(request: Request, service: Service, digest: str) -> Response:
    """A blob, or the part that the Range header asks for, sent a chunk at a time."""
    blobs: Blobs = service.blobs
    size = blobs.size(digest)
    start, stop, found = 0, size, _RANGE.fullmatch(request.headers.get("range", ""))
    if found is not None:
        start, stop = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
    headers = {protocol.HEADER: str(protocol.VERSION), "Accept-Ranges": "bytes", "ETag": f'"{digest}"'}
    if not start <= stop:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Length"] = str(stop - start)
    if found is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    chunks: Iterator[bytes] = blobs.read(digest, start, stop, PIECE)
    return StreamingResponse(chunks, 206 if found else 200, headers, protocol.OCTETS)
