"""Sealed messages: AES-256-GCM (NIST SP 800-38D) under a key that is used once."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.crypto.lengths import check_length

_NONCE: Final = bytes(12)


def seal(key: bytes, message: bytes, associated: bytes) -> bytes:
    """The message, encrypted and authenticated together with `associated` (not sent); 16 bytes longer.

    The nonce is zero. That is right because a nonce must only never repeat under one key, and a key seals one message: derive it
    for this sender, receiver, round and purpose. Two messages under one key would give away their difference, and with it
    the means to forge others.

    Args:
        key: 32 bytes, for this message alone.
        message: fewer than 2^31 bytes.
        associated: what both sides know and the message is bound to, such as round, sender and receiver.

    Raises InvalidInput for another length of the key, or too long a message.
    """
    check_length("a sealing key", key, 32)
    try:
        return AESGCM(key).encrypt(_NONCE, message, associated)
    except OverflowError:
        raise InvalidInput(f"A sealed message has fewer than 2^31 bytes, found {len(message)}. Cut it into several.") from None


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """The message that was sealed under the same key and `associated`.

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
