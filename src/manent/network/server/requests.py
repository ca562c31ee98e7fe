"""Requests: bodies within limits, signatures, errors as JSON, and parts of large files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from manent.core.errors import InvalidInput, ManentError, NotAuthorized, ProtocolAbort, Refused
from manent.core.study import canonical
from manent.network import protocol
from manent.network.server.service import Service
from manent.network.signing import Verifier, received
from manent.storage.blobs import Blobs

PATIENCE = 120.0
"""Seconds in which a body arrives; at 4 MiB, 35 kB/s."""
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
    """

    key: str
    body: bytes


async def body_of(request: Request, most: int) -> bytes:
    """The body as it was sent; nothing is ever unpacked. Raises InvalidInput for a larger one, before more of it is read."""
    _check_told(request, most)
    found, size = [], 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise InvalidInput(f"A body of at most {most:,} bytes is taken here; upload what is larger in parts.")
                found.append(chunk)
    except TimeoutError:
        raise InvalidInput(f"The body took more than {PATIENCE:g} s; send smaller parts.") from None
    except ClientDisconnect:
        raise InvalidInput("The body broke off.") from None
    return b"".join(found)


def _check_told(request: Request, most: int) -> None:
    """What the headers say of the body."""
    told = request.headers.get("content-length", "0")[:20]
    if told.isascii() and told.isdigit() and int(told) > most:
        raise InvalidInput(f"A body of at most {most:,} bytes is taken here; this one says {told}. Upload it in parts.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidInput("A body is sent as it is, without Content-Encoding: the server unpacks nothing.")


async def signed(request: Request, verifier: Verifier, origins: tuple[str, ...], most: int = 1 << 16, once: bool = True) -> Asked:
    """The request's body, and who signed it. Raises NotAuthorized where nobody did who may: of a stranger no body is read.

    Args:
        once: whether its nonce is used up. Not for what anyone may ask, whom nothing must let write into the store.
    """
    protocol.check_version(request.headers.get(protocol.HEADER))
    found = await run_in_threadpool(verifier.examine, *received(request.scope, origins))
    body = await body_of(request, most)
    found.check_body(sha256(body).digest())
    if once:
        await run_in_threadpool(verifier.spend, found)
    request.state.actor = f"site:{found.keyid}"
    return Asked(found.keyid, body)


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Canonical JSON."""
    return Response(canonical(value), status, {protocol.HEADER: str(protocol.VERSION), **(headers or {})}, "application/json")


def octets(data: bytes | None, kind: str = protocol.OCTETS) -> Response:
    """Bytes; 204 where there are none yet."""
    headers = {protocol.HEADER: str(protocol.VERSION)}
    return Response(status_code=204, headers=headers) if data is None else Response(data, 200, headers, kind)


def failure(request: Request, error: Exception) -> Response:
    """An error for people, in JSON."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, status, {protocol.HEADER: str(protocol.VERSION)})


def blob(request: Request, service: Service, digest: str) -> Response:
    """A blob, or the rest of one from where a Range header says; a chunk at a time."""
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
    chunks: Iterator[bytes] = blobs.read(digest, start, stop)
    return StreamingResponse(chunks, 206 if found else 200, headers, protocol.OCTETS)
