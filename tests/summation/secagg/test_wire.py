"""Messages: what is written is read, and whatever else arrives is a ProtocolAbort and nothing worse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.errors import ProtocolAbort
from manent.summation.parties import wire
from manent.summation.parties.fields import Reader, u8, u32
from manent.summation.parties.wire import Kind
from manent.summation.secagg import Call, bodies
from manent.summation.secagg.bodies import Advert, Opened, Parcel, Signed
from manent.summation.secagg.terms import Terms

from .attempts import terms_of

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def filled(seed: int, size: int) -> bytes:
    """Bytes that tell fields apart."""
    return bytes((seed + 7 * i) % 256 for i in range(size))


def adverts(hybrid):
    size = bodies.KEM_KEY if hybrid else 0

    def made(position, seed):
        return Advert(position, *(filled(seed + i, n) for i, n in enumerate((32, 32, 32, size, size, 64))))

    return st.builds(made, U32, st.integers(0, 255))


def parcels(me, hybrid, delivered):
    def made(peer, seed):
        with_mask = hybrid and (peer < me if delivered else me < peer)
        mask, kept = filled(seed + 2, bodies.KEM_TEXT) * with_mask, filled(seed + 3, bodies.KEPT) * (with_mask and not delivered)
        return Parcel(peer, filled(seed, bodies.SEALED), filled(seed + 1, bodies.KEM_TEXT) * hybrid, mask, kept)

    return st.builds(made, st.integers(0, 9).filter(lambda peer: peer != me), st.integers(0, 255))


def signed_ones():
    return st.builds(lambda position, seed: Signed(position, filled(seed, 64)), U32, st.integers(0, 255))


def opened_ones():
    return st.builds(lambda position, seed: Opened(position, filled(seed, 32)), U32, st.integers(0, 255))


LISTS = {
    f"{what} {'hybrid' if hybrid else 'classical'}": (records, read, place)
    for hybrid in (False, True)
    for what, records, read, place in (
        ("directory", adverts(hybrid), lambda r, hybrid=hybrid: Advert.read(r, hybrid), lambda a: a.position),
        ("shares", parcels(5, hybrid, False), bodies.shares_reader(5, hybrid), lambda p: p.peer),
        ("deliveries", parcels(5, hybrid, True), bodies.deliveries_reader(5, hybrid), lambda p: p.peer),
    )
} | {
    "consents": (signed_ones(), Signed.read, lambda s: s.position),
    "reveal": (opened_ones(), Opened.read, lambda o: o.position),
}
EACH_LIST = pytest.mark.parametrize("name", LISTS)


def read_whole(name, body, most=20):
    _, read, place = LISTS[name]
    reader = Reader(body)
    found = bodies.read_list(reader, read, place, most)
    reader.end()
    return found


def drawn_list(data, name, minimum=0):
    records, _, place = LISTS[name]
    return sorted(data.draw(st.lists(records, min_size=minimum, max_size=4, unique_by=place)), key=place)


@EACH_LIST
@given(st.data())
@settings(max_examples=25)
def test_a_list_is_read_as_it_was_written(name, data):
    records = drawn_list(data, name)
    assert read_whole(name, bodies.listing(records)) == tuple(records)


@EACH_LIST
@given(st.data())
@settings(max_examples=25)
def test_a_list_that_is_cut_lengthened_or_miscounted_is_refused(name, data):
    body = bodies.listing(drawn_list(data, name, 1))
    cut, count = data.draw(st.integers(0, len(body) - 1)), data.draw(U32)
    others = [body[:cut], body + data.draw(st.binary(min_size=1, max_size=200)), body[:cut] + body[cut + 1 :]]
    if count != int.from_bytes(body[:4], "big"):
        others.append(u32(count) + body[4:])
    for other in others:
        with pytest.raises(ProtocolAbort):
            read_whole(name, other)


@EACH_LIST
@given(st.data())
@settings(max_examples=25)
def test_positions_ascend_strictly(name, data):
    records = drawn_list(data, name, 1)
    twice = [*records, records[-1]]
    for other in (twice, [*reversed(twice)]):
        with pytest.raises(ProtocolAbort, match="ascending"):
            read_whole(name, bodies.listing(other))


def test_no_list_is_longer_than_it_may_be_and_no_count_makes_a_reader_wait():
    records = [Opened(position, bytes(32)) for position in range(5)]
    with pytest.raises(ProtocolAbort, match="at most 4"):
        read_whole("reveal", bodies.listing(records), most=4)
    with pytest.raises(ProtocolAbort, match="at most"):
        read_whole("reveal", u32(2**32 - 1), most=2**31)


@pytest.mark.parametrize("hybrid", [False, True])
@given(st.data())
@settings(max_examples=50)
def test_a_table_has_the_records_of_the_list_and_takes_no_other_list(hybrid, data):
    records = drawn_list(data, f"shares {'hybrid' if hybrid else 'classical'}")
    body, peers = bodies.listing(records), [parcel.peer for parcel in records]
    table = bodies.shares_table(5, body, peers, hybrid)
    for parcel in records:
        assert table.record(parcel.peer) == parcel.encode()
        kept = hybrid and parcel.peer > 5
        assert bodies.delivered(parcel.encode(), 5, kept) == parcel.delivered(5).encode()
    cut, place = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(0, 3))
    others = [body[:cut], body + b"\0", body[:place] + u8(body[place] ^ 1) + body[place + 1 :]]
    for other in others:
        with pytest.raises(ProtocolAbort):
            bodies.shares_table(5, other, peers, hybrid)
    asked = data.draw(st.lists(st.integers(0, 9), unique=True, max_size=5).map(sorted))
    if asked != peers:
        with pytest.raises(ProtocolAbort):
            bodies.shares_table(5, body, asked, hybrid)


@given(st.sampled_from(Kind), st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_a_frame_is_read_as_it_was_written(kind, context, body):
    assert wire.unframe(wire.frame(kind, context, body)) == (kind, context, body)


@given(st.binary(max_size=80))
def test_whatever_is_no_frame_is_refused(message):
    known = {kind.value for kind in Kind}
    for other in (message, b"MSA" + message, b"MSA\x01" + message):
        right = len(other) >= wire.HEAD and other[:4] == b"MSA\x01" and other[4] in known
        if not right:
            with pytest.raises(ProtocolAbort):
                wire.unframe(other)


def test_every_other_type_and_version_is_refused():
    known = {kind.value for kind in Kind}
    for number in set(range(256)) - known:
        with pytest.raises(ProtocolAbort, match="known type"):
            wire.unframe(b"MSA" + u8(1) + u8(number) + bytes(40))
    for version in set(range(256)) - {1}:
        with pytest.raises(ProtocolAbort, match="version"):
            wire.unframe(b"MSA" + u8(version) + u8(1) + bytes(40))


@given(st.integers(0, 70), st.data())
def test_a_bitmap_is_read_as_it_was_written_and_is_exact(count, data):
    positions = data.draw(st.frozensets(st.integers(0, count - 1)) if count else st.just(frozenset()))
    bits = bodies.bitmap(positions, count)
    assert bodies.read_bitmap(bits, count) == positions
    assert int.from_bytes(bits, "little") == sum(1 << position for position in positions)
    for other in (bits + b"\0", bits[:-1] if bits else b"\1"):
        with pytest.raises(ProtocolAbort, match="bytes"):
            bodies.read_bitmap(other, count)
    if count % 8:
        padded = bits[:-1] + u8(bits[-1] | 1 << data.draw(st.integers(count % 8, 7)))
        with pytest.raises(ProtocolAbort, match="padding"):
            bodies.read_bitmap(padded, count)


@given(st.text(max_size=600), st.binary(max_size=700))
def test_a_reason_is_text_of_at_most_500_bytes(reason, anything):
    written = wire.reason_bytes(reason)
    assert len(written) <= 500
    assert reason.startswith(wire.read_reason(written))
    assert isinstance(wire.read_reason(anything), str)


ANY_TERMS = st.builds(
    Terms,
    st.integers(1, 2**32 - 1),  # a call with a beacon asks somebody
    *(U32 for _ in range(3)),
    size=U64,
    bits=st.integers(0, 255),
    corrupt=U32,
    dropped=U32,
    suite=st.sampled_from([1, 2, 3]),
    adversary=st.sampled_from(["active", "curious"]),
)
HASHES = st.binary(min_size=32, max_size=32)
CALLS = st.builds(
    Call,
    terms=ANY_TERMS,
    study=HASHES,
    sum=st.text(max_size=60),
    round=U32,
    attempt=U32,
    roster_number=U64,
    roster_root=HASHES,
    model=HASHES,
    beacon=st.binary(max_size=255),
    beacon_kind=st.sampled_from(["server", "public"]),
)


@given(CALLS)
def test_a_call_is_read_as_it_was_written(call):
    assert Call.read(call.body) == call


@given(CALLS, st.data())
def test_a_call_that_is_cut_or_lengthened_is_refused(call, data):
    cut = data.draw(st.integers(0, len(call.body) - 1))
    for other in (call.body[:cut], call.body + b"\0"):
        with pytest.raises(ProtocolAbort):
            Call.read(other)


@given(CALLS, st.data())
@settings(max_examples=300)
def test_a_damaged_call_is_refused_or_is_another_call(call, data):
    """No field can be changed without the context changing with it."""
    body = bytearray(call.body)
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=3)):
        body[place] = data.draw(st.integers(0, 255))
    try:
        found = Call.read(bytes(body))
    except ProtocolAbort:
        return
    assert found.body == bytes(body)
    assert (found.context == call.context) == (bytes(body) == call.body)


@pytest.mark.parametrize(
    "change",
    [
        {"study": b"t" * 32},
        {"sum": "evaluate"},
        {"round": 2},
        {"attempt": 2},
        {"roster_number": 8},
        {"roster_root": b"q" * 32},
        {"model": b"n" * 32},
        {"beacon": b"other"},
        {"beacon_kind": "server"},
        {"terms": terms_of(8, 4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_agreed_on_is_in_the_context(change):
    call = Call(terms_of(8), b"s" * 32, "train", 1, 1, 7, b"r" * 32, b"m" * 32, b"beacon")
    assert replace(call, **change).context != call.context


def test_adverts_are_signed_whole():
    advert = Advert(3, *(filled(i, n) for i, n in enumerate((32, 32, 32, bodies.KEM_KEY, bodies.KEM_KEY, 64))))
    texts = {advert.signed_text(b"c" * 32), advert.signed_text(b"d" * 32)}
    for what in ("channel", "mask", "commitment", "channel_kem", "mask_kem"):
        texts.add(replace(advert, **{what: filled(99, len(getattr(advert, what)))}).signed_text(b"c" * 32))
    texts.add(replace(advert, position=4).signed_text(b"c" * 32))
    assert len(texts) == 8
    assert replace(advert, signature=bytes(64)).signed_text(b"c" * 32) in texts
