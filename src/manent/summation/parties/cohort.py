"""Who is in a cohort: every client computes it, and nobody for another."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_256
from itertools import islice
from typing import cast

import numpy as np

from manent.core.errors import InvalidInput

SEED_BYTES = 32
_DOMAIN = b"manent/secagg/cohort/1"
_WORD = 4  # bytes
_LARGEST = 1 << 32  # what a word can number


def draw_cohort(roster: Sequence[bytes] | int, seed: bytes, size: int) -> tuple[int, ...]:
    """The cohort: who sits at positions 0, ..., size - 1, as indices into the roster.

    They are the first `size` places of a uniformly random permutation of the roster, so a smaller cohort is the beginning of a
    larger one. This function is part of the wire format. With n the roster's length, another language computes it so:

    1. The stream is SHAKE-256 (FIPS 202) of the 22 ASCII bytes `manent/secagg/cohort/1`, the 32 bytes of the seed, and n as 8
       bytes, most significant first. It is read in words of 4 bytes, most significant first.
    2. Let a[j] = j for j = 0, ..., n - 1. For i = 0, ..., size - 1 in turn: let m = n - i, and let b be the smallest number of
       bits with 2^b >= m. Take words from the stream, and of each its b lowest bits r, until r < m (a word is taken even where
       m = 1). Swap a[i] and a[i + r].
    3. The cohort is a[0], ..., a[size - 1].

    Words that do not fit are thrown away, not reduced, so the permutation is exactly uniform where the stream is.

    Args:
        roster: the roster, of which only the length counts, or that length. Its order must have been fixed before the seed was.
        seed: 32 bytes that nobody could choose, such as a hash of a public beacon, the study and the round.
        size: clients in the cohort, at least 1 and at most n.

    Raises InvalidInput for a seed of another length, and where the roster cannot fill the cohort.
    """
    count = roster if isinstance(roster, int) else len(roster)
    if len(seed) != SEED_BYTES:
        raise InvalidInput(f"A cohort's seed expects {SEED_BYTES} bytes, found {len(seed)}. Hash what it is made from.")
    if not 1 <= size <= count < _LARGEST:
        raise InvalidInput(
            f"A cohort expects a size from 1 to the roster's {count} clients (fewer than 2^32), found {size}. Ask for fewer."
        )
    stream = shake_256(_DOMAIN + seed + count.to_bytes(8, "big"))
    places = list(range(count))
    words, taken = _words(stream.digest(2 * size * _WORD)), 0
    for i in range(size):
        left = count - i
        mask = (1 << (left - 1).bit_length()) - 1
        while True:
            if taken == len(words):  # hashlib reads from the start only; doubling keeps that linear
                words = _words(stream.digest(2 * len(words) * _WORD))
            r, taken = words[taken] & mask, taken + 1
            if r < left:
                break
        places[i], places[i + r] = places[i + r], places[i]
    return tuple(islice(places, size))


def _words(stream: bytes) -> list[int]:
    return cast(list[int], np.frombuffer(stream, ">u4").tolist())
