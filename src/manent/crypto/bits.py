"""Uniform bits as numbers, and the exact comparison of a uniform real number with a probability."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array

Size = int | tuple[int, ...]

CHUNK = 1 << 15  # so many draws at a time, so that the buffers stay in the second-level cache


def draw_bits(random: PrivateRandom, count: int, dtype: type[np.unsignedinteger]) -> Array:
    """dtype[count], uniform over all values of an unsigned type."""
    each = 8 // np.dtype(dtype).itemsize
    return random.words(-(-count // each)).view(dtype)[:count]


def is_below(bounds: Callable[[int], tuple[Fraction, Fraction]], level: int, bits: int, random: PrivateRandom) -> bool:
    """Whether U < chance, exactly, for U uniform in [0, 1). More bits of U are drawn, 192 at a time, until the answer is certain.

    Args:
        bounds: a function of a number of bits that gives a lower and an upper bound on the chance, closer for more bits.
        level: the first bits of U, as a number.
        bits: how many bits that are.
        random: where further bits are drawn from.
    """
    while True:
        low, high = bounds(bits)
        if Fraction(level + 1, 1 << bits) <= low:
            return True
        if Fraction(level, 1 << bits) >= high:
            return False
        for word in random.words(3):
            level, bits = (level << 64) | int(word), bits + 64


def checked_shape(size: Size) -> tuple[int, ...]:
    """A size as a shape. Raises InvalidInput unless it is a whole number >= 0, or a tuple of such."""
    shape = size if isinstance(size, tuple) else (size,)
    if not all(validate.is_count(n, 0) for n in shape):
        raise InvalidInput(f"Expected a size of whole numbers >= 0, found {size!r}. Give an int or a tuple of them.")
    return shape
