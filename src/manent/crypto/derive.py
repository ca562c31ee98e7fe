"""Keys from secrets: HKDF-SHA256 (RFC 5869)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from manent.core import validate
from manent.core.errors import InvalidInput

_HASH: Final = SHA256()


def derive(secret: bytes, info: bytes, size: int = 32) -> bytes:
    """`size` bytes that depend on the secret and on what they are for; empty salt.

    Args:
        secret: any length; as unpredictable as the key shall be.
        info: the purpose, and whatever the key shall be bound to. Two purposes need two infos.
        size: 1 to 8160.

    Raises InvalidInput for another size.
    """
    if not validate.is_count(size) or size > 255 * 32:
        raise InvalidInput(f"HKDF-SHA256 gives 1 to 8160 bytes; found size {size!r}. Derive a key, and expand it by a cipher.")
    return HKDF(_HASH, size, None, info).derive(secret)
