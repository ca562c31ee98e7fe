"""Sealed messages: AES-256-GCM (NIST SP 800-38D), with a key for each message.

| case                                    | what happens                                                         |
|-----------------------------------------|----------------------------------------------------------------------|
| message, associated data or key altered | `unseal` raises ProtocolAbort                                        |
| an empty message                        | is sealed into 16 bytes                                              |
| one key for two messages                | never do that: it gives away their difference, and lets others forge |
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.crypto.lengths import check_length

_NONCE: Final = bytes(12)


def seal(key: bytes, message: bytes, associated: bytes) -> bytes:
    """The encrypted message, 16 bytes longer, bound to the `associated` data.

    The nonce is always zero. That is safe because a nonce must not repeat under one key, and each key seals one message only:
    derive the key for this sender, receiver, round and purpose. Two messages under one key would give away their difference,
    and let others forge messages.

    Args:
        key: 32 bytes, for this message alone.
        message: fewer than 2^31 bytes.
        associated: what both sides know and the message is bound to, such as round, sender and receiver. It is not sent.

    Raises InvalidInput for a key that is not 32 bytes, or a message that is too long.
    """
    check_length("a sealing key", key, 32)
    try:
        return AESGCM(key).encrypt(_NONCE, message, associated)
    except OverflowError:
        raise InvalidInput(f"A sealed message has fewer than 2^31 bytes, found {len(message)}. Cut it into several.") from None


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """The message that was sealed with the same key and the same `associated` data.

    Raises ProtocolAbort where anything was altered, and InvalidInput for a key that is not 32 bytes.
    """
    check_length("a sealing key", key, 32)
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, associated)
    except InvalidTag:
        raise ProtocolAbort(
            f"A sealed message of {len(sealed)} bytes does not open: it was altered, or meant for another key or purpose."
            " Leave its sender out."
        ) from None
