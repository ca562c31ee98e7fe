"""TLS without an authority: a server makes its own certificate, and sites recognise it by its hash."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from manent.core.errors import InvalidInput, NotAuthorized
from manent.network.trust.identity import create_file, from_hex, read_file, replace_file

CERTIFICATE: Final = "server.crt"
KEY: Final = "server.key"
_VALID: Final = timedelta(days=3650)
_LARGEST: Final = 1 << 20


def self_signed(folder: str | Path, hosts: Sequence[str]) -> tuple[Path, Path, str]:
    """A server's own certificate and key (mode 0600), made in the folder unless they are there.

    ECDSA over P-256, valid for ten years. Sites check only the pin, so the server may also be reached by names that are not in
    it.

    Args:
        hosts: names and addresses under which the server is reached; written into a new certificate.

    Returns:
        The paths of certificate and key, and the pin.

    Raises InvalidInput for files that do not fit each other, a certificate without its key, and no hosts.
    """
    certificate, key = Path(folder) / CERTIFICATE, Path(folder) / KEY
    if not certificate.exists():
        _make(certificate, key, hosts)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # an SSLError is one
        raise InvalidInput(
            f"{certificate} and {key} are not a certificate and its key ({error.strerror or error}). Restore them from a copy; "
            "or remove both for new ones, and give every site the new pin."
        ) from None
    return certificate, key, pin_of(certificate)


def pin_of(certificate: str | Path) -> str:
    """SHA-256 of the first certificate in a PEM file, over its DER form, in hexadecimal. Raises InvalidInput for any other
    file.
    """
    path = Path(certificate)
    try:
        found = x509.load_pem_x509_certificate(read_file(path, _LARGEST))
    except ValueError:
        raise InvalidInput(f"{path} holds no certificate in PEM; name the server's.") from None
    return found.fingerprint(SHA256()).hex()


def pinned_context(pin: str) -> ssl.SSLContext:
    """A client's context that accepts exactly one certificate, whoever signed it and whatever hosts it names; TLS 1.3 only.

    A server with another certificate is refused with NotAuthorized at the end of the handshake, before any byte of a request is
    sent; nothing can be sent over a connection whose certificate was not compared. Use it as `httpx.Client(verify=...)`, or with
    the async client; both pass NotAuthorized on as it is.

    Raises InvalidInput for a pin that is no SHA-256 in hexadecimal.
    """
    wanted = from_hex("A certificate's pin", pin, 32)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # There is no chain to check. That the server has the certificate's key is proved by TLS 1.3 itself.
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = type("PinnedSocket", (_PinnedSocket,), {"wanted": wanted})
    context.sslobject_class = type("PinnedObject", (_PinnedObject,), {"wanted": wanted})
    return context


def _compare(connection: ssl.SSLSocket | ssl.SSLObject, wanted: bytes) -> None:
    found = sha256(connection.getpeercert(binary_form=True) or b"").digest()
    if not hmac.compare_digest(found, wanted):
        raise NotAuthorized(
            f"The server shows another certificate than the one that was pinned: expected SHA-256 {wanted.hex()}, found "
            f"{found.hex()}. Either it has a new one (ask its operator, and join with the new pin), or something stands between."
        )


class _PinnedSocket(ssl.SSLSocket):
    """A socket that is checked when the handshake ends. OpenSSL would also shake hands at the first write, so writes are
    refused before.
    """

    wanted: bytes = b""
    known = False

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, then compare the certificate. Raises NotAuthorized, and closes the socket, for another one."""
        super().do_handshake(block)
        try:
            _compare(self, self.wanted)
        except NotAuthorized:
            self.close()
            raise
        self.known = True

    def send(self, data: Any, flags: int = 0) -> int:
        """Send. Raises NotAuthorized before the handshake."""
        _demand(self.known)
        return super().send(data, flags)

    def write(self, data: Any) -> int:
        """Write. Raises NotAuthorized before the handshake."""
        _demand(self.known)
        return super().write(data)


class _PinnedObject(ssl.SSLObject):
    """The same over memory, as asynchronous clients use it."""

    wanted: bytes = b""
    known = False

    def do_handshake(self) -> None:
        """Shake hands, then compare the certificate. Raises NotAuthorized for another one."""
        super().do_handshake()
        _compare(self, self.wanted)
        self.known = True

    def write(self, data: Any) -> int:
        """Write. Raises NotAuthorized before the handshake."""
        _demand(self.known)
        return super().write(data)


def _demand(known: bool) -> None:
    if not known:
        raise NotAuthorized("Nothing is sent before the server's certificate was compared with its pin: shake hands first.")


def _make(certificate: Path, key: Path, hosts: Sequence[str]) -> None:
    """Make a certificate. The key is written first: a key without a certificate is left from an interrupted attempt, and is
    used.
    """
    if not hosts:
        raise InvalidInput("A certificate needs the names or addresses under which the server is reached; give at least one.")
    if not key.exists():
        fresh = ec.generate_private_key(ec.SECP256R1())
        create_file(key, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        private = load_pem_private_key(read_file(key, _LARGEST), None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise InvalidInput(f"{key} holds no elliptic-curve key in PEM without a password. Remove it for a new one.")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "manent server")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, SHA256())
    )
    replace_file(certificate, made.public_bytes(Encoding.PEM))


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise InvalidInput(f"Expected a host name in ASCII, or an address; found {host!a:.80}.") from None
