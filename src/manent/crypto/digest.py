"""Hashes of several parts that cannot be read in two ways."""

from __future__ import annotations

from hashlib import sha256


def digest(label: str, *parts: bytes) -> bytes:
    """SHA-256 over a label and parts, each led by its length: 32 bytes. The label says what is hashed, so that no digest of one
    kind is ever one of another."""
    name = label.encode()
    found = sha256(len(name).to_bytes(2, "big") + name)
    for part in parts:
        found.update(len(part).to_bytes(4, "big"))
        found.update(part)
    return found.digest()
