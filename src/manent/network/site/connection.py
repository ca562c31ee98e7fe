"""A site's connection to its server. The site opens it, over HTTPS; every request is signed, and large ones are sent in parts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, ManentError, NotAuthorized, ProtocolAbort
from manent.crypto.identity import SigningKey
from manent.network.site import told
from manent.network.trust.signing import sign_request
from manent.network.trust.tls import pinned_context
from manent.network.wire import protocol

LONGEST_PAUSE = 60.0
WAIT = 25.0  # seconds of a long poll
PATIENCE = 60.0  # seconds without an answer after which the server counts as away; more than a long poll takes
MOST_ANSWER = 64 << 20
"""Most bytes of an answer that is held in memory; models go to the disk instead."""
_ERRORS: Mapping[int, type[ManentError]] = {400: InvalidInput, 403: NotAuthorized, 409: ProtocolAbort}


class Away(Exception):
    """The server could not be reached, or is not ready; try again."""


def pause(failures: int, key: SigningKey, now: float) -> float:
    """Seconds to wait after so many failures: longer with each, up to LONGEST_PAUSE, and different for each site and moment."""
    return min(0.25 * 2.0 ** min(failures, 20), LONGEST_PAUSE) * (0.5 + _fraction(key, now) / 2)


def _fraction(key: SigningKey, now: float) -> float:
    """A number in [0, 1), another one for each site and moment, so that sites do not ask all at once. It is no secret."""
    return int.from_bytes(sha256(key.public + repr(now).encode()).digest()[:4], "big") / 2**32


class Connection:
    """Requests to one server, signed by one identity. Safe to use from several threads.

    Args:
        url: the server's, without a slash at its end.
        pin: SHA-256 of its certificate in hexadecimal; None if an authority that the system knows vouches for it.
        key: signs every request.
        clock: seconds since 1970 (UTC).
        transport: how requests travel, in place of HTTPS.
        pause: waits for so many seconds.
    """

    def __init__(
        self,
        url: str,
        pin: str | None,
        key: SigningKey,
        clock: Callable[[], float] = time.time,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.url, self._key, self._clock, self._pause = url, key, clock, pause
        verify = True if pin is None else pinned_context(pin)
        timeout = httpx.Timeout(PATIENCE, connect=10.0)
        self._client = httpx.Client(verify=verify, timeout=timeout, follow_redirects=False, transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, method: str, path: str, body: bytes = b"", query: Mapping[str, str | float] | None = None) -> bytes | None:
        """The body of the answer; None if there is nothing yet.

        Raises Away if the server cannot be reached or is not ready, and the error that it names if it refuses.
        """
        began = self._clock()
        response = self._send(method, path, body, query or {})
        if response.status_code == 204:
            held = self._clock() - began >= min(1.0, float((query or {}).get("wait", 0.0)) / 2)
            self._wait(response.headers.get("Retry-After", ""), 0 if held else 1)
            return None
        if response.is_success:
            return response.content
        raise self._failed(response)

    def _wait(self, told: str, otherwise: int) -> None:
        """If the server did not hold the question, wait as long as it says, or `otherwise` seconds; a little longer or shorter
        for each site.
        """
        seconds = max(int(told) if told.isascii() and told.isdigit() and len(told) < 4 else 0, otherwise)
        if seconds:
            self._pause(min(seconds, LONGEST_PAUSE) * (0.5 + _fraction(self._key, self._clock())))

    def _send(self, method: str, path: str, body: bytes, query: Mapping[str, str | float]) -> httpx.Response:
        kind = {"Content-Type": protocol.OCTETS} if body else {}
        own = {**_ASKED, **kind}
        request = self._client.build_request(method, self.url + path, content=body, headers=own, params=dict(query))
        sign_request(request, self._key, self._clock())
        try:
            response = self._client.send(request, stream=True)
            try:
                content, again = b"".join(_bounded(response, MOST_ANSWER)), response.headers.get("Retry-After", "")
                return httpx.Response(response.status_code, content=content, headers={"Retry-After": again})
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise Away(f"{self.url} cannot be reached: {error}") from None

    def _failed(self, response: httpx.Response) -> Exception:
        kind = _ERRORS.get(response.status_code)
        try:
            reason = str(json.loads(response.content)["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            reason = f"The server answered with status {response.status_code}."
        return Away(reason) if kind is None else kind(reason)

    def table(self, method: str, path: str, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A JSON object. Raises as `ask`, and ProtocolAbort if the answer is not one."""
        return _table(self.ask(method, path, b"" if values is None else canonical(values)))

    def fetch(self, path: str, digest: str, target: Path, most: int = 1 << 62) -> Path:
        """Fetch a blob into a file. An interrupted transfer resumes where it stopped.

        Args:
            digest: SHA-256 of the content, in hexadecimal.
            target: where the file goes once it is whole; until then it has ".part" in its name.
            most: bytes that the blob can have, so that a server that sends more does not fill the disk.

        Raises Away as `ask`, and ProtocolAbort if there is more than that, or the content is another.
        """
        part = target.with_name(target.name + ".part")
        have = part.stat().st_size if part.exists() else 0
        request = self._client.build_request("GET", self.url + path, headers={**_ASKED, "Range": f"bytes={have}-"})
        sign_request(request, self._key, self._clock())
        try:
            response = self._client.send(request, stream=True)
            try:
                if response.status_code not in (200, 206, 416):
                    told = b"".join(_bounded(response, 1 << 16))
                    raise self._failed(httpx.Response(response.status_code, content=told))
                if response.status_code != 416:
                    _append(part, "ab" if response.status_code == 206 else "wb", response, most)
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise Away(f"{self.url} cannot be reached: {error}") from None
        found = sha256()
        with part.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
        if found.hexdigest() != digest:
            part.unlink()
            raise ProtocolAbort(f"{path} has other content than was announced: expected {digest}, found {found.hexdigest()}.")
        part.replace(target)
        return target

    def message(self, id: str, after: str, wait: float) -> bytes | None:
        """What a sum's party needs now; None if that is still the message with the digest `after`."""
        return self.ask("GET", f"/v1/sums/{id}/message", b"", {"after": after, "wait": wait})

    def post(self, id: str, message: bytes) -> list[bytes]:
        """Send a message to a sum, in parts if it is large. Returns the messages that come back."""
        path = f"/v1/sums/{id}"
        length = 0 if len(message) <= protocol.SMALL else self._room(path, len(message))
        if len(message) <= protocol.MOST_MESSAGE:
            return protocol.unpack(self.ask("POST", f"{path}/message", message) or b"")
        while length < len(message):
            data = message[length : length + protocol.PART]
            answered = _table(self.ask("PUT", f"{path}/upload", data, {"offset": length}))
            length = told.length(answered, length + 1, len(message))  # it must grow with each part, or this would never end
        done = canonical({"digest": sha256(message).hexdigest()})
        return protocol.unpack(self.ask("POST", f"{path}/upload/complete", done) or b"")

    def _room(self, path: str, size: int) -> int:
        """Wait until the server has room for an upload. Returns how many bytes of it have arrived already."""
        while (found := self.ask("GET", f"{path}/upload", b"", {"wait": WAIT})) is None:
            pass
        return told.length(_table(found), 0, size)


_ASKED: Mapping[str, str] = {protocol.HEADER: str(protocol.VERSION), "Accept-Encoding": "identity"}


def _bounded(response: httpx.Response, most: int) -> Iterator[bytes]:
    """The body of an answer as it arrives. Raises ProtocolAbort for more than `most` bytes, and for a compressed body."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ProtocolAbort("The server's answer is compressed; a site decompresses nothing.")
    size = 0
    for chunk in response.iter_raw(1 << 20):
        size += len(chunk)
        if size > most:
            raise ProtocolAbort(f"The server's answer has more than {most:,} bytes.")
        yield chunk


def _append(part: Path, mode: str, response: httpx.Response, most: int) -> None:
    """Write an answer's body to a file. If it would become too large, the file is removed."""
    try:
        with part.open(mode) as file:
            for chunk in _bounded(response, most - file.tell()):
                file.write(chunk)
    except ProtocolAbort:
        part.unlink()
        raise


def _table(body: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(body or b"null")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProtocolAbort("The server's answer is not a JSON object.")
    return found
