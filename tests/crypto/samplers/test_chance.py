"""Coins and unbiased rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.crypto import SystemRandom
from manent.crypto.samplers.chance import bernoulli, stochastic_round
from tests.crypto.scripted import Scripted, split
from tests.statistics import frequency_ok

LEVEL = 1e-11  # false alarm of one check; the file makes about 20


def uniform(number):
    """Words of which the draws above take the 224 bits of a number: 32 first, then 192."""
    return [number >> 192, *split(number & (2**192 - 1), 192)]


NUMBERS = st.integers(0, 2**224 - 1)


@given(st.fractions(0, 1), NUMBERS, st.sampled_from([-1, 0, 1, None]))
def test_a_coin_is_exactly_the_comparison(p, number, near):
    """U < p for 224 bits of U, also where U and p agree in the first 223."""
    if near is not None:
        number = min(max(int(p * 2**224) + near, 0), 2**224 - 1)
    words = [*uniform(number), 2**63, 0, 0]
    # With the further words, U is (number + 1/2) / 2^224.
    assert bernoulli(p, 1, Scripted(*words)).tolist() == [Fraction(2 * number + 1, 2**225) < p]


@pytest.mark.parametrize("p", [0, 0.0, 1, 1.0, Fraction(1)])
def test_a_certain_coin(p):
    assert set(bernoulli(p, 1000, SystemRandom()).tolist()) == {int(p)}


@pytest.mark.parametrize("p", [1e-5, 0.1, Fraction(1, 3), 0.5, 0.999])
def test_coins_have_their_frequency(p):
    heads = int(bernoulli(p, 2_000_000, SystemRandom()).sum())
    assert frequency_ok(heads, 2_000_000, float(p), LEVEL)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf, "half", None, Fraction(-1, 9)])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(InvalidInput, match="probability"):
        bernoulli(p, 3, SystemRandom())


FLOATS = st.one_of(
    st.floats(-(2.0**53), 2.0**53), st.floats(-2, 2), st.floats(-1e-9, 1e-9), st.integers(-(2**53), 2**53).map(float)
)


@given(FLOATS, NUMBERS, st.sampled_from([-1, 0, 1, None]))
def test_rounding_is_exactly_the_comparison(x, number, near):
    """Away from zero where U < |x| - floor |x|, for 224 bits of U, also where they agree in the first 223."""
    whole = math.floor(abs(Fraction(x)))
    rest = abs(Fraction(x)) - whole
    if near is not None:
        number = min(max(int(rest * 2**224) + near, 0), 2**224 - 1)
    rounded = stochastic_round(np.array([x]), Scripted(*uniform(number), 2**63, 0, 0, *[0] * 60))
    expected = whole + (Fraction(2 * number + 1, 2**225) < rest)
    assert rounded.tolist() == [expected if x > 0 else -expected]


@pytest.mark.parametrize("x", [0.25, -0.25, 1 / 3, -7.9, 1e-4, -1e-4, 2.0**51 + 0.5])
def test_rounding_is_unbiased(x):
    rounded = stochastic_round(np.full(1_000_000, x), SystemRandom())
    assert set(np.unique(rounded).tolist()) == {math.floor(x), math.floor(x) + 1}
    assert frequency_ok(int((rounded > x).sum()), 1_000_000, float(Fraction(x) - math.floor(x)), LEVEL)


def test_whole_numbers_stay():
    x = np.array([[0.0, -0.0, 1.0, -1.0], [2.0**53, -(2.0**53), 12345.0, -9.0]])
    rounded = stochastic_round(x, SystemRandom())
    assert rounded.dtype == np.int64
    np.testing.assert_array_equal(rounded, x.astype(np.int64))
    np.testing.assert_array_equal(stochastic_round(x.astype(np.float32), SystemRandom()), x.astype(np.int64))


def test_long_vectors_are_rounded_in_every_part():
    x = np.linspace(-1e6, 1e6, 100_001)
    assert (np.abs(stochastic_round(x, SystemRandom()) - x) < 1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**53 + 2])
def test_numbers_that_cannot_be_rounded_are_refused(bad):
    with pytest.raises(InvalidInput, match=r"2\^53"):
        stochastic_round(np.array([1.0, bad]), SystemRandom())


@pytest.mark.parametrize("bad", [np.array([1j]), np.array(["1"]), np.array([None])])
def test_types_that_are_no_floats_are_refused(bad):
    with pytest.raises(InvalidInput, match="floats"):
        stochastic_round(bad, SystemRandom())
