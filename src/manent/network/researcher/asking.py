"""What a researcher asks of a server, with a token: to queue studies, how they stand, and their results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from manent.core.errors import InvalidInput, ManentError, NotAuthorized, ProtocolAbort
from manent.core.study import Study
from manent.crypto import SigningKey
from manent.network.trust.identity import from_hex
from manent.network.trust.join import check_url
from manent.network.trust.tls import pinned_context
from manent.network.wire import protocol
from manent.network.wire.bundle import Bundle
from manent.network.wire.models import first_vector

MOST_ANSWER = 64 << 20
"""Most bytes of an answer that is held in memory; a result goes to the disk instead."""


class Researcher:
    """A server, as a person with a token sees it.

    Args:
        url: the server's, https, without a slash at its end.
        token: from `manent people add`; it is sent to this server alone.
        pin: SHA-256 of the server's certificate in hexadecimal; None if an authority that the system knows vouches for it.
        transport: how requests travel, in place of HTTPS.

    Every method raises:
        NotAuthorized: for what the token does not allow.
        InvalidInput: for what the server does not take.
        ProtocolAbort: if the server cannot be reached, or does not answer as a manent server does.
    """

    def __init__(self, url: str, token: str, pin: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        check_url(url)
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            raise InvalidInput("The token is not as the server gave it: one word, manent-token-...")
        if pin is not None:
            from_hex("A certificate's pin", pin, 32)
        headers = {"Authorization": f"Bearer {token}", protocol.HEADER: str(protocol.VERSION), "Accept-Encoding": "identity"}
        verify = True if pin is None else pinned_context(pin)
        self._url = url
        self._client = httpx.Client(verify=verify, headers=headers, timeout=60.0, follow_redirects=False, transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def submit(self, study: Study, bundle: Bundle, key: SigningKey, sites: int, seed: int = 0) -> str:
        """Queue a study, and return its hash. Repeating it changes nothing.

        Args:
            key: the researcher's, which signs the bundle; sites' policies know its public half.
            sites: how many sites must be on the roster before the study is planned.
            seed: of the study's repeatable randomness.
        """
        parts = [bundle.sign(key).encode(), first_vector(study, bundle, seed)]
        body = protocol.pack([part for part in parts if part])
        return str(self._table("POST", f"/v1/studies?sites={sites}&seed={seed}", body)["hash"])

    def studies(self) -> list[dict[str, Any]]:
        """The studies that the token may see: hash, name, phase, round and more of each."""
        found = self._table("GET", "/v1/studies")["studies"]
        if not isinstance(found, list) or not all(isinstance(one, dict) and isinstance(one.get("hash"), str) for one in found):
            raise ProtocolAbort("The server's list of studies is not one.")
        return found

    def find(self, start: str) -> str:
        """The hash of the one study whose hash begins with this text. Raises InvalidInput if there is none, or several."""
        found = [one["hash"] for one in self.studies() if one["hash"].startswith(start.lower())]
        if len(found) != 1:
            raise InvalidInput(
                f"{len(found) or 'No'} studies that you may see begin with {start[:64]!r}; see manent studies list."
            )
        return str(found[0])

    def about(self, hash: str) -> dict[str, Any]:
        """How a study stands, and each site's decision with its reason."""
        return self._table("GET", f"/v1/studies/{hash}")

    def statement(self, hash: str) -> str:
        """Who sees what, as text."""
        return str(self._table("GET", f"/v1/studies/{hash}/statement")["text"])

    def history(self, hash: str) -> list[dict[str, Any]]:
        """What became of each sum, in order."""
        return list(self._table("GET", f"/v1/studies/{hash}/history")["history"])

    def stop(self, hash: str) -> None:
        """End a study."""
        self._table("POST", f"/v1/studies/{hash}/stop")

    def result(self, hash: str, target: Path) -> None:
        """Fetch a study's result, safetensors, into a new file.

        Raises:
            InvalidInput: if the file exists.
            ProtocolAbort: if the bytes are not those that the server announced.
        """
        if target.exists():
            raise InvalidInput(f"{target} exists, and is not overwritten; name another file.")
        part = target.with_name(target.name + ".part")
        with self._asked("GET", f"/v1/studies/{hash}/result") as response, part.open("wb") as file:
            found = sha256()
            for chunk in response.iter_raw(1 << 20):
                found.update(chunk)
                file.write(chunk)
        if response.headers.get("etag", "").strip('"') != found.hexdigest():
            part.unlink()
            raise ProtocolAbort("The result was cut short or altered on its way; fetch it again.")
        os.replace(part, target)

    @contextmanager
    def _asked(self, method: str, path: str, body: bytes = b"") -> Iterator[httpx.Response]:
        try:
            kind = {"Content-Type": protocol.OCTETS} if body else {}
            with self._client.stream(method, self._url + path, content=body, headers=kind) as response:
                if not response.is_success:
                    raise _failed(response.status_code, _content(response))
                yield response
        except httpx.HTTPError as error:
            raise ProtocolAbort(f"{self._url} cannot be reached: {error}. See that it runs, and the address and pin.") from None

    def _table(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        with self._asked(method, path, body) as response:
            content = _content(response)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ProtocolAbort(f"{self._url} answers something else than a manent server does.")
        return found


def _content(response: httpx.Response) -> bytes:
    found = bytearray()
    for chunk in response.iter_raw(1 << 16):
        found += chunk
        if len(found) > MOST_ANSWER:
            raise ProtocolAbort(f"The server's answer has more than {MOST_ANSWER:,} bytes.")
    return bytes(found)


def _failed(status: int, content: bytes) -> ManentError:
    try:
        reason = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = f"The server answered with status {status}."
    kinds: dict[int, type[ManentError]] = {400: InvalidInput, 403: NotAuthorized}
    return kinds.get(status, ProtocolAbort)(reason)
