"""A site's connection to its server: outbound HTTPS alone, every request signed, whatever is large in parts."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from manent.core.errors import InvalidInput, ManentError, NotAuthorized, ProtocolAbort
from manent.core.study import canonical
from manent.crypto.identity import SigningKey
from manent.network import protocol
from manent.network.signing import sign_request
from manent.network.tls import pinned_context

LONGEST_PAUSE = 60.0
PATIENCE = 60.0  # seconds beyond a long poll
_ERRORS: Mapping[int, type[ManentError]] = {400: InvalidInput, 403: NotAuthorized, 409: ProtocolAbort}


class Away(Exception):
    """The server could not be reached, or is not ready; to be tried again."""


def pause(failures: int) -> float:
    """Seconds to wait: longer with every failure, and not the same for all sites."""
    return min(0.25 * 2.0 ** min(failures, 20), LONGEST_PAUSE) * (0.5 + secrets.randbelow(1000) / 2000)


class Connection:
    """Requests to one server, signed by one identity. Safe to use from several threads.

    Args:
        url: the server's, without a slash at its end.
        pin: SHA-256 of its certificate in hexadecimal; None where the system's authorities vouch for it.
    """

    def __init__(self, url: str, pin: str | None, key: SigningKey, clock: Callable[[], float] = time.time) -> None:
        self.url, self._key, self._clock = url, key, clock
        verify = True if pin is None else pinned_context(pin)
        timeout = httpx.Timeout(PATIENCE, connect=10.0)
        self._client = httpx.Client(verify=verify, timeout=timeout, follow_redirects=False)

    def close(self) -> None:
        self._client.close()

    def ask(self, method: str, path: str, body: bytes = b"", query: Mapping[str, str | float] | None = None) -> bytes | None:
        """The answer's body; None where there is nothing yet.

        Raises Away where the server cannot be reached, and the error that it names where it refuses.
        """
        response = self._send(method, path, body, query or {})
        if response.status_code == 204:
            self._wait(response.headers.get("Retry-After", ""))
            return None
        if response.is_success:
            return response.content
        raise self._failed(response)

    def _wait(self, seconds: str) -> None:
        """Where the server does not hold a question, ask again when it says, and not all sites at once."""
        if seconds.isascii() and seconds.isdigit() and len(seconds) < 4:
            time.sleep(min(int(seconds), LONGEST_PAUSE) * (0.5 + secrets.randbelow(1000) / 1000))

    def _send(self, method: str, path: str, body: bytes, query: Mapping[str, str | float]) -> httpx.Response:
        kind = {"Content-Type": protocol.OCTETS} if body else {}
        own = {protocol.HEADER: str(protocol.VERSION), **kind}
        request = self._client.build_request(method, self.url + path, content=body, headers=own, params=dict(query))
        sign_request(request, self._key, self._clock())
        try:
            return self._client.send(request)
        except httpx.HTTPError as error:
            raise Away(f"{self.url} cannot be reached: {error}") from None

    def _failed(self, response: httpx.Response) -> Exception:
        kind = _ERRORS.get(response.status_code)
        try:
            reason = str(json.loads(response.content)["error"])
        except (ValueError, KeyError, TypeError):
            reason = f"The server answered with status {response.status_code}."
        return Away(reason) if kind is None else kind(reason)

    def table(self, method: str, path: str, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A JSON object. Raises ProtocolAbort where the answer is none."""
        return _table(self.ask(method, path, b"" if values is None else canonical(values)))

    def fetch(self, path: str, digest: str, target: Path) -> Path:
        """A blob into a file, going on where it was interrupted. Raises ProtocolAbort where its content is another."""
        part = target.with_name(target.name + ".part")
        have = part.stat().st_size if part.exists() else 0
        request = self._client.build_request(
            "GET", self.url + path, headers={protocol.HEADER: str(protocol.VERSION), "Range": f"bytes={have}-"}
        )
        sign_request(request, self._key, self._clock())
        try:
            response = self._client.send(request, stream=True)
            if response.status_code not in (200, 206, 416):
                response.read()
                raise self._failed(response)
            if response.status_code != 416:
                with part.open("ab" if response.status_code == 206 else "wb") as file:
                    for chunk in response.iter_raw(1 << 20):
                        file.write(chunk)
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
        """What a sum's party needs now, where that is another message than the one with this digest."""
        return self.ask("GET", f"/v1/sums/{id}/message", b"", {"after": after, "wait": wait})

    def post(self, id: str, message: bytes) -> list[bytes]:
        """A message to a sum, in parts where it is large; what comes back."""
        path = f"/v1/sums/{id}"
        if len(message) <= protocol.MOST_MESSAGE:
            return protocol.unpack(self.ask("POST", f"{path}/message", message) or b"")
        length = int(self.table("GET", f"{path}/upload")["length"])
        while length < len(message):
            data = message[length : length + protocol.PART]
            length = int(_table(self.ask("PUT", f"{path}/upload", data, {"offset": length}))["length"])
        done = canonical({"digest": sha256(message).hexdigest()})
        return protocol.unpack(self.ask("POST", f"{path}/upload/complete", done) or b"")


def _table(body: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(body or b"null")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProtocolAbort("The server's answer is no JSON object.")
    return found
