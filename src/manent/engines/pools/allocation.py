"""Memory that is freed is kept for the next client, who needs as much."""

from __future__ import annotations

import ctypes

_TRIM, _MMAP = -1, -3  # glibc's names of its thresholds, malloc.h
_LARGEST = 32 << 20  # bytes; the most that glibc takes for the second


def keep_freed() -> None:
    """Let this process keep up to 64 MB of memory that it has freed, in which arrays of up to 32 MB are made again.

    By default glibc gives an array of a model's size back to the system as soon as it is freed, and the next client's first
    writes would fetch it again, page by page. Other allocators and other systems are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_MMAP, _LARGEST)
    mallopt(_TRIM, 2 * _LARGEST)
