"""What the server reads without taking it apart: lists of known positions, and the sum of packed vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import ProtocolAbort
from manent.summation.parties.fields import u32
from manent.summation.secagg import bodies, ring
from manent.summation.secagg.bodies import Parcel

POSITIONS = st.sets(st.integers(0, 40), max_size=12).map(sorted)


def shares_of(sender: int, recipients: list[int], hybrid: bool) -> list[Parcel]:
    text = b"c" * bodies.KEM_TEXT * hybrid
    kept = [(b"m" * bodies.KEM_TEXT, b"k" * bodies.KEPT) if hybrid and v > sender else (b"", b"") for v in recipients]
    sealed = [bytes([v]) * bodies.SEALED for v in recipients]
    return [Parcel(v, s, text, *more) for v, s, more in zip(recipients, sealed, kept, strict=True)]


@given(st.integers(0, 40), POSITIONS, st.booleans())
def test_a_record_is_found_and_delivered_as_if_the_list_were_read(sender, recipients, hybrid):
    recipients = [v for v in recipients if v != sender]
    parcels = shares_of(sender, recipients, hybrid)
    table = bodies.shares_table(sender, bodies.listing(parcels), recipients, hybrid)
    for parcel in parcels:
        record = table.record(parcel.peer)
        assert record == parcel.encode()
        assert bodies.delivered(record, sender, bool(parcel.kept)) == parcel.delivered(sender).encode()


@given(st.integers(0, 40), POSITIONS, POSITIONS, st.booleans(), st.binary(max_size=3))
def test_a_list_of_other_positions_or_another_length_is_refused(sender, recipients, others, hybrid, more):
    recipients, others = ([v for v in some if v != sender] for some in (recipients, others))
    body = bodies.listing(shares_of(sender, recipients, hybrid))
    if recipients != others:
        with pytest.raises(ProtocolAbort):
            bodies.shares_table(sender, body, others, hybrid)
    if more:
        with pytest.raises(ProtocolAbort):
            bodies.shares_table(sender, body + more, recipients, hybrid)
    with pytest.raises(ProtocolAbort):
        bodies.shares_table(sender, body[:-1], recipients, hybrid)
    with pytest.raises(ProtocolAbort):
        bodies.shares_table(sender, u32(len(recipients) + 1) + body[4:], recipients, hybrid)


@given(st.integers(1, 63), st.integers(0, 60), st.integers(0, 4), st.integers(0, 2**32))
def test_packed_vectors_add_up_modulo_the_ring(bits, size, count, seed):
    vectors = np.random.default_rng(seed).integers(0, 1 << bits, (count, size)).astype(ring.lane(bits))
    packed = ring.PackedSum(size, bits)
    for vector in vectors:
        packed.add(ring.pack(vector, bits))
    expected = [sum(int(x) for x in column) % (1 << bits) for column in vectors.T]
    assert [int(x) % (1 << bits) for x in packed.total()] == (expected if count else [0] * size)
    packed.total()[:] = 1  # a copy: what is still to come is added to the sum
    assert [int(x) % (1 << bits) for x in packed.total()] == (expected if count else [0] * size)
