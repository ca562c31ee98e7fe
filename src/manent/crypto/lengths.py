"""The check of length for secrets, keys and messages of fixed size. Its message never shows their bytes."""

from __future__ import annotations

from manent.core.errors import InvalidInput, ManentError


def check_length(what: str, value: bytes, length: int, error: type[ManentError] = InvalidInput) -> None:
    """Raises `error` unless the value is bytes of this length.

    Args:
        what: what the value is, for the message: "a mask key".
    """
    if not isinstance(value, bytes):
        raise error(f"Expected {what} of {length} bytes, found {type(value).__name__}. Give bytes.")
    if len(value) != length:
        raise error(f"Expected {what} of {length} bytes, found {len(value)} bytes. Give exactly {length}.")
