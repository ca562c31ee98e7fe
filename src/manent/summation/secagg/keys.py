"""Every key of an attempt, from a client's three secrets."""

from __future__ import annotations

from manent.crypto.agreement import AgreementKey, EncapsulationKey
from manent.crypto.derive import derive
from manent.crypto.digest import digest
from manent.summation.parties.fields import u32


def key(secret: bytes, label: str, *parts: bytes, size: int = 32) -> bytes:
    """A key of `size` bytes for the purpose that the label and the parts name."""
    return derive(secret, digest(label, *parts), size)


def agreement_key(secret: bytes, use: str, context: bytes) -> AgreementKey:
    """The X25519 key that follows from the root (use "mask") or from the channel secret (use "channel")."""
    return AgreementKey(key(secret, f"manent {use} x25519", context))


def encapsulation_key(secret: bytes, use: str, context: bytes) -> EncapsulationKey:
    """The ML-KEM-768 key that follows from the root (use "mask") or from the channel secret (use "channel")."""
    return EncapsulationKey(key(secret, f"manent {use} ml-kem-768", context, size=64))


def commitment(context: bytes, own_seed: bytes) -> bytes:
    """32 bytes that bind a client to its own seed."""
    return digest("manent own seed", context, own_seed)


def channel_key(agreed: bytes, context: bytes, sender: int, recipient: int) -> bytes:
    """The key that seals the one message from sender to recipient."""
    return key(agreed, "manent channel", context, u32(sender), u32(recipient))


def share_label(context: bytes, sender: int, recipient: int, channel_text: bytes, mask_text: bytes) -> bytes:
    """What sealed shares are bound to. The ciphertexts are part of it, or a server could put its own in their place."""
    return digest("manent share", context, u32(sender), u32(recipient), channel_text, mask_text)


def kept_key(root: bytes, context: bytes, recipient: int) -> bytes:
    """The key under which a sender leaves an encapsulated secret with the server."""
    return key(root, "manent kept", context, u32(recipient))


def kept_label(context: bytes, sender: int, recipient: int) -> bytes:
    """What a secret that is left with the server is bound to."""
    return digest("manent kept", context, u32(sender), u32(recipient))


def mask_key(agreed: bytes, context: bytes, one: int, other: int) -> bytes:
    """The key of a pair's mask. The lower position adds the mask, the other subtracts it."""
    return key(agreed, "manent mask", context, u32(min(one, other)), u32(max(one, other)))


def own_mask_key(own_seed: bytes, context: bytes) -> bytes:
    """The key of a client's own mask."""
    return key(own_seed, "manent own mask", context)
