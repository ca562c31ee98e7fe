"""Messages damaged, replayed and invented on their way: no party raises, and the sum is right or there is none.

An upload is the exception: one masked vector is as good as another, so that whoever can replace it changes the sum, by exactly
the difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import SERVER, Envelope
from manent.crypto.identity import SigningKey
from manent.crypto.random import InsecureTestRNG
from manent.summation.parties import wire
from manent.summation.parties.call import Roster
from manent.summation.parties.cohort import draw_cohort
from manent.summation.parties.fields import u32
from manent.summation.parties.wire import Kind
from manent.summation.secagg import bodies, keys, ring
from manent.summation.secagg.bodies import Advert

from .attempts import Attempt, Network, terms_of, wrapped

CARRIED = [kind for kind in Kind if kind not in (Kind.ABORT, Kind.ASK)]
BY_CLIENTS = (Kind.ADVERTISE, Kind.SHARES, Kind.UPLOAD, Kind.CONSENT, Kind.REVEAL)


def bodies_of(network: Network) -> list[bytes]:
    return [envelope.body for envelope in network.sent]


@dataclass(frozen=True)
class Damage:
    """What is done to a message: `how`, at a place between 0 and 1 of its length, with some bytes."""

    how: str
    place: float
    data: bytes

    def of(self, message: bytes, others: list[bytes]) -> bytes:
        at = min(len(message) - 1, int(self.place * len(message)))
        other = others[int(self.place * len(others)) % len(others)] if others else message
        match self.how:
            case "flip":
                return message[:at] + bytes([message[at] ^ (1 << self.data[0] % 8)]) + message[at + 1 :]
            case "overwrite":
                return (message[:at] + self.data + message[at + len(self.data) :])[: len(message)]
            case "cut":
                return message[:at]
            case "append":
                return message + self.data
            case "insert":
                return message[:at] + self.data + message[at:]
            case "retype":
                return message[:4] + self.data[:1] + message[5:]
            case "recount":
                return message[: wire.HEAD] + u32(self.data[0]) + message[wire.HEAD + 4 :]
            case "replay":
                return other
            case "splice":
                return message[:at] + other[at:]
            case "another's body":
                return message[: wire.HEAD] + other[wire.HEAD :]
        return self.data  # "invent"


HOW = [
    "flip",
    "flip",
    "overwrite",
    "cut",
    "append",
    "insert",
    "retype",
    "recount",
    "replay",
    "splice",
    "another's body",
    "invent",
]
DAMAGES = st.builds(Damage, st.sampled_from(HOW), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=80))
TERMS = [
    terms_of(clients, degree, threshold, suite=suite, adversary=adversary)
    for adversary in ("active", "curious")
    for suite in (1, 3)
    for clients, degree, threshold in ((5, 4, 4 if adversary == "active" else 3), (7, 4, 4))
]


def damaged_run(attempt, kind, which, damage, mode, order):
    """Runs an attempt in which one message of a kind arrives damaged: instead of it, before it, or after it."""
    seen, changed = 0, []

    def change(envelope):
        nonlocal seen
        if envelope.body[4] != kind:
            return [envelope]
        seen += 1
        if seen - 1 != which:
            return [envelope]
        other = replace(envelope, body=damage.of(envelope.body, bodies_of(network)))
        changed.append((envelope, other))
        return {"instead": [other], "before": [other, envelope], "after": [envelope, other]}[mode]

    network = Network(attempt, order, change=change)
    network.run()
    return network, changed


def uploaded_difference(attempt, changed):
    """By how much a changed upload that the server took in changes the sum."""
    envelope, other = changed[0]
    if envelope.body[4] != Kind.UPLOAD or other.body[: wire.HEAD] != envelope.body[: wire.HEAD]:
        return 0
    try:
        new = ring.unpack(bodies.split_upload(other.body[wire.HEAD :])[0], attempt.terms.size, attempt.terms.bits)
    except ProtocolAbort:
        return 0
    old = ring.unpack(bodies.split_upload(envelope.body[wire.HEAD :])[0], attempt.terms.size, attempt.terms.bits)
    return new.astype(object) - old.astype(object)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(TERMS),
    st.sampled_from(CARRIED),
    st.integers(0, 6),
    DAMAGES,
    st.sampled_from(["instead", "before", "after"]),
    st.none() | st.integers(0, 2**32),
)
# A ciphertext to a neighbour, who finds it out and leaves: the server must not take the mask of the pair off by it.
@example(TERMS[2], Kind.SHARES, 0, Damage("flip", 0.5, b"\x00"), "instead", 0)
@example(TERMS[3], Kind.SHARES, 0, Damage("flip", 0.5, b"\x00"), "instead", None)
def test_one_damaged_message_never_makes_a_wrong_sum(terms, kind, which, damage, mode, seed):
    attempt = Attempt(terms, 5)
    network, changed = damaged_run(attempt, kind, which, damage, mode, None if seed is None else np.random.default_rng(seed))
    event(f"{kind.name} {'as it was' if not changed or changed[0][0] == changed[0][1] else attempt.server.phase}")
    if attempt.server.phase == "aborted":
        assert attempt.server.reason
        return
    total = attempt.vectors[attempt.survivors].astype(object).sum(0)
    one_of = [total] if not changed else [total, total + uploaded_difference(attempt, changed)]
    assert any(np.array_equal(attempt.server.total, wrapped(each, terms.bits)) for each in one_of)
    assert set(attempt.survivors) <= network.uploaded


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TERMS), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), DAMAGES), max_size=30), st.integers(0, 2**32)
)
def test_whatever_a_party_is_sent_it_raises_nothing_and_a_noted_message_changes_nothing(terms, noise, seed):
    """A party in the middle of an attempt, and messages of all kinds from everybody, true ones and damaged ones mixed."""
    attempt = Attempt(terms, 6)
    network = Network(attempt).run()
    rng = np.random.default_rng(seed)
    bodies = bodies_of(network)
    server = attempt.new_server(network.logs[SERVER][: int(rng.integers(len(network.logs[SERVER])))])
    name = attempt.clients[0].name
    log = network.logs[name]
    client = attempt.client(0, log[: int(rng.integers(len(log) + 1))], seed=1)
    for place, damage in noise:
        message = damage.of(bodies[int(place * len(bodies))], bodies)
        for sender in (name, "nobody"):
            phase, records = server.phase, len(server.notes)
            step = server.receive(Envelope(sender, SERVER, message))
            assert step.keep or server.phase == phase
            assert step.keep or step.send or len(server.notes) > records
        stage = client.stage
        step = client.receive(Envelope(SERVER, name, message))
        assert step.keep or client.stage == stage


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_bytes_from_nowhere_are_refused_by_both(message):
    attempt = Attempt(TERMS[0], 7)
    framed = wire.frame(Kind.ADVERTISE, attempt.call.context, message)
    for body in (message, framed):
        assert not attempt.server.receive(Envelope(attempt.clients[0].name, SERVER, body)).keep
        assert not attempt.clients[0].receive(Envelope(SERVER, attempt.clients[0].name, body)).keep
    assert attempt.clients[0].stage == "waiting"
    assert attempt.server.phase == "advertise"


def test_nobody_speaks_for_another_or_for_another_attempt():
    attempt = Attempt(terms_of(5))
    other = Attempt(terms_of(5), attempt=2)
    calls, answers = {}, {}
    for each in (attempt, other):
        calls[each] = each.server.start().send
        answers[each] = [each.clients[p].receive(calls[each][p]).send[0] for p in range(5)]
    stranger = replace(answers[attempt][1], sender=attempt.clients[0].name)
    for envelope in (stranger, replace(stranger, sender="ff" * 32), answers[other][0], replace(answers[attempt][0], sender="")):
        assert not attempt.server.receive(envelope).keep
    assert [note for note in attempt.server.notes if "another's name" in note]
    assert [note for note in attempt.server.notes if "another attempt" in note]
    assert attempt.server.receive(answers[attempt][0]).keep


@pytest.mark.parametrize("low_order", [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")])
@pytest.mark.parametrize("which", ["channel", "mask"])
@pytest.mark.parametrize("early", [True, False])
def test_a_key_of_low_order_ends_the_part_of_those_who_are_sent_it(low_order, which, early):
    """A corrupt client signs it. Its secret would be known to all; nobody raises, and nobody uploads under it."""
    attempt = Attempt(terms_of(5))

    def change(envelope):
        if envelope.body[4] != Kind.ADVERTISE or envelope.sender != attempt.clients[2].name:
            return [envelope]
        advert = Advert.read(wire.Reader(envelope.body[wire.HEAD :]), False)
        bad = replace(advert, **{which: low_order})
        signed = replace(bad, signature=attempt.identities[2].sign(bad.signed_text(attempt.call.context)))
        return [replace(envelope, body=envelope.body[: wire.HEAD] + signed.encode())]

    network = Network(attempt, None if early else np.random.default_rng(1), change=change).run()
    assert attempt.server.phase == "aborted"
    assert not network.uploaded - {2}
    for position in (0, 1, 3, 4):
        assert attempt.clients[position].stage in ("aborted", "closed")
        assert any("low order" in reason for reason in attempt.clients[position].refusals)


def test_wrong_shares_and_seeds_are_worked_around_or_end_the_attempt():
    """Of 7 clients one has vanished and `liars` open other shares than they were given; 5 right ones are needed."""
    for liars, sums in ((0, True), (1, True), (2, False)):
        attempt = Attempt(terms_of(7, threshold=5), 8)

        def change(envelope, attempt=attempt, liars=liars):
            wrong = envelope.body[4] == Kind.REVEAL and envelope.sender in [attempt.clients[p].name for p in range(liars)]
            body = envelope.body[: wire.HEAD] + bytes(32) + envelope.body[wire.HEAD + 32 : wire.HEAD + 36]
            rest = envelope.body[wire.HEAD + 36 :]
            opened = b"".join(rest[i : i + 4] + bytes(31) + b"\x05" for i in range(0, len(rest), 36))
            return [replace(envelope, body=body + opened) if wrong else envelope]

        Network(attempt, silent={6: Kind.UPLOAD}, change=change).run()
        assert attempt.right_or_aborted() is sums
        assert sums or "too many are wrong" in attempt.server.reason


def test_what_a_client_is_given_is_checked():
    client = Attempt(terms_of(5)).clients[0]
    for vector in (np.zeros(4, np.int64), np.zeros(5), np.zeros((5, 1), np.int64), np.zeros(5, np.int32)):
        with pytest.raises(InvalidInput, match="Expected int64"):
            client.contribute(vector)
    client.contribute(np.zeros(5, np.int64))
    with pytest.raises(InvalidInput, match="summed once"):
        client.contribute(np.zeros(5, np.int64))


def test_terms_that_keep_nothing_are_never_answered():
    """Whatever its own study says, a client answers no terms weaker than they declare."""
    right = terms_of(10, corrupt=100_000)
    assert right.threshold == 6
    weaker = ({"threshold": 5}, {"threshold": 10}, {"minimum": 4}, {"bits": 0}, {"bits": 64}, {"degree": 5}, {"degree": 4})
    for changes in (*weaker, {"corrupt": 900_000}, {"clients": 2, "degree": 1}):
        attempt = Attempt(replace(right, **changes))
        for client, envelope in zip(attempt.clients, attempt.server.start().send, strict=True):
            step = client.receive(envelope)
            assert not step.keep
            assert [Kind(e.body[4]) for e in step.send] == [Kind.ABORT]
            assert client.stage == "waiting"


def test_identities_outside_the_cohort_have_no_part():
    attempt = Attempt(terms_of(5), spare=3)
    [call] = {envelope.body for envelope in attempt.server.start().send}
    roster, outsider = attempt.roster, attempt.outsiders[0]
    assert len(draw_cohort(8, attempt.call.seed, 5)) == 5
    attempt.identities.append(outsider)
    client = attempt.client(5)
    assert not client.receive(Envelope(SERVER, client.name, call)).keep
    assert "not in the cohort" in client.refusals[0]
    stranger = SigningKey.generate(InsecureTestRNG(1))
    other = Roster.of(roster.number, [*roster.identities, stranger.public])
    assert other.root != roster.root


def test_a_vanished_client_whose_keys_are_not_its_roots_ends_the_attempt():
    """A corrupt one advertises an ML-KEM key of another root, and leaves: what its masks were can not be told from its root."""
    attempt = Attempt(terms_of(5, threshold=4, suite=3), 9)
    stray = keys.encapsulation_key(b"r" * 32, "mask", attempt.call.context)

    def change(envelope):
        if envelope.body[4] != Kind.ADVERTISE or envelope.sender != attempt.clients[2].name:
            return [envelope]
        bad = replace(Advert.read(wire.Reader(envelope.body[wire.HEAD :]), True), mask_kem=stray.public)
        signed = replace(bad, signature=attempt.identities[2].sign(bad.signed_text(attempt.call.context)))
        return [replace(envelope, body=envelope.body[: wire.HEAD] + signed.encode())]

    network = Network(attempt, silent={2: Kind.UPLOAD}, change=change).run()
    assert network.uploaded == {0, 1, 3, 4}
    assert not attempt.right_or_aborted()


def test_a_client_that_left_an_earlier_attempt_is_still_expected_in_the_next():
    """Its farewell may come late: it names the attempt that it is about."""
    attempt = Attempt(terms_of(5), attempt=2)
    call = attempt.server.start().send[0]
    stale = Envelope(attempt.clients[0].name, SERVER, wire.frame(Kind.ABORT, b"c" * 32, b"no more"))
    assert not attempt.server.receive(stale).keep
    for client in attempt.clients[1:]:
        attempt.server.receive(client.receive(replace(call, recipient=client.name)).send[0])
    assert attempt.server.phase == "advertise"
    assert attempt.server.receive(replace(stale, body=wire.frame(Kind.ABORT, attempt.call.context, b"no more"))).keep
    assert attempt.server.phase == "share"


def test_a_client_that_refuses_a_call_tells_that_attempt():
    attempt = Attempt(terms_of(5))
    attempt.expected = replace(attempt.expected, model=b"n" * 32)
    attempt.clients[0] = attempt.client(0)
    [refusal] = attempt.clients[0].receive(attempt.server.start().send[0]).send
    assert attempt.server.receive(refusal).keep
    assert "another model" in attempt.server.notes[0]
    assert attempt.clients[0].stage == "waiting"
