"""Whatever happens on the way, the sum is the survivors' sum bit for bit, or there is none and a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from manent.core.errors import ProtocolAbort
from manent.core.layers import Form
from manent.core.protocols import Occasion
from manent.core.vectors import Block, Entry, Layout
from manent.crypto.random import InsecureTestRNG
from manent.summation.parties.wire import Kind
from manent.summation.secagg import graph
from manent.summation.secagg.simulated import ModelledSum, ProtocolSum

from .attempts import ANSWERS, Attempt, Network, least_threshold, terms_of, wrapped

BITS = st.integers(1, 63) | st.sampled_from([1, 15, 16, 17, 31, 32, 33, 63])
SIZES = st.sampled_from([0, 1, 2, 5, 17, 64, 257])


@st.composite
def any_terms(draw, complete=None, sizes=SIZES):
    """Terms that clients accept, of 3 to 14 clients."""
    adversary = draw(st.sampled_from(["active", "curious"]))
    clients = draw(st.integers(3, 14))
    degrees = [k for k in range(2, clients - 2, 2) if least_threshold(clients, k, adversary)]
    whole = not degrees or complete is True or (complete is None and draw(st.booleans()))
    degree = clients - 1 if whole else draw(st.sampled_from(degrees))
    threshold = draw(st.integers(least_threshold(clients, degree, adversary), degree))
    given = {"minimum": draw(st.integers(threshold, clients)), "suite": draw(st.sampled_from([1, 1, 2, 2, 3]))}
    return terms_of(clients, degree, threshold, adversary=adversary, bits=draw(BITS), size=draw(sizes), **given)


def fates(clients):
    """By position, the first message that a client does not send any more: most send all."""
    return few_fates(clients) | st.dictionaries(st.integers(0, clients - 1), st.sampled_from(ANSWERS), max_size=clients)


def few_fates(clients):
    return st.dictionaries(st.integers(0, clients - 1), st.sampled_from(ANSWERS), max_size=max(1, clients // 5))


def succeeds(terms, silent) -> bool:
    """Whether a complete graph has answers enough, counted by hand."""

    def sending(kind):
        return sum(silent.get(position, kind + 1) > kind for position in range(terms.clients))

    enough = sending(Kind.UPLOAD) >= terms.minimum and sending(Kind.REVEAL) >= terms.threshold
    return enough and (terms.adversary == "curious" or sending(Kind.CONSENT) >= terms.threshold)


@settings(max_examples=120, deadline=None)
@given(any_terms(), st.data(), st.integers(0, 2**32))
def test_the_sum_is_the_survivors_sum_whoever_vanishes_when_and_in_whatever_order(terms, data, seed):
    silent = data.draw(fates(terms.clients))
    duplicates = data.draw(st.sampled_from([0.0, 0.3]))
    attempt = Attempt(terms, seed, threads=data.draw(st.sampled_from([1, 2, 4])))
    network = Network(attempt, np.random.default_rng(seed), silent, duplicates=duplicates).run()
    done = attempt.right_or_aborted()
    event(f"{terms.adversary} {'complete' if terms.degree == terms.clients - 1 else 'regular'} {attempt.server.phase}")
    if done:
        assert set(attempt.survivors) == network.uploaded
    if terms.degree == terms.clients - 1:
        assert done == succeeds(terms, silent), attempt.server.reason


@settings(max_examples=30, deadline=None)
@given(any_terms(), st.data(), st.integers(0, 2**32))
def test_lost_repeated_and_late_messages_and_restarts_change_no_sum(terms, data, seed):
    chance = st.sampled_from([0.0, 0.1, 0.3])
    weather = {what: data.draw(chance) for what in ("duplicates", "loses", "restarts")}
    late = data.draw(st.frozensets(st.integers(0, terms.clients - 1), max_size=1))
    attempt = Attempt(terms, seed)
    network = Network(attempt, np.random.default_rng(seed), data.draw(few_fates(terms.clients)), late, **weather).run()
    if attempt.right_or_aborted():
        assert set(attempt.survivors) <= network.uploaded
    event(attempt.server.phase)


@settings(max_examples=20, deadline=None)
@given(any_terms(sizes=st.just(33)), st.data(), st.integers(0, 2**32))
def test_order_repetition_and_threads_give_the_same_bits(terms, data, seed):
    silent, found = data.draw(fates(terms.clients)), []
    for threads in (1, 2, 4):
        attempt = Attempt(terms, seed, threads=threads)
        order = None if threads == 1 else np.random.default_rng([seed, threads])
        Network(attempt, order, silent, duplicates=0.2).run()
        found.append(
            (attempt.server.phase, attempt.survivors, attempt.server.total.tobytes() if attempt.right_or_aborted() else b"")
        )
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("bits", [1, 8, 16, 17, 32, 33, 62, 63])
@pytest.mark.parametrize("size", [0, 1, 4099])
def test_the_largest_vectors_sum_up_without_wrapping(bits, size):
    clients = 7
    attempt = Attempt(terms_of(clients, bits=bits, size=size, suite=2 if size else 1), bits)
    most = (2 ** (bits - 1) - 1) // clients
    attempt.vectors = (
        np.where(np.random.default_rng(bits).random((1, size)) < 0.5, most, -most).repeat(clients, 0).astype(np.int64)
    )
    Network(attempt, silent={0: Kind.UPLOAD}).run()
    assert attempt.right_or_aborted()
    np.testing.assert_array_equal(attempt.server.total, (clients - 1) * attempt.vectors[1])


@pytest.mark.parametrize("adversary", ["active", "curious"])
@pytest.mark.parametrize("suite", [1, 2, 3])
@pytest.mark.parametrize("degree", [4, 9])
@pytest.mark.parametrize("stage", ANSWERS)
def test_a_client_may_vanish_before_each_of_its_messages(adversary, suite, degree, stage):
    threshold = least_threshold(10, degree, adversary) if degree == 9 or adversary == "active" else 3
    attempt = Attempt(terms_of(10, degree, threshold, adversary=adversary, suite=suite, size=100, minimum=6), 1)
    Network(attempt, silent={4: stage}).run()
    needs_all = adversary == "active" and degree == 4 and stage is not None
    if needs_all and attempt.server.phase == "aborted":
        assert threshold == 4, "a neighbour too few is what it aborts for"
        return
    assert attempt.right_or_aborted()
    assert attempt.survivors == [p for p in range(10) if p != 4 or stage > Kind.UPLOAD]


def test_as_many_as_the_threshold_are_enough_from_the_first_message_on():
    """n - t clients of a complete graph never say a word: t are left, each with t - 1 neighbours."""
    for adversary in ("active", "curious"):
        terms = terms_of(9, threshold=6, adversary=adversary)
        attempt = Attempt(terms, 3)
        Network(attempt, silent={0: Kind.ADVERTISE, 4: Kind.ADVERTISE, 8: Kind.ADVERTISE}).run()
        assert attempt.right_or_aborted(), attempt.server.reason
        assert attempt.survivors == [1, 2, 3, 5, 6, 7]


def test_a_client_drops_every_secret_once_the_sum_is_closed():
    """What it holds after a whole attempt: neither its own secrets, nor masks, nor the shares of others."""
    attempt = Attempt(terms_of(5))
    Network(attempt).run()
    assert attempt.right_or_aborted()
    for client in attempt.clients:
        now = client._now
        assert now is not None
        assert not any((now.root, now.own_seed, now.channel_secret, now.mask_secrets, now.mask_keys, now.shares))


@pytest.mark.parametrize(("phase", "kind"), [*zip(("advertise", "share", "upload", "consent", "reveal"), ANSWERS, strict=True)])
def test_one_answer_fewer_than_the_minimum_ends_the_attempt_in_its_phase(phase, kind):
    attempt = Attempt(terms_of(9, threshold=6), 3)
    Network(attempt, silent=dict.fromkeys((0, 3, 4, 8), kind)).run()
    assert not attempt.right_or_aborted()
    assert attempt.server.reason == f"5 of 9 clients answered to {phase!r}; at least 6 are needed."


@pytest.mark.parametrize("kind", [*ANSWERS, Kind.DIRECTORY, Kind.DELIVERIES, Kind.SURVIVORS, Kind.CONSENTS, Kind.CLOSED])
def test_a_repeated_message_starts_no_endless_exchange(kind):
    """An echo would be sent on and on: each repetition has to be answered with less than it was."""
    attempt = Attempt(terms_of(5))

    def twice(envelope):
        return [envelope, envelope] if envelope.body[4] == kind else [envelope]

    network = Network(attempt, change=twice).run()
    assert attempt.right_or_aborted()
    assert len(network.sent) < 150


# The model in a simulation.


@dataclass(frozen=True)
class Simulated:
    """A sum in a simulation, by the protocol and by its model."""

    terms: object
    occasion: Occasion
    vectors: np.ndarray
    seed: int

    def run(self, total):
        for position, fate in enumerate(self.occasion.vanish):
            if fate in ("before_training", "before_upload"):
                total.skip(position)
            else:
                total.add(position, self.vectors[position])
        try:
            return total.finish()
        except ProtocolAbort:
            return None

    def both(self):
        """The model is told who stands where in the protocol's graph, which follows from keys drawn there."""
        real = ProtocolSum(self.terms, self.occasion, "public", InsecureTestRNG(self.seed), 2)
        names = [client.identity.public for client in real._clients]
        order = [names.index(public) for public in real._server.cohort]
        found = self.run(real)
        arranged = replace(self.occasion, vanish=tuple(self.occasion.vanish[i] for i in order))
        model = Simulated(self.terms, arranged, self.vectors[order], self.seed)
        return found, model.run(ModelledSum(self.terms, arranged))


def occasion_of(terms, vanish) -> Occasion:
    form = Form(Layout((Block("v", (Entry("v", (terms.size,)),)),)), grid=1.0, largest=1.0)
    return Occasion(b"s" * 32, "train", 1, b"m" * 32, form, terms.clients, 1, tuple(vanish))


@settings(max_examples=120, deadline=None)
@given(any_terms(sizes=st.sampled_from([0, 3])), st.data(), st.integers(0, 2**32))
def test_the_model_forms_the_protocols_sum_and_aborts_where_it_does(terms, data, seed):
    often = data.draw(st.sampled_from([1, 4, 12]))
    some = st.sampled_from([*[None] * often, "before_training", "before_upload", "after_upload"])
    vanish = data.draw(st.lists(some, min_size=terms.clients, max_size=terms.clients))
    most = max(1, (2 ** (terms.bits - 1) - 1) // terms.clients)
    vectors = np.random.default_rng(seed).integers(-most, most + 1, (terms.clients, terms.size))
    found, modelled = Simulated(terms, occasion_of(terms, vanish), vectors, seed).both()
    event(f"{'complete' if terms.degree == terms.clients - 1 else 'regular'} {'aborts' if found is None else 'sums'}")
    assert (found is None) == (modelled is None)
    if found is not None:
        np.testing.assert_array_equal(found, modelled)
        there = [p for p, fate in enumerate(vanish) if fate in (None, "after_upload")]
        np.testing.assert_array_equal(found, wrapped(vectors[there].astype(object).sum(0), terms.bits))


def test_a_client_without_neighbours_enough_is_not_left_out_in_silence():
    """A run of drop-outs cuts a client off; its vector was given, so a sum without it would be a wrong one."""
    terms = terms_of(12, 4, 3, adversary="curious", minimum=5, size=2)
    assert graph.neighbours(0, 12, 4) == (1, 2, 10, 11)
    vanish = ["before_training" if p in (1, 2, 11) else None for p in range(12)]
    for seed in range(3):
        found, modelled = Simulated(terms, occasion_of(terms, vanish), np.ones((12, 2), np.int64), seed).both()
        assert (found is None) == (modelled is None)
        if found is not None:
            np.testing.assert_array_equal(found, [9, 9])


# Rebuilding.


@pytest.mark.parametrize("suite", [1, 3])
@pytest.mark.parametrize("adversary", ["active", "curious"])
def test_rebuilt_at_every_point_a_party_says_the_same_and_goes_on(suite, adversary):
    """Before every message its recipient dies and is rebuilt from its records, with other randomness than it had."""
    attempt = Attempt(terms_of(5, adversary=adversary, suite=suite), 2)
    network = Network(attempt, np.random.default_rng(0), {3: Kind.UPLOAD, 1: Kind.REVEAL})
    deliver, lives = network._deliver, 0

    def reborn(envelope):
        nonlocal lives
        lives += 1
        for position, client in enumerate(attempt.clients):
            again = attempt.client(position, network.logs.get(client.name, ()), seed=lives)
            assert (again.stage, again.finished, again.uploaded_in) == (client.stage, client.finished, client.uploaded_in)
            assert again.deadline() == client.deadline()
            attempt.clients[position] = again
            network._give(position, only=("delivered",))
        attempt.server, old = attempt.new_server(network.logs["server"]), attempt.server
        assert (attempt.server.phase, attempt.server.survivors) == (old.phase, old.survivors)
        assert [attempt.server._message(p) for p in range(5)] == [old._message(p) for p in range(5)]
        deliver(envelope)

    network._deliver = reborn
    network.run()
    assert attempt.right_or_aborted()
    assert attempt.survivors == [0, 1, 2, 4]


def test_whatever_is_repeated_to_a_rebuilt_client_is_answered_with_the_same_bytes():
    attempt = Attempt(terms_of(5, suite=3), 4)
    network = Network(attempt).run()
    assert attempt.right_or_aborted()
    for position, client in enumerate(attempt.clients):
        again = attempt.client(position, network.logs[client.name], seed=99)
        for envelope in network.sent:
            if envelope.recipient == client.name:
                for answer in again.receive(envelope).send:
                    assert answer.body == network.said[answer.sender, answer.recipient, Kind(answer.body[4])]


@settings(max_examples=25, deadline=None)
@given(any_terms(sizes=st.just(3)), st.integers(0, 2**32))
@example(terms_of(4, threshold=3, size=3), 0)
def test_a_server_rebuilt_from_any_part_of_its_log_forms_the_right_sum(terms, seed):
    attempt = Attempt(terms, seed)
    network = Network(attempt, np.random.default_rng(seed), {0: Kind.UPLOAD}).run()
    log = network.logs["server"]
    whole = attempt.new_server(log)
    assert (whole.phase, whole.reason) == (attempt.server.phase, attempt.server.reason)
    if attempt.right_or_aborted():
        np.testing.assert_array_equal(whole.total, attempt.server.total)
    for cut in range(len(log)):
        part = attempt.new_server(log[:cut])
        assert not part.finished
        for record in log[cut:]:
            part._load(record)
        assert part.phase == whole.phase
