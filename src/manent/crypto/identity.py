"""Long-term identities, with Ed25519 signatures (RFC 8032)."""

from __future__ import annotations

from typing import Final, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from manent.core.randomness import PrivateRandom
from manent.crypto.lengths import check_length

_FIELD: Final = 2**255 - 19
_ORDER_8: Final = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
# The y coordinates of the eight points of low order. For such a public key, one signature fits many messages, or all.
_LOW_ORDER: Final = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})


@final
class SigningKey:
    """An identity's secret key. Its `repr` shows only the public key.

    Args:
        seed: 32 secret bytes.

    Raises InvalidInput for another length.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, seed: bytes) -> None:
        check_length("a signing seed", seed, 32)
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, random: PrivateRandom) -> SigningKey:
        """A new identity, drawn from `random`."""
        return cls(random.bytes(32))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, to be stored with care."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes, for everyone."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes. The same message always gets the same signature."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey(public={self._public.hex()})"


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of this public key signed the message. Bytes that are no key or no signature give False, not an error.

    Keys of low order give False too: for them a signature can be made without the secret. RFC 8032 leaves that to the protocol.
    """
    if (int.from_bytes(public, "little") & ((1 << 255) - 1)) % _FIELD in _LOW_ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (ValueError, InvalidSignature):
        return False
    return True
