"""Freed memory that is kept for the next client, who needs as much."""

from __future__ import annotations

import ctypes

_TRIM, _MMAP = -1, -3  # glibc's names of its thresholds, malloc.h
_LARGEST = 32 << 20  # bytes; the most that glibc takes for the second


def keep_freed() -> None:
    """Have this process keep memory that it frees, up to 64 MB, and arrays up to 32 MB in what it keeps.

    By default glibc gives arrays of a model's size back to the system as soon as they are freed, and every client's first writes
    would fetch them again, page by page. Other allocators, and other systems, are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_MMAP, _LARGEST)
    mallopt(_TRIM, 2 * _LARGEST)
