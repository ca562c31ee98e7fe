"""What a person pastes to join a federation: the server's address, how to recognise it, and one secret."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput
from manent.crypto import SystemRandom
from manent.network.trust.identity import from_hex, read_json

PREFIX: Final = "manent-join-1."
_CHECKSUM: Final = 4  # bytes
_LONGEST: Final = 4096  # characters
_URL: Final = re.compile(r"https://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?")


@dataclass(frozen=True)
class JoinToken:
    """An invitation. Whoever has it can ask to join, as often as it has uses; send it over a channel that you trust.

    Attributes:
        url: the server's, https, without a slash at its end.
        secret: 64 hexadecimal digits. `repr` does not show it.
        pin: SHA-256 of the server's certificate (DER) in hexadecimal; None if an authority that the site's system knows has
            signed it.
        consortium: public key, 64 hexadecimal digits, by which rosters are signed; None in a quick start, in which the site
            believes the roster that the server shows.

    Raises InvalidInput for anything else.
    """

    url: str
    secret: str = field(repr=False)
    pin: str | None = None
    consortium: str | None = None

    def __post_init__(self) -> None:
        check_url(self.url)
        from_hex("A join token's secret", self.secret, 32)
        if self.pin is not None:
            from_hex("A certificate's pin", self.pin, 32)
        if self.consortium is not None:
            from_hex("A consortium's public key", self.consortium, 32)

    @classmethod
    def create(cls, url: str, pin: str | None = None, consortium: str | None = None) -> JoinToken:
        """A token with a new secret."""
        return cls(url.rstrip("/"), SystemRandom().bytes(32).hex(), pin, consortium)

    @property
    def consortium_public(self) -> bytes | None:
        """The consortium's key as bytes, or None."""
        return None if self.consortium is None else bytes.fromhex(self.consortium)

    def encode(self) -> str:
        """One line of letters, digits, dots, dashes and underscores."""
        payload = canonical([self.url, self.secret, self.pin, self.consortium])
        return PREFIX + urlsafe_b64encode(_checksum(payload) + payload).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """The token in a pasted text. Spaces and line breaks in it do not matter.

        Raises InvalidInput for a text that was cut short or altered, or is something else.
        """
        bare = "".join(text.split()) if len(text) <= 2 * _LONGEST else text
        if not bare.startswith(PREFIX) or len(bare) > _LONGEST:
            raise InvalidInput(f"This is no join token: one begins with {PREFIX!r}. Paste the whole line that the server gave.")
        body = bare.removeprefix(PREFIX)
        if not re.fullmatch(r"[A-Za-z0-9_-]*", body) or len(body) % 4 == 1:
            raise _damaged()
        data = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        payload = data[_CHECKSUM:]
        if data[:_CHECKSUM] != _checksum(payload):
            raise _damaged()
        values = read_json(payload, "The join token")
        if not isinstance(values, list) or len(values) != 4:
            raise InvalidInput("This join token is of another kind than this manent knows; use the manent of the server.")
        return cls(*values)


def check_url(url: object) -> None:
    """Raises InvalidInput unless the URL is https, with a host and perhaps a port and a path, and does not end with a slash."""
    sound = isinstance(url, str) and _URL.fullmatch(url) is not None and not url.endswith("/")
    try:
        parts = urlsplit(str(url) if sound else "")
        sound = sound and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise InvalidInput(f"Expected a server's URL such as https://fl.example:8443; found {url!a:.80}.")


def _checksum(payload: bytes) -> bytes:
    """Tells a token from a slip of the pen. It does not keep anyone from making a token."""
    return sha256(payload).digest()[:_CHECKSUM]


def _damaged() -> InvalidInput:
    return InvalidInput(
        "This join token was cut short or altered on its way. Copy the whole line that the server gave, once more."
    )
