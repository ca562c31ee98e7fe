"""Arithmetic whose result for one row is the same, to the last bit, whatever other rows are computed with it.

A library multiplies matrices of another shape in another order, and so rounds a row otherwise when there is one row more. In
DP-SGD that is a leak: one example more changes the computed gradients of all others, and weights that cancel make the changes as
large as the gradients. Here nothing depends on an order, by two rules:

| rule                                        | why no other row matters                                                   |
|---------------------------------------------|----------------------------------------------------------------------------|
| sums are of whole numbers, at most 2^53, in | every partial sum is exact, so any order, any kernel and any number of     |
| a unit that is a power of two               | threads gives the same (Ozaki et al. 2012, "Error-free transformations of  |
|                                             | matrix multiplication", with one slice)                                    |
| all else is one IEEE operation an element   | +, -, *, /, round and maximum are rounded correctly wherever they stand in |
|                                             | an array; so `exp` is made of these, as libraries' own differ in the last  |
|                                             | bits between the body and the end of an array                              |

A row has a unit of its own, and weights have units that depend on the weights alone. Units lie far inside the range of float64,
so numbers stay as they are, as multiples of their units, and a sum of products is a multiple of the product of two units.
"""

from __future__ import annotations

from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from manent.core.vectors import Array

Reals = NDArray[np.float64]


class Multiply(Protocol):
    """Multiplies matrices, or stacks of matrices, in float64: sums of products, in any order. Writes to `out` if it is given."""

    def __call__(self, a: Reals, b: Reals, out: Reals | None = None) -> Reals:
        """a @ b."""
        ...


def multiply(a: Reals, b: Reals, out: Reals | None = None) -> Reals:
    """a @ b by numpy."""
    found: Reals = np.matmul(a, b, out=out)
    return found


EXACT = 53
"""Whole numbers up to 2^EXACT are exact in float64."""

_HIGH, _LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")  # ln 2, the first with 32 bits
_SERIES = [1 / f for f in (1.0, 1.0, 2.0, 6.0, 24.0, 120.0, 720.0, 5040.0, 40320.0, 362880.0, 3628800.0, 39916800.0)]


def bits_for(terms: int) -> int:
    """The most bits b so that `terms` products of whole numbers of size at most 2^b sum to at most 2^53."""
    return (EXACT - max(terms - 1, 0).bit_length()) // 2


def powers(sizes: Array) -> Reals:
    """float64, for each size the power of two above it; 1 for zero."""
    found: Reals = np.ldexp(1.0, np.frexp(sizes)[1])
    return found


def sizes(rows: Array) -> Reals:
    """float64[n], the size of the largest number in each row of [n, ...]; NaN where there is one."""
    flat = rows.reshape(len(rows), -1)
    # A maximum is exact, and does not depend on the order. NaN goes through it.
    with np.errstate(invalid="ignore"):
        found: Reals = np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0)).astype(np.float64)
    return found


def rounded(rows: Array, bits: int) -> tuple[Reals, NDArray[np.bool_]]:
    """Each row of [n, ...] rounded to multiples of its unit, 2^-bits times the power of two above its size; bits <= 50.

    Returns the numbers float64[n, ...], and bool[n], whether the row is finite. A row that is not counts as zeros.
    """
    numbers = rows.astype(np.float64)
    return numbers, round_in_place(numbers, sizes(rows), bits)


def round_in_place(numbers: Reals, largest: Reals, bits: int) -> NDArray[np.bool_]:
    """As `rounded`, for float64[n, ...] whose `sizes` are `largest` [n]."""
    finite = np.isfinite(largest)
    # 1.5 * 2^52 units: next to it float64 has steps of one unit, so adding it rounds to the nearest, once and correctly.
    far = np.ldexp(0.75, np.frexp(np.where(finite, largest, 0.0))[1] + (EXACT - bits)).reshape(-1, *[1] * (numbers.ndim - 1))
    numbers += far
    with np.errstate(invalid="ignore"):
        numbers -= far
    if not finite.all():
        numbers[~finite] = 0
    return finite


def squares(numbers: Reals) -> Reals:
    """float64[n], the sum of squares of each row [n, ...]: eighths of a row are added up, and then halves, until one is left."""
    flat = numbers.reshape(len(numbers), -1)
    width = max(flat.shape[1] // 8, 1)
    found = np.zeros((len(flat), width))
    for start in range(0, flat.shape[1], width):
        part = flat[:, start : start + width]
        found[:, : part.shape[1]] += part * part
    while width > 1:
        if width % 2:
            found[:, 0] += found[:, width - 1]
        width //= 2
        found = found[:, :width] + found[:, width : 2 * width]
    return found[:, 0]


@final
class Factor:
    """A matrix W [entering, leaving] by which rows are multiplied, as whole numbers.

    Columns and then rows are scaled by powers of two, so that each input is rounded as fine as it counts: a product has an error
    of about 2^-bits of the largest |x_i W_ij|. The inputs of one row take the scales of W along.
    """

    def __init__(self, matrix: Array, multiply: Multiply = multiply) -> None:
        """Raises nothing: a matrix that is not finite gives rows that are not."""
        self.multiply = multiply
        largest = sizes(matrix.T)
        self.finite = bool(np.isfinite(largest).all())
        if not self.finite:
            matrix, largest = np.zeros_like(matrix), np.zeros_like(largest)
        self.bits = bits_for(len(matrix))
        columns = powers(largest)
        wide = matrix.astype(np.float64)
        wide *= 1 / columns
        self.rows = powers(sizes(wide))
        wide *= (2.0**self.bits / self.rows)[:, None]
        self.numbers = np.rint(wide, out=wide)
        self.columns = columns * 2.0**-self.bits

    def product(self, rows: Reals) -> Reals:
        """float64[n, leaving], the rows float64[n, entering] times the matrix; NaN for a row that is not finite."""
        with np.errstate(invalid="ignore"):
            scaled = rows * self.rows
        finite = round_in_place(scaled, sizes(scaled), self.bits)
        found = self.multiply(scaled, self.numbers)
        found *= self.columns
        if not self.finite:
            found[:] = np.nan
        if not finite.all():
            found[~finite] = np.nan
        return found


def exp(s: Reals) -> Reals:
    """e^s for s <= 0, to about 2^-50 of it; 0 below -700. Cody and Waite 1980, "Software Manual for the Elementary Functions"."""
    with np.errstate(invalid="ignore"):
        far = s < -700
    s = np.where(far, 0.0, s)
    steps = np.rint(s * (1 / 0.6931471805599453))
    rest = (s - steps * _HIGH) - steps * _LOW
    found = np.full_like(rest, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        found *= rest
        found += coefficient
    finite = np.isfinite(steps)
    found = np.ldexp(found, np.where(finite, steps, 0).astype(np.int32))
    found[far] = 0
    return found


def sigmoid(s: Reals) -> Reals:
    """1 / (1 + e^-s)."""
    e = exp(-np.abs(s))
    found: Reals = np.where(s >= 0, 1.0, e) / (1.0 + e)
    return found


def tanh(s: Reals) -> Reals:
    """(1 - e^-2|s|) / (1 + e^-2|s|), with the sign of s."""
    e = exp(-2.0 * np.abs(s))
    found: Reals = np.copysign((1.0 - e) / (1.0 + e), s)
    return found


def softmax(s: Reals) -> Reals:
    """float64[n, classes], e^s over its sum in each row [n, classes]. The sum is of whole numbers."""
    e = exp(s - s.max(axis=1, keepdims=True))
    unit = 2.0 ** (EXACT - 1 - s.shape[1].bit_length())
    e *= unit
    np.rint(e, out=e)
    e /= e.sum(axis=1, keepdims=True)
    return e
