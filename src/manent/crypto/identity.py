"""Long-term identities: Ed25519 signatures (RFC 8032)."""

from __future__ import annotations

from typing import Final, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from manent.core.randomness import PrivateRandom
from manent.crypto.lengths import check_length

_FIELD: Final = 2**255 - 19
_ORDER_8: Final = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
# The y coordinates of the eight points of low order. Under such a public key one signature fits many messages, or all.
_LOW_ORDER: Final = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})


@final
class SigningKey:
    """An identity's secret. `repr` shows the public half only.

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
        """A new identity."""
        return cls(random.bytes(32))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for whoever stores the identity."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """32 bytes, for everyone."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature; the same for the same message."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey(public={self._public.hex()})"


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of a public key signed the message. False, never an error, for bytes that are no key or signature.

    Keys of low order are refused: for them a signature can be made without any secret (RFC 8032 leaves that to the protocol).
    """
    if (int.from_bytes(public, "little") & ((1 << 255) - 1)) % _FIELD in _LOW_ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (ValueError, InvalidSignature):
        return False
    return True
