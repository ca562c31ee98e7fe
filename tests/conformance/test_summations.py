"""Every summation, one row each."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import manent as mn
from manent.core.layers import Form
from manent.core.parties import SERVER, Envelope, StoredMessage, SumRef
from manent.core.protocols import Occasion, SummationTraits, traits
from manent.core.sums import Partial
from manent.core.vectors import Block, Entry, Layout
from manent.crypto import SystemRandom
from manent.crypto.identity import SigningKey
from manent.summation.parties import wire
from manent.summation.parties.call import Roster
from manent.summation.parties.stored import referenced

LARGEST = 1000
SUMMATIONS = {
    "Plain": mn.Plain(),
    "SecAgg": mn.SecAgg(minimum_cohort=3),
    "SecAgg, curious": mn.SecAgg(minimum_cohort=3, adversary="curious", post_quantum=False),
    "SecAgg, modelled": mn.SecAgg(minimum_cohort=3, modelled=True),
}
EACH = pytest.mark.parametrize("summation", SUMMATIONS.values(), ids=list(SUMMATIONS))


def form_of(size: int, grid: float | None = 1.0) -> Form:
    layout = Layout((Block("v", (Entry("v", (size,)),)),))
    return Form(layout, grid, largest=LARGEST if grid else None)


def occasion_of(summation, size, count, vanish=None, grid=1.0) -> Occasion:
    fates = (None,) * count if vanish is None else tuple(vanish)
    return Occasion(b"s" * 32, "train", 1, b"m" * 32, form_of(size, grid), count, summation.minimum(count), fates)


def vectors_of(count: int, size: int) -> np.ndarray:
    """At the bound in the first number."""
    vectors = np.random.default_rng(count).integers(-LARGEST, LARGEST + 1, (count, size))
    vectors[:, :1] = LARGEST
    return vectors


@EACH
@settings(max_examples=30, deadline=None)
@given(st.integers(3, 14), st.sampled_from([0, 1, 3, 50]), st.data())
def test_the_sum_is_that_of_those_who_answered_in_any_order_or_there_is_none(summation, count, size, data):
    fates = st.sampled_from([None, None, None, None, "before_training", "before_upload", "after_upload"])
    vanish = data.draw(st.lists(fates, min_size=count, max_size=count))
    order = data.draw(st.permutations(range(count)))
    answered = np.array([fate in (None, "after_upload") for fate in vanish])
    assume(answered.any())
    vectors = vectors_of(count, size)
    total = summation.init(occasion_of(summation, size, count, vanish))
    for position in order:
        if answered[position]:
            total.add(position, vectors[position])
        else:
            total.skip(position)
    try:
        found = total.finish()
    except mn.ProtocolAbort as error:
        assert len(str(error)) > 10  # noqa: PT017
        assert any(vanish)
        return
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, vectors[answered].sum(0))


@EACH
@pytest.mark.parametrize("missing", ["before_training", "before_upload", "after_upload"])
def test_a_few_that_vanish_stop_no_sum(summation, missing):
    vanish = [missing if position in (2, 8) else None for position in range(10)]
    vectors, total = vectors_of(10, 7), summation.init(occasion_of(summation, 7, 10, vanish))
    there = [p for p in range(10) if vanish[p] in (None, "after_upload")]
    for position in range(10):
        total.merge(Partial(0, position, vectors[position].copy() if position in there else None))
    np.testing.assert_array_equal(total.finish(), vectors[there].sum(0))


@EACH
def test_a_term_is_summed_once(summation):
    total = summation.init(occasion_of(summation, 2, 5))
    total.add(1, np.ones(2, np.int64))
    total.skip(2)
    for position in (1, 2):
        with pytest.raises(mn.ProtocolAbort, match="twice"):
            total.add(position, np.ones(2, np.int64))
        with pytest.raises(mn.ProtocolAbort, match="twice"):
            total.skip(position)


@EACH
def test_all_are_accounted_for(summation):
    total = summation.init(occasion_of(summation, 2, 5))
    for position in range(4):
        total.add(position, np.ones(2, np.int64))
    with pytest.raises(mn.ProtocolAbort, match="4 of 5"):
        total.finish()
    for outside in (-1, 5):
        with pytest.raises(mn.InvalidInput, match="outside a cohort of 5"):
            total.skip(outside)
    with pytest.raises(mn.InvalidInput):
        total.add(4, np.ones(3, np.int64))


@EACH
def test_it_says_what_the_server_sees_and_what_that_rests_on(summation):
    assert summation.seen_by("server").view in ("every client's vector", "the sum alone")
    lines = summation.explain(form_of(3), 20, 10)
    assert (summation.seen_by("server").view == "the sum alone") == bool(lines)
    assert all(isinstance(line, str) and line for line in lines)


@EACH
def test_a_number_on_its_way_has_room_for_what_is_summed(summation):
    one, bits = 2 * LARGEST + 1, summation.bits(form_of(3), 20)
    assert 2**bits >= (one if summation.together and summation.seen_by("server").view != "the sum alone" else 20 * one)


@pytest.mark.parametrize("name", [name for name, row in SUMMATIONS.items() if row.seen_by("server").view == "the sum alone"])
def test_where_vectors_are_hidden_real_numbers_and_small_cohorts_are_refused(name):
    summation = SUMMATIONS[name]
    with pytest.raises(mn.Refused, match="whole numbers"):
        summation.bits(form_of(3, None), 10)
    with pytest.raises(mn.Refused, match="minimum of 3"):
        summation.minimum(2)
    assert 3 <= summation.minimum(10) <= 10


def test_plain_sums_real_numbers_too():
    total = mn.Plain().init(occasion_of(mn.Plain(), 2, 3, grid=None))
    for position in range(3):
        total.add(position, np.full(2, 0.5, np.float32))
    np.testing.assert_array_equal(total.finish(), np.full(2, 1.5))


# Over a network: the parties that a summation's own factory makes.

REF = SumRef(b"s" * 32, "train.0", 1, b"m" * 32)


class Meeting:
    """A server and its clients in one attempt, made by the factory alone; with `stored`, uploads come through a store."""

    def __init__(self, summation, size: int, count: int, minimum: int = 3, stored: bool = False) -> None:
        self.network = traits(summation, SummationTraits).network
        random, self.stored = SystemRandom(), stored
        keys = [SigningKey.generate(random) for _ in range(count)]
        self.roster = Roster.of(7, [key.public for key in keys])
        terms = self.network.terms(form_of(size), count, minimum, count)
        self.call = self.network.call(terms, REF, 1, self.roster, b"b" * 32)
        self.blobs: dict[bytes, bytes] = {}
        self.log: list[bytes] = []
        self.server = self.rebuilt()
        made = [self.network.client(terms, REF, key, self.roster, random, ()) for key in keys]
        self.clients = {client.name: client for client in made}
        self.sent = dict.fromkeys(self.clients, 0)
        self.longest = 0  # bytes of an upload

    def rebuilt(self):
        return self.network.server(self.call, self.roster, self.log, lambda digest, a, b: self.blobs[digest][a:b])

    def deliver(self, envelope: Envelope) -> None:
        if envelope.recipient != SERVER:
            step = self.clients[envelope.recipient].receive(envelope)
        else:
            self.sent[envelope.sender] += 1
            kind, _ = wire.head(envelope.body)
            self.longest = max(self.longest, len(envelope.body) if kind is wire.Kind.UPLOAD else 0)
            step = self.take(envelope, kind is wire.Kind.UPLOAD and self.stored)
            self.log += step.keep
        for answer in step.send:
            self.deliver(answer)

    def take(self, envelope: Envelope, stored: bool):
        if not stored:
            return self.server.receive(envelope)
        body, digest = envelope.body, sha256(envelope.body).digest()
        self.blobs[digest] = body
        message = StoredMessage(
            digest, len(body), lambda a, b, piece: iter([body[i : min(i + piece, b)] for i in range(a, b, piece)])
        )
        return self.server.receive_stored(envelope.sender, message, self.call.examine(message))

    def run(self, vectors) -> None:
        """Everyone answers."""
        for envelope in self.server.start().send:
            self.deliver(envelope)
        for client, vector in zip(self.clients.values(), vectors, strict=True):
            assert client.needs_vector and client.awaits_vector  # noqa: PT018
            for envelope in client.contribute(vector).send:
                self.deliver(envelope)


@EACH
@pytest.mark.parametrize("stored", [False, True], ids=["sent", "stored"])
def test_the_parties_of_its_factory_form_the_sum_and_are_rebuilt_from_their_log(summation, stored):
    vectors = vectors_of(6, 9)
    meeting = Meeting(summation, 9, 6, stored=stored)
    assert meeting.server.phase == meeting.call.first_phase
    meeting.run(vectors)
    for server in (meeting.server, meeting.rebuilt()):
        assert (server.phase, server.reason, server.uploads) == ("done", "", 6)
        assert sorted(server.survivors) == sorted(meeting.roster.identities)
        np.testing.assert_array_equal(server.total, vectors.sum(0))
        np.testing.assert_array_equal(np.asarray(server.parted[2:5]), vectors.sum(0)[2:5])
    assert set(meeting.sent.values()) == {meeting.network.messages}
    for client in meeting.clients.values():
        assert client.finished
        assert (client.refusals, client.uploaded_in) == ([], 1)
        assert client.survivors in (6, None)
    named = {found[0] for record in meeting.log if (found := referenced(record)) is not None}
    assert named == (set(meeting.blobs) if meeting.call.stores_uploads else set())


@EACH
@pytest.mark.parametrize("size", [1, 9, 1000])
def test_an_upload_is_no_longer_than_the_call_says(summation, size):
    """Servers refuse whatever is longer, so an upload in parts would never be whole."""
    meeting = Meeting(summation, size, 6)
    meeting.run(vectors_of(6, size))
    assert 0 < meeting.longest <= meeting.call.largest_upload


@EACH
def test_its_factory_reads_the_calls_that_it_makes_and_no_others(summation):
    meeting = Meeting(summation, 9, 6)
    call = meeting.network.read_call(meeting.call.body)
    assert (call, call.context) == (meeting.call, meeting.call.context)
    assert call.cohort(meeting.roster) == meeting.server.cohort
    for body in (b"", call.body[:-1], call.body + b"x"):
        with pytest.raises(mn.ProtocolAbort):
            meeting.network.read_call(body)
    with pytest.raises(mn.ProtocolAbort, match="another roster"):
        call.cohort(Roster(8, meeting.roster.identities))


@EACH
def test_a_client_goes_along_with_no_other_sum(summation):
    meeting = Meeting(summation, 9, 6)
    other = SumRef(REF.study, REF.sum, REF.round, b"n" * 32)
    call = meeting.network.call(meeting.call.terms, other, 1, meeting.roster, b"b" * 32)
    client = next(iter(meeting.clients.values()))
    client.receive(Envelope(SERVER, client.name, wire.frame(wire.Kind.CALL, call.context, call.body)))
    assert "another model" in client.refusals[0]
    assert not client.awaits_vector


@EACH
def test_what_is_hidden_says_what_its_masks_withstand(summation):
    found = traits(summation, SummationTraits)
    assert (found.hiding is None) == (summation.seen_by("server").view == "every client's vector")
    assert found.output == "sum"
    found.network.check()


def test_a_summation_that_declares_nothing_gives_a_sum_hides_nothing_and_has_no_parties():
    assert traits(object(), SummationTraits) == SummationTraits("sum", None, None)


def test_a_public_beacon_is_not_for_a_network_yet():
    with pytest.raises(mn.Refused, match="not looked up yet"):
        mn.SecAgg(beacon="public").network.check()
