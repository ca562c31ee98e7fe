"""Additive secret sharing modulo a power of two.

| guarantee                      | all shares together sum to the vector; any fewer are uniform and independent of it |
| bits outside 1 to 64           | InvalidInput                                                                       |
| fewer than 2 parties           | InvalidInput: a single share would be the vector itself                            |
| numbers negative, or too large | taken modulo 2^bits                                                                |
"""

from __future__ import annotations

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array


def split(values: Array, parties: int, bits: int, random: PrivateRandom) -> Array:
    """uint64[parties, d], the shares of a vector modulo 2^bits. Any but all of them are uniform and independent of the vector.

    Args:
        values: int64 or uint64 [d]; negative numbers and numbers beyond 2^bits are taken modulo 2^bits.
        parties: 2 or more.
        bits: 1 to 64.

        random: where the shares are drawn from.

    Raises InvalidInput for anything else.
    """
    if values.dtype not in (np.dtype(np.int64), np.dtype(np.uint64)) or values.ndim != 1:
        raise InvalidInput(f"Expected an int64 or uint64 vector; found {values.dtype} of shape {values.shape}. Convert it first.")
    if not validate.is_count(parties, 2):
        raise InvalidInput(f"Expected 2 parties or more, found {parties!r}: a single share would be the vector itself.")
    mask = _mask(bits)
    shares = np.empty((parties, values.size), np.uint64)
    shares[1:] = random.words((parties - 1) * values.size).reshape(parties - 1, values.size)
    shares[0] = values.astype(np.uint64) - shares[1:].sum(axis=0, dtype=np.uint64)
    return shares & mask


def combine(shares: Array, bits: int) -> Array:
    """uint64[d], the vector modulo 2^bits, from all of its shares uint64[parties, d], in any order.

    Raises InvalidInput unless the shares are a uint64 matrix and bits is from 1 to 64.
    """
    if shares.dtype != np.uint64 or shares.ndim != 2:
        raise InvalidInput(f"Expected uint64 shares [parties, d]; found {shares.dtype} of shape {shares.shape}.")
    total: Array = shares.sum(axis=0, dtype=np.uint64) & _mask(bits)
    return total


def _mask(bits: int) -> np.uint64:
    if not validate.is_count(bits) or bits > 64:
        raise InvalidInput(f"Expected 1 to 64 bits, found {bits!r}. Choose the fewest that hold the sum.")
    return np.uint64((1 << bits) - 1)
