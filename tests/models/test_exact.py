"""Sums of whole numbers that no order can change: each number is whole, and no sum of products is beyond 2^53."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from manent.models.exact import EXACT, Factor, bits_for, squares, whole

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5, 255, 256, 257, 784, 1 << 20, (1 << 20) + 1])
def test_the_most_bits_whose_products_sum_up_exactly(terms):
    bits = bits_for(terms)
    assert terms * 4**bits <= 2**EXACT
    next_power = 1 << max(terms - 1, 0).bit_length()
    assert next_power * 4 ** (bits + 1) > 2**EXACT


@pytest.mark.parametrize("bits", [3, 12, 25])
def test_rows_are_whole_and_as_near_as_they_can_be(bits):
    rows = RNG.standard_normal((7, 5)) * 2.0 ** RNG.integers(-60, 60, (7, 1))
    numbers, scale, finite = whole(rows, bits)
    assert finite.all()
    np.testing.assert_array_equal(numbers, np.rint(numbers))
    assert (np.abs(numbers) <= 2**bits).all()
    assert (np.abs(numbers).max(axis=1) >= 2 ** (bits - 1)).all()
    assert (np.abs(numbers * scale[:, None] - rows) <= scale[:, None] / 2).all()


def test_largest_numbers_still_sum_up_exactly():
    """All numbers at their largest but one, which is odd: in any order, by any kernel, the sum is that of whole numbers."""
    for terms in (3, 255, 256, 1000):
        bits = bits_for(terms)
        numbers = np.full((1, terms), 2.0**bits)
        numbers[0, terms // 2] -= 1
        exact = sum(int(x) ** 2 for x in numbers[0])
        assert exact <= 2**EXACT
        assert int(squares(numbers)[0]) == exact


def test_a_product_is_that_of_the_whole_numbers():
    matrix = RNG.standard_normal((9, 4)) * 2.0 ** RNG.integers(-20, 20, (9, 1))
    rows = RNG.standard_normal((6, 9))
    factor = Factor(matrix)
    np.testing.assert_array_equal(factor.numbers, np.rint(factor.numbers))
    found = factor.product(rows)
    numbers, scale, _ = whole(rows * factor.rows, factor.bits)
    for i, j in np.ndindex(*found.shape):
        total = sum(int(a) * int(b) for a, b in zip(numbers[i], factor.numbers[:, j], strict=True))
        assert abs(total) <= 2**EXACT
        assert Fraction(found[i, j]) == total * Fraction(scale[i]) * Fraction(factor.columns[j])
    np.testing.assert_allclose(
        found, rows @ matrix, rtol=0, atol=np.abs(rows[:, :, None] * matrix).max() * 2.0 ** (6 - factor.bits)
    )
    for i in range(len(rows)):
        np.testing.assert_array_equal(factor.product(rows[i : i + 1])[0], found[i])
