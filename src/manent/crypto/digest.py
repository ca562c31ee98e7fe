"""A hash of several parts that leaves no doubt where each part ends."""

from __future__ import annotations

from hashlib import sha256


def digest(label: str, *parts: bytes) -> bytes:
    """SHA-256 over a label and parts, each led by its length: 32 bytes.

    Args:
        label: what is hashed. Different labels keep a digest of one kind from ever being a digest of another kind.
        parts: the bytes to hash, each shorter than 2^32 bytes.
    """
    name = label.encode()
    found = sha256(len(name).to_bytes(2, "big") + name)
    for part in parts:
        found.update(len(part).to_bytes(4, "big"))
        found.update(part)
    return found.digest()
