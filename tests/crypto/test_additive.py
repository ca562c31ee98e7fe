"""Additive shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from manent.core.errors import InvalidInput
from manent.crypto import InsecureTestRNG, SystemRandom
from manent.crypto.additive import combine, split
from tests.statistics import uniform_ok

VECTORS = arrays.arrays(st.sampled_from([np.int64, np.uint64]), st.integers(0, 20))


@given(VECTORS, st.integers(2, 6), st.integers(1, 64), st.integers(0, 9))
def test_all_shares_give_the_vector(values, parties, bits, seed):
    shares = split(values, parties, bits, InsecureTestRNG(seed))
    assert shares.shape == (parties, values.size)
    assert shares.dtype == np.uint64
    assert all(int(share) < 2**bits for share in shares.ravel())
    assert combine(shares[::-1], bits).tolist() == [int(value) % 2**bits for value in values]


@given(VECTORS, st.data())
def test_shares_of_sums_are_sums_of_shares(values, data):
    other = data.draw(arrays.arrays(values.dtype, values.shape))
    bits = data.draw(st.integers(1, 64))
    shares = split(values, 3, bits, InsecureTestRNG(1)) + split(other, 3, bits, InsecureTestRNG(2))
    assert combine(shares, bits).tolist() == [(int(a) + int(b)) % 2**bits for a, b in zip(values, other, strict=True)]


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_any_two_of_three_shares_are_uniform(left_out):
    """Chi-square over the 2^6 pairs of shares of one fixed number, modulo 8; false alarm 1e-10 a check."""
    shares = np.delete(split(np.full(64_000, 5), 3, 3, SystemRandom()), left_out, axis=0).astype(int)
    assert uniform_ok(np.bincount(8 * shares[0] + shares[1], minlength=64))


@pytest.mark.parametrize(
    ("values", "parties", "bits"),
    [
        (np.zeros(3), 2, 8),
        (np.zeros(3, np.int32), 2, 8),
        (np.zeros((3, 3), np.int64), 2, 8),
        (np.zeros(3, np.int64), 1, 8),
        (np.zeros(3, np.int64), 2, 0),
        (np.zeros(3, np.int64), 2, 65),
    ],
)
def test_bad_input_is_refused(values, parties, bits):
    with pytest.raises(InvalidInput):
        split(values, parties, bits, InsecureTestRNG(1))


def test_bad_shares_are_refused():
    for shares, bits in ((np.zeros((2, 3)), 8), (np.zeros(3, np.uint64), 8), (np.zeros((2, 3), np.uint64), 65)):
        with pytest.raises(InvalidInput):
            combine(shares, bits)
