"""Key agreement: X25519 (RFC 7748), and ML-KEM-768 (FIPS 203), which is made to withstand quantum computers too."""

from __future__ import annotations

from typing import Final, final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from manent.core.errors import ProtocolAbort
from manent.crypto.lengths import check_length

_FIELD: Final = 2**255 - 19


def _coordinate(public: bytes) -> int:
    """The field element that 32 bytes stand for. RFC 7748 ignores the top bit, and reduces numbers beyond the field."""
    return (int.from_bytes(public, "little") & ((1 << 255) - 1)) % _FIELD


@final
class AgreementKey:
    """One side of an X25519 agreement.

    Args:
        seed: 32 secret bytes.

    Raises InvalidInput for another length.
    """

    __slots__ = ("_coordinate", "_key", "_public")

    def __init__(self, seed: bytes) -> None:
        check_length("an agreement seed", seed, 32)
        self._key = X25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()
        self._coordinate = _coordinate(self._public)

    @property
    def public(self) -> bytes:
        """The public key for the peer, 32 bytes."""
        return self._public

    def agree(self, peer: bytes) -> bytes:
        """The 32-byte secret shared with the holder of a public key. Use it only as the input of `derive`.

        Several public keys give the same secret, so name both public keys in the info of `derive`. Raises ProtocolAbort for a
        wrong length, for the party's own key, and for a key of low order, with which everyone knows the secret.
        """
        check_length("a peer's X25519 key", peer, 32, ProtocolAbort)
        if _coordinate(peer) == self._coordinate:
            raise ProtocolAbort("Expected a peer's X25519 key, found this party's own. Stop the round: keys were reflected.")
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise ProtocolAbort(
                "Expected a peer's X25519 key, found a point of low order: anyone knows its secret. Leave that peer out."
            ) from None


@final
class EncapsulationKey:
    """The receiving side of ML-KEM-768, a key encapsulation.

    Args:
        seed: 64 secret bytes, d followed by z (FIPS 203, algorithm 16).

    Raises InvalidInput for another length.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, seed: bytes) -> None:
        check_length("an ML-KEM-768 seed", seed, 64)
        self._key = MLKEM768PrivateKey.from_seed_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key for the peer, 1184 bytes."""
        return self._public

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The 32-byte secret in a ciphertext of 1088 bytes. An altered one gives another, unpredictable secret, not an error.

        Raises ProtocolAbort for a wrong length.
        """
        check_length("an ML-KEM-768 ciphertext", ciphertext, 1088, ProtocolAbort)
        return self._key.decapsulate(ciphertext)


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """A fresh 32-byte secret, and the ciphertext of 1088 bytes from which the public key's holder learns it.

    Raises ProtocolAbort for a key of a wrong length, or with coefficients that are not reduced (FIPS 203, section 7.2).
    """
    check_length("a peer's ML-KEM-768 key", public, 1184, ProtocolAbort)
    try:
        return MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    except ValueError:
        raise ProtocolAbort("Expected a peer's ML-KEM-768 key, found one that is not well formed. Leave that peer out.") from None
