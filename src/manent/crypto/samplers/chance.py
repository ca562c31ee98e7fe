"""Coins and unbiased rounding from uniform bits, exactly.

| sampler            | law, given uniform bits                            | edge cases                                |
|--------------------|----------------------------------------------------|-------------------------------------------|
| `bernoulli`        | 1 with probability exactly p                       | p = 0 gives only 0, p = 1 only 1          |
| `stochastic_round` | floor(x) + 1 with probability exactly x - floor(x) | a whole x stays; beyond 2^53 InvalidInput |
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.crypto.bits import CHUNK, Size, checked_shape, draw_bits, is_below

_LEVELS = 1 << 32  # a coin looks at 32 bits; only in one of this many cases at more


def _coin(chance: Fraction, level: int, random: PrivateRandom) -> bool:
    """Whether U < chance, where `level` is the first 32 bits of U."""
    return is_below(lambda bits: (chance, chance), level, 32, random)


def bernoulli(p: float | Fraction, size: Size, random: PrivateRandom) -> NDArray[np.int64]:
    """int64[size] of 0 and 1, drawn independently, each 1 with probability exactly p. A float means its exact value.

    Raises InvalidInput where p is not in [0, 1], or size is not a shape.
    """
    shape = checked_shape(size)
    if not (validate.is_number(p) and 0 <= p <= 1):
        raise InvalidInput(f"Expected a probability between 0 and 1, found {p!r}. Give a float or a Fraction in that range.")
    chance = Fraction(p if isinstance(p, Fraction) else float(p))
    if chance == 1:
        return np.ones(shape, np.int64)
    whole = int(chance * _LEVELS)
    out = np.empty(shape, np.int64)
    flat = out.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        level = draw_bits(random, part.size, np.uint32)
        part[:] = level < whole
        if whole != chance * _LEVELS:
            for i in np.flatnonzero(level == whole):
                part[i] = _coin(chance, whole, random)
    return out


def stochastic_round(x: Array, random: PrivateRandom) -> NDArray[np.int64]:
    """int64 of the shape of x: floor(x), plus one with probability exactly x - floor(x). So its mean is x.

    Args:
        x: floats of any shape, of 64 bits or fewer.

    Raises InvalidInput where x holds NaN, infinity, or a number beyond 2^53 in size, or is of another type.
    """
    if not np.can_cast(np.asarray(x).dtype, np.float64):
        raise InvalidInput(f"Rounding needs floats of at most 64 bits, found {np.asarray(x).dtype}. Convert them first.")
    x = np.asarray(x, np.float64)
    size = np.abs(x)
    if not (size <= 2.0**53).all():
        found = x.reshape(-1)[np.flatnonzero(~(size <= 2.0**53).reshape(-1))[0]]
        raise InvalidInput(f"Rounding needs finite numbers up to 2^53 in size, found {found}. Clip or scale them first.")
    out = np.empty(x.shape, np.int64)
    flat, numbers, sizes = out.reshape(-1), x.reshape(-1), size.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = slice(start, start + CHUNK)
        # Away from zero with probability |x| - floor |x|: the same law, and exact for tiny negative x too.
        whole = np.floor(sizes[part])
        scaled = (sizes[part] - whole) * _LEVELS
        level = draw_bits(random, whole.size, np.uint32).astype(np.float64)
        up = level < scaled
        for i in np.flatnonzero(up & (level + 1 > scaled)):
            up[i] = _coin(Fraction(float(scaled[i])) / _LEVELS, int(level[i]), random)
        flat[part] = np.copysign(whole + up, numbers[part])
    return out
