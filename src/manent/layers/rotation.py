"""The blockwise randomised Hadamard rotation. It is orthonormal, public and cheap."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from manent.core.randomness import repeatable
from manent.core.vectors import Array

_SMALL = 1 << 12  # up to here a vector is one block, padded to a power of two
LARGEST = 1 << 18
"""Most coordinates of a block; a power of two. Within a block a vector's energy is spread evenly over the coordinates: the larger
it is, the finer is the grid on which a ring holds a sum, and the longer it takes."""
_PADDING = 16  # larger blocks are only taken where at most 1 in so many coordinates is padding


@lru_cache(maxsize=8)
def _hadamard(size: int) -> Array:
    """float64[size, size], the normalised Hadamard matrix of a power of two (Sylvester): symmetric and its own inverse."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size))


@lru_cache(maxsize=2)  # each as large as a vector
def _signs(size: int, seed: int) -> Array:
    signs = repeatable(seed, "rotation", size).integers(0, 2, size) * 2.0
    signs -= 1.0
    return np.asarray(signs)


def block(size: int) -> int:
    """Size of a block for vectors of this size; a power of two."""
    if size <= _SMALL:
        return 1 << max(size - 1, 0).bit_length()
    larger = [1 << bits for bits in range(_SMALL.bit_length(), LARGEST.bit_length())]
    return max((block for block in larger if -(-size // block) * block - size <= size // _PADDING), default=_SMALL)


def padded(size: int) -> int:
    """Size of a vector after `rotate`: that of whole blocks."""
    return -(-size // block(size)) * block(size)


def rotate(vectors: Array, seed: int = 0) -> Array:
    """[k, d] to float64[k, padded(d)]: public signs, then a Hadamard transform of each block. Norms stay, up to rounding.

    Args:
        seed: tells the signs; no secret.
    """
    given = vectors.shape[1]
    wide = np.zeros((len(vectors), padded(given)))
    wide[:, :given] = vectors
    wide *= _signs(wide.shape[1], seed)
    return _transform(wide, block(given))


def unrotate(total: Array, size: int, seed: int = 0) -> Array:
    """The vector [size] of which `total`, [padded(size)], is the rotation."""
    back: Array = (_transform(total[None], block(size)) * _signs(len(total), seed))[0, :size]
    return back


def _transform(rows: Array, size: int) -> Array:
    """Rows [k, n size], each block of this size by itself."""
    # A Hadamard matrix of a b is the Kronecker product of those of a and b: small matrix products, one after another.
    bits = min(size, _SMALL).bit_length() - 1
    left, right = _hadamard(1 << bits // 2), _hadamard(1 << bits - bits // 2)
    turned = left @ rows.reshape(-1, len(left), len(right)) @ right
    if size > _SMALL:
        turned = _hadamard(size // _SMALL) @ turned.reshape(-1, size // _SMALL, _SMALL)
    return turned.reshape(rows.shape)
