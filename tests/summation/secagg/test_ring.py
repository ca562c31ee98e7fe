"""Lanes and packing, beside Python's own integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from manent.core.errors import ProtocolAbort
from manent.summation.secagg import ring

from . import reference as ref
from .attempts import wrapped

BITS = st.integers(1, 63)
SIZES = st.integers(0, 300)


def numbers_of(bits: int, size: int, seed: int) -> np.ndarray:
    """Uniform in all bits of the lane: also those above b, which packing has to cut off."""
    lane = ring.lane(bits)
    return np.frombuffer(np.random.default_rng(seed).bytes(size * lane.itemsize), lane).copy()


@given(BITS, SIZES, st.integers(0, 2**32))
def test_packing_is_the_big_number_with_the_first_at_the_bottom(bits, size, seed):
    lanes = numbers_of(bits, size, seed)
    packed = ring.pack(lanes, bits)
    assert packed == ref.pack([int(number) % 2**bits for number in lanes], bits)
    assert len(packed) == ring.packed_size(size, bits) == -(-size * bits // 8)
    np.testing.assert_array_equal(ring.unpack(packed, size, bits), lanes & lanes.dtype.type(2**bits - 1))


@given(BITS, st.integers(1, 100), st.data())
def test_only_exactly_so_many_numbers_unpack(bits, size, data):
    packed = bytearray(ring.pack(numbers_of(bits, size, 0), bits))
    for other in (packed[:-1], packed + b"\0"):
        with pytest.raises(ProtocolAbort):
            ring.unpack(bytes(other), size, bits)
    used = size * bits % 8
    if used:
        packed[-1] |= 1 << data.draw(st.integers(used, 7))
        with pytest.raises(ProtocolAbort, match="padding"):
            ring.unpack(bytes(packed), size, bits)


@given(BITS, st.data())
def test_a_number_within_the_ring_comes_back(bits, data):
    half = 1 << (bits - 1)
    values = data.draw(st.lists(st.integers(-half, half - 1) | st.sampled_from([-half, half - 1, 0]), max_size=30))
    vector = np.array(values, np.int64)
    np.testing.assert_array_equal(ring.centre(ring.lift(vector, bits), bits), vector)


@given(BITS, st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_a_number_beyond_the_ring_comes_back_modulo_it(bits, values):
    vector = np.array(values, np.int64)
    np.testing.assert_array_equal(ring.centre(ring.lift(vector, bits), bits), wrapped(values, bits))


@given(BITS)
def test_a_lane_is_the_narrowest_that_holds_the_bits(bits):
    width = 8 * ring.lane(bits).itemsize
    assert bits <= width
    assert width == 16 or bits > width // 2


@given(st.integers(1, 2**20), st.integers(0, 2**60) | st.floats(0, 2**60))
@example(1024, 2**50)  # a power of two as the largest sum: +2^60 needs a 62nd bit, which float64's logarithm does not see
@example(1, 2**53 + 1)
@settings(max_examples=300)
def test_the_ring_holds_the_largest_sum_and_no_smaller_ring_does(clients, largest):
    bits, most = ring.bits_for(clients, largest), clients * max(1, math.ceil(largest))
    assert -(2 ** (bits - 1)) <= -most
    assert most <= 2 ** (bits - 1) - 1
    assert most > 2 ** (bits - 2) - 1
