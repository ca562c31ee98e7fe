"""Signed requests: RFC 9421 with Ed25519, in one narrow profile.

A request carries one signature. It covers the method, the target URI, Content-Digest (SHA-256, also of an empty body), and every
header that says what the body is; and it names the time, a nonce, and the signer's key. The library builds and parses what is
signed. This module does what the RFC leaves to its user: it checks which parts are covered, how old the signature is, that it is
used only once, and that the body is the signed one.
"""

from __future__ import annotations

import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from manent.core.errors import InvalidInput, MissingExtra, NotAuthorized
from manent.core.store import Store, Transaction
from manent.crypto import SigningKey, SystemRandom
from manent.crypto import verify as signature_holds
from manent.crypto.digest import digest
from manent.storage.together import Together

try:
    import http_message_signatures as rfc9421
except ImportError:
    raise MissingExtra("http-message-signatures", "network", "Signing requests") from None

if TYPE_CHECKING:
    import httpx

TAG: Final = "manent-1"
"""Signed into every request, so that a signature that was made for another purpose is refused here."""
MAX_AGE: Final = 300.0
SKEW: Final = 60.0
MOST_NONCES: Final = 60_000
"""Most requests of one key that were signed within ten minutes: a hundred a second."""
LONGEST_FIELD: Final = 4096
LONGEST_URL: Final = 8192

_TARGET: Final = ("@authority", "@path", "@query")
_FIELDS: Final = ("signature", "signature-input", "content-digest")
_BODY_FIELDS: Final = frozenset({"content-type", "content-encoding", "content-range", "range"})
_OWN_PREFIX: Final = "manent-"
_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_NONCE: Final = re.compile(r"[\x21-\x7e]{16,64}")
_BUCKET: Final = 600  # seconds; nonces that were signed within one such span are removed together

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Signed:
    """What the headers alone say of a request. Call `check_body` before its body is used.

    Attributes:
        keyid: the signer's public key, in hexadecimal.
        created: seconds since 1970 (UTC).
        nonce: 16 to 64 printable characters.
        body_digest: the signed SHA-256 of the body, 32 bytes.
    """

    keyid: str
    created: int
    nonce: str
    body_digest: bytes

    def check_body(self, found: bytes) -> None:
        """Raises NotAuthorized unless the body (as sent, before any decoding) has the signed SHA-256."""
        if found != self.body_digest:
            raise refused("the body is not the one that was signed: its SHA-256 is another than Content-Digest says")


def sign_request(request: httpx.Request, key: SigningKey, now: float, body_digest: bytes | None = None) -> None:
    """Sign a request in place. The key's id is its public half in hexadecimal. To send a request again, sign it again.

    Args:
        now: seconds since 1970 (UTC).
        body_digest: SHA-256 of the body, 32 bytes; needed for a streamed body, computed for any other.

    Raises InvalidInput for a streamed body without its digest, and for a URL or header that cannot be signed.
    """
    headers = request.headers
    for name in _FIELDS:
        headers.pop(name, None)
    headers["content-digest"] = content_digest(_digest_of(request) if body_digest is None else body_digest)
    message = _Message(request.method, str(request.url), {name.lower(): value for name, value in headers.items()})
    signer = rfc9421.HTTPMessageSigner(signature_algorithm=_Ed25519, key_resolver=_Own(key))
    covered = ["@method", "@target-uri", "content-digest", *sorted(name for name in message.headers if _must_cover(name))]
    try:
        signer.sign(
            message,
            key_id=key.public.hex(),
            created=datetime.fromtimestamp(now, UTC),
            nonce=SystemRandom().bytes(16).hex(),
            label="manent",
            tag=TAG,
            covered_component_ids=covered,
            use_existing_digest=True,
        )
    except rfc9421.HTTPMessageSignaturesException as error:
        raise InvalidInput(
            f"This request cannot be signed: {_told(error)}. URLs and headers are ASCII without line ends."
        ) from None
    signed = {name.lower(): value for name, value in message.headers.items()}
    headers.update({name: signed[name] for name in _FIELDS})


class Verifier:
    """Accepts requests that members have signed, each once.

    Args:
        keys: gives the public key (32 bytes) of a key id, or None if it may not sign. If it raises, the request is refused.
        store: keeps the nonces as long as their signatures are accepted. Several processes may share it. A `Together` commits
            them with the steps of others.
        max_age: seconds for which a signature is accepted.
        skew: seconds by which the signer's clock may differ, either way.
        clock: seconds since 1970 (UTC).
        most: nonces that are kept for one key in ten minutes, so that no member can fill the store.
    """

    def __init__(
        self,
        keys: Callable[[str], bytes | None],
        store: Store | Together,
        max_age: float = MAX_AGE,
        skew: float = SKEW,
        clock: Callable[[], float] = time.time,
        most: int = MOST_NONCES,
    ) -> None:
        self._keys, self._clock = keys, clock
        self._together = store if isinstance(store, Together) else Together(store)
        self._max_age, self._skew, self._most = max_age, skew, most
        self._swept = -1

    def verify(self, method: str, url: str, headers: Headers, body_digest: bytes) -> str:
        """The key id that signed this request, whose body has been read already.

        Args:
            url: the absolute URL that was asked for. Its origin must be the server's own, whatever the Host header says: see
                `received`.
            headers: every field line, also repeated ones.
            body_digest: SHA-256 of the body as sent, 32 bytes.

        Raises NotAuthorized, with the reason, for everything that is not sound. Only the store raises other errors.
        """
        signed = self.examine(method, url, headers)
        signed.check_body(body_digest)
        self.spend(signed)
        return signed.keyid

    def examine(self, method: str, url: str, headers: Headers) -> Signed:
        """What a request's headers say, for a body that is still to come: hash the body, `check_body`, then `spend`.

        Raises NotAuthorized as `verify`, except for a repeated nonce: `spend` checks that.
        """
        message = _message(method, url, headers)
        covered, parameters = self._checked(message)
        _check_coverage(message, covered)
        nonce, created = parameters.get("nonce"), int(parameters["created"])
        if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
            raise refused("its nonce is missing, or is not 16 to 64 printable characters")
        if parameters.get("tag") != TAG:
            raise refused(f"it is signed for another purpose than the tag {TAG!r}")
        found = _DIGEST.fullmatch(covered['"content-digest"'])
        if found is None:
            raise refused("its Content-Digest is not one SHA-256, written sha-256=:BASE64:")
        return Signed(str(parameters["keyid"]), created, nonce, b64decode(found[1]))

    def spend(self, signed: Signed, transaction: Transaction | None = None) -> None:
        """Use up the nonce, in a transaction of its own or in the one in which the request takes effect.

        Raises NotAuthorized for a nonce that was used before, for a key that has signed too many requests, and for a signature
        that is too old by now.
        """
        if transaction is None:
            self._together.run(lambda shared, _: self.spend(signed, shared))
            return
        now = self._clock()
        self._check_time(signed.created, now)
        oldest, newest = (int(t // _BUCKET) for t in (now - self._max_age - self._skew, now + self._skew))
        name = digest("manent nonce", signed.keyid.encode(), signed.nonce.encode()).hex()
        if any(transaction.get(_key(bucket, name)) is not None for bucket in range(oldest, newest + 1)):
            raise refused("it was seen before (its nonce is used up); sign a request anew to send it again")
        counter = _key(signed.created // _BUCKET, f"of {digest('manent nonces', signed.keyid.encode()).hex()}")
        count = int(transaction.get(counter) or b"0")
        if count >= self._most:
            raise refused(f"its key has signed {count:,} requests within ten minutes; no site needs as many")
        transaction.put(counter, str(count + 1).encode())
        transaction.put(_key(signed.created // _BUCKET, name), b"")
        self._forget(transaction, oldest)

    def _forget(self, transaction: Transaction, oldest: int) -> None:
        """Remove the nonces of signatures that are too old to be accepted; done once for each span of ten minutes."""
        if self._swept == oldest:
            return
        for key in transaction.keys(_KEYS):
            if key < _key(oldest, ""):
                transaction.remove(key)
        self._swept = oldest

    def _checked(self, message: _Message) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """What the one sound signature covers, and its parameters."""
        verifier = _Library(self._keys, lambda created: self._check_time(created, self._clock()))
        try:
            (result,) = verifier.verify(message, max_age=None)
        except NotAuthorized:
            raise
        except Exception as error:  # noqa: BLE001 the message may be hostile: whatever its parser raises, it is refused
            raise refused(_told(error)) from None
        return result.covered_components, result.parameters

    def _check_time(self, created: int, now: float) -> None:
        if created > now + self._skew:
            raise refused(f"it was signed {created - now:.0f} s in the future; set the clock of the signer's machine")
        if created < now - self._max_age - self._skew:
            raise refused(
                f"it was signed {now - created:.0f} s ago, and counts for {self._max_age:.0f} s; send it again with a fresh "
                "signature, and check the clock of the signer's machine"
            )


def received(scope: Mapping[str, Any], origins: Collection[str]) -> tuple[str, str, list[tuple[str, str]]]:
    """Method, URL and headers of an ASGI request, as `Verifier` takes them.

    The URL is built from the path as it was sent (undecoded), and from the server's own origin that the Host header names. So a
    request that was signed for another server does not verify here.

    Args:
        origins: such as https://fl.example:8443; one for each name or address by which sites reach the server.

    Raises NotAuthorized for a Host that is not among them.
    """
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    hosts = [value.lower() for name, value in headers if name == "host"]
    known = {origin.split("://")[1].split("/")[0].lower().removesuffix(":443"): origin.rstrip("/") for origin in origins}
    if len(hosts) != 1 or hosts[0].removesuffix(":443") not in known:
        raise refused(f"it is for the host {', '.join(hosts)!a:.80}, and this server is {', '.join(sorted(known))}")
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    query = scope.get("query_string") or b""
    url = known[hosts[0].removesuffix(":443")] + path.decode("latin-1") + ("?" + query.decode("latin-1") if query else "")
    return scope["method"], url, headers


def content_digest(body_digest: bytes) -> str:
    """The Content-Digest field (RFC 9530) of a SHA-256. Raises InvalidInput unless it has 32 bytes."""
    if len(body_digest) != 32:
        raise InvalidInput(f"A body's SHA-256 has 32 bytes; found {len(body_digest)}.")
    return f"sha-256=:{b64encode(body_digest).decode()}:"


def refused(reason: str) -> NotAuthorized:
    """The error for a request that is not accepted."""
    return NotAuthorized(f"This request is not signed as it should be: {reason}.")


@dataclass(frozen=True)
class _Message:
    """A request as the library reads it. Header names are in lower case."""

    method: str
    url: str
    headers: dict[str, str]


def _message(method: str, url: str, headers: Headers) -> _Message:
    """A request within limits, in which no header that counts is repeated: readers differ in which of two they take."""
    if len(url) > LONGEST_URL:
        raise refused(f"its URL has {len(url):,} characters, more than {LONGEST_URL:,}")
    found: dict[str, str] = {}
    for given, value in headers.items() if isinstance(headers, Mapping) else headers:
        name = given.lower()
        if name in _FIELDS or _must_cover(name):
            if name in found:
                raise refused(f"the header {name!a:.80} is there twice")
            if len(value) > LONGEST_FIELD:
                raise refused(f"the header {name!a:.80} has {len(value):,} characters, more than {LONGEST_FIELD:,}")
        found[name] = f"{found[name]}, {value}" if name in found else value
    for name in _FIELDS:
        if name not in found:
            raise refused(f"the header {name} is missing")
    return _Message(method, url, found)


def _check_coverage(message: _Message, covered: Mapping[str, str]) -> None:
    wanted = ["@method", "content-digest", *(name for name in message.headers if _must_cover(name))]
    if '"@target-uri"' not in covered:
        wanted += _TARGET
    missing = [name for name in wanted if f'"{name}"' not in covered]
    if missing:
        raise refused(f"the signature does not cover {', '.join(missing)!a:.200}")


def _must_cover(name: str) -> bool:
    return name in _BODY_FIELDS or name.startswith(_OWN_PREFIX)


def _digest_of(request: httpx.Request) -> bytes:
    import httpx

    try:
        return sha256(request.content).digest()
    except httpx.RequestNotRead:
        raise InvalidInput("The body is streamed, so its SHA-256 must be given: sign_request(..., body_digest=...).") from None


_KEYS: Final = "nonce/"


def _key(bucket: int, name: str) -> str:
    return f"{_KEYS}{bucket:012d}/{name}"


def _told(error: Exception) -> str:
    """A library's message, without its full stop and without characters that could control a terminal."""
    return ascii(str(error))[1:-1].rstrip(".")[:200] or type(error).__name__


class _Ed25519(rfc9421.HTTPSignatureAlgorithm):
    """This project's own signature check, which also refuses keys of low order."""

    algorithm_id = "ed25519"

    def __init__(self, public_key: bytes | None = None, private_key: SigningKey | None = None) -> None:
        self._public, self._private = public_key, private_key

    def sign(self, message: bytes) -> bytes:
        """The signature of a message."""
        if self._private is None:
            raise rfc9421.HTTPMessageSignaturesException("there is no key to sign with")
        return self._private.sign(message)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises the library's error for a signature that does not hold."""
        if self._public is None or not signature_holds(self._public, message, signature):
            raise rfc9421.InvalidSignature("the signature does not hold: the request was altered, or another key signed it")


class _Own(rfc9421.HTTPSignatureKeyResolver):
    """Gives the library the signer's own key."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    def resolve_private_key(self, key_id: str) -> Any:
        """The signer's key, whatever id is asked for."""
        return self._key


class _Library(rfc9421.HTTPMessageVerifier):
    """The library's verifier, with this project's keys and clock."""

    def __init__(self, keys: Callable[[str], bytes | None], check_time: Callable[[int], None]) -> None:
        self._members, self._timely = keys, check_time
        super().__init__(signature_algorithm=_Ed25519, key_resolver=self)  # type: ignore[arg-type]

    def resolve_public_key(self, key_id: str) -> bytes | None:
        """The public key of a member. Raises NotAuthorized for any other key."""
        found = self._members(key_id)
        if found is None:
            raise refused(f"its key {key_id[:16]!a} counts for nobody here; it has to be on the newest roster")
        return found

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """Check the time of the signature. Raises the library's error without one, and for a signature that expires."""
        created, expires = sig_input.params.get("created"), sig_input.params.get("expires")
        if type(created) is not int or expires is not None:
            raise rfc9421.InvalidSignature("it needs the time at which it was created, and none at which it expires")
        self._timely(created)
