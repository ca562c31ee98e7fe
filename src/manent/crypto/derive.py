"""Keys derived from secrets: HKDF-SHA256 (RFC 5869)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from manent.core import validate
from manent.core.errors import InvalidInput

_HASH: Final = SHA256()


def derive(secret: bytes, info: bytes, size: int = 32) -> bytes:
    """`size` bytes that depend on the secret and on their purpose. The salt is empty.

    Args:
        secret: of any length. The key is no harder to guess than the secret.
        info: the purpose, and whatever the key is to be bound to. Different purposes need different infos.
        size: how many bytes, 1 to 8160.

    Raises InvalidInput for another size.
    """
    if not validate.is_count(size) or size > 255 * 32:
        raise InvalidInput(f"HKDF-SHA256 gives 1 to 8160 bytes; found size {size!r}. For more, derive a key and use a cipher.")
    return HKDF(_HASH, size, None, info).derive(secret)
