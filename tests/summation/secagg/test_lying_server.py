"""A server that lies, with every transcript and some corrupt clients: each honest client refuses, and says why.

In every case `refused` also looks at what the server has got for its lie: never both secrets of an honest client, which would lay
its vector bare.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from manent.core.parties import SERVER, Envelope
from manent.crypto.agreement import encapsulate
from manent.crypto.digest import digest
from manent.crypto.identity import SigningKey
from manent.crypto.keystream import Masker
from manent.crypto.random import InsecureTestRNG
from manent.summation.parties import wire
from manent.summation.parties.call import Roster
from manent.summation.parties.wire import Kind
from manent.summation.secagg import Expected, SecAggClient, bodies, keys, ring
from manent.summation.secagg.bodies import Signed

from .attempts import terms_of
from .lying_server import Adversary

TEN = terms_of(10, threshold=7, corrupt=300_000)  # 2 x 7 > 10 + 3, and no more: four corrupt clients are one too many
REGULAR = terms_of(14, 6, 5, minimum=8, suite=3)
COHORTS = pytest.mark.parametrize(("terms", "corrupt"), [(TEN, {7, 8, 9}), (REGULAR, {1, 12})], ids=["complete", "regular"])


def refused(liar: Adversary, position: int, why: str) -> None:
    assert why in liar.refusals(position), f"{position}: {liar.refusals(position)!r}"
    for honest in liar.honest:
        if honest in liar.answers[Kind.ADVERTISE]:
            assert liar.opened(honest) != {"own seed", "root"}


# The call: what a client knows by itself.


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"terms": replace(TEN, threshold=6)}, "another terms"),
        ({"terms": replace(TEN, degree=8)}, "another terms"),
        ({"terms": replace(TEN, minimum=8)}, "another terms"),
        ({"terms": replace(TEN, corrupt=0)}, "another terms"),
        ({"terms": replace(TEN, adversary="curious")}, "another terms"),
        ({"terms": replace(TEN, suite=2)}, "another terms"),
        ({"terms": replace(TEN, bits=21)}, "another terms"),
        ({"study": b"t" * 32}, "another study"),
        ({"sum": "evaluate"}, "another sum"),
        ({"round": 4}, "another round"),
        ({"model": b"n" * 32}, "another model"),
        ({"beacon": b"one that it likes better"}, "another beacon"),
        ({"beacon_kind": "server"}, "another beacon"),
        ({"roster_root": b"r" * 32}, "another roster"),
        ({"roster_number": 6}, "older"),
        ({"roster_number": 8}, "another roster"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_call_to_anything_but_what_a_client_knows_is_refused(changes, why):
    liar = Adversary(TEN)
    call = liar.restarted(**changes)
    for position in liar.everybody:
        liar.tell(position, Kind.CALL, call.body, call)
        refused(liar, position, why)
        assert liar.client(position).stage == "waiting"
    assert not liar.answers[Kind.ADVERTISE]


def test_a_call_in_the_frame_of_another_is_refused():
    liar = Adversary(TEN)
    liar.tell(0, Kind.CALL, liar.call.body, liar.restarted(round=4))
    refused(liar, 0, "does not carry its own context")
    assert 0 not in liar.answers[Kind.ADVERTISE]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"threshold": 6}, "too weak"),
        ({"degree": 8, "threshold": 6}, "too weak"),
        ({"degree": 7}, "even"),
        ({"minimum": 5}, "threshold <= minimum"),
    ],
    ids=["threshold", "degree", "no graph", "minimum"],
)
def test_terms_too_weak_for_what_they_declare_are_refused_even_where_the_study_has_them(change, why):
    weak = replace(TEN, **change)
    liar = Adversary(weak)
    liar.call_all()
    for position in liar.everybody:
        refused(liar, position, why)
        assert position not in liar.answers[Kind.ADVERTISE]


def test_an_old_roster_is_refused_and_sybils_in_a_new_one_are_not_in_the_clients():
    liar = Adversary(TEN)
    newer = Roster(8, liar.attempt.roster.identities)
    for position in liar.everybody:
        client = SecAggClient(liar.attempt.identities[position], newer, liar.attempt.expected, liar.attempt.random)
        liar.attempt.clients[position] = client
    liar.call_all()
    for position in liar.everybody:
        refused(liar, position, "Roster 7 is older than this client's, 8.")

    sybils = [SigningKey.generate(InsecureTestRNG(100 + i)).public for i in range(500)]
    invented = Roster.of(7, [*liar.attempt.roster.identities, *sybils])
    liar = Adversary(TEN)
    call = liar.restarted(roster_root=invented.root)
    for position in liar.everybody:
        liar.tell(position, Kind.CALL, call.body, call)
        refused(liar, position, "another roster")


def test_an_invented_identity_has_no_place_in_the_directory():
    """The server signs in the name of positions with keys of its own: the cohort says whose they are."""
    liar = Adversary(TEN).up_to(Kind.ADVERTISE)
    sybil = SigningKey.generate(InsecureTestRNG(4))
    adverts = liar.adverts()
    for place in (3, 9):
        made = replace(adverts[place], channel=liar.attempt.random.bytes(32), mask=liar.attempt.random.bytes(32))
        signed = replace(made, signature=sybil.sign(made.signed_text(liar.call.context)))
        liar.directory(0, [*(adverts[v] for v in range(1, 10) if v != place), signed])
        refused(liar, 0, f"position {place} is not signed by its identity")
        liar = Adversary(TEN).up_to(Kind.ADVERTISE)
        adverts = liar.adverts()


def test_who_is_not_in_the_cohort_that_the_beacon_draws_takes_no_part():
    """A server that wants a certain client in would have to change the beacon, which that client looks up."""
    liar = Adversary(TEN)
    outsider = liar.attempt.outsiders[0]
    wanted = SecAggClient(outsider, liar.attempt.roster, liar.attempt.expected, liar.attempt.random)
    wanted.receive(Envelope(SERVER, wanted.name, wire.frame(Kind.CALL, liar.call.context, liar.call.body)))
    assert wanted.stage == "waiting"
    assert "not in the cohort that the beacon draws" in wanted.refusals[0]
    for number in range(1000):
        call = liar.restarted(beacon=b"another %d" % number)
        if outsider.public in call.cohort(liar.attempt.roster):
            break
    wanted.receive(Envelope(SERVER, wanted.name, wire.frame(Kind.CALL, call.context, call.body)))
    assert wanted.stage == "waiting"
    assert "another beacon" in wanted.refusals[1]


def test_different_models_to_different_clients_end_the_round():
    """Each client's context has the model that it was sent: clients of one model have nothing to do with those of another."""
    liar = Adversary(TEN)
    other = liar.restarted(model=b"n" * 32)
    for position in range(5, 10):
        told = replace(liar.attempt.expected, model=other.model)
        client = SecAggClient(liar.attempt.identities[position], liar.attempt.roster, told, liar.attempt.random)
        liar.attempt.clients[position] = client
    for position in liar.everybody:
        call = liar.call if position < 5 else other
        assert liar.tell(position, Kind.CALL, call.body, call) is not None
    assert liar.call.context != other.context
    adverts = liar.adverts()
    liar.directory(0, [adverts[v] for v in range(1, 10)])
    refused(liar, 0, "not signed by its identity for this attempt")
    liar.directory(1, [adverts[v] for v in (0, 2, 3, 4)])
    refused(liar, 1, "5 of this client's neighbourhood have advertised; at least 7 are needed")
    assert not liar.answers[Kind.SHARES]


# Keys.


def test_swapped_repeated_and_reflected_keys_are_refused():
    def told(adverts_of):
        liar = Adversary(TEN).up_to(Kind.ADVERTISE)
        known = liar.adverts()
        liar.directory(0, adverts_of(liar, known))
        assert 0 not in liar.answers[Kind.SHARES]
        return liar

    def rest(known, *but):
        return [known[v] for v in range(1, 10) if v not in but]

    def swapped(liar, known):
        return [*rest(known, 1, 2), replace(known[1], position=2), replace(known[2], position=1)]

    refused(told(swapped), 0, "is not signed by its identity")
    refused(told(lambda liar, known: [*rest(known, 1), replace(known[1], mask=known[2].mask)]), 0, "not signed by its identity")
    refused(told(lambda liar, known: [*rest(known), known[0]]), 0, "a list of at most 9")
    refused(told(lambda liar, known: [*rest(known, 9), known[0]]), 0, "Position 0 is no neighbour")
    refused(told(lambda liar, known: [*rest(known, 9), known[8]]), 0, "strictly ascending")


@pytest.mark.parametrize("what", ["channel", "mask"])
@pytest.mark.parametrize("whose", [0, 1], ids=["own", "another's"])
def test_keys_that_a_corrupt_client_copies_are_refused(what, whose):
    """Its signature is good: but the key is the client's own, or a neighbour's."""
    liar = Adversary(TEN, {9}).up_to(Kind.ADVERTISE)
    known = liar.adverts()
    copied = replace(known[9], **{what: getattr(known[whose], what)})
    signed = replace(copied, signature=liar.attempt.identities[9].sign(copied.signed_text(liar.call.context)))
    liar.directory(0, [*(known[v] for v in range(1, 9)), signed])
    refused(liar, 0, "The advert of position 9 repeats a key")


def test_adverts_of_another_attempt_are_refused():
    before = Adversary(TEN, seed=1).up_to(Kind.ADVERTISE)
    liar = Adversary(TEN, seed=1, attempt=2).up_to(Kind.ADVERTISE)
    assert liar.attempt.identities[1].public == before.attempt.identities[1].public
    known = {**liar.adverts(), 1: before.adverts()[1]}
    liar.directory(0, [known[v] for v in range(1, 10)])
    refused(liar, 0, "position 1 is not signed by its identity for this attempt")


# Who takes part.


@COHORTS
def test_a_client_shown_fewer_neighbours_than_the_threshold_leaves(terms, corrupt):
    liar = Adversary(terms, corrupt).up_to(Kind.ADVERTISE)
    known = liar.adverts()
    for position in liar.honest:
        near = liar.near(position)
        # The corrupt first: those it would like a client to share with alone.
        kept = sorted(near, key=lambda v: v not in corrupt)[: terms.threshold - 2]
        liar.directory(position, [known[v] for v in kept])
        refused(liar, position, f"{terms.threshold - 1} of this client's neighbourhood have advertised")
    assert set(liar.answers[Kind.SHARES]) <= set(corrupt)


@COHORTS
def test_a_client_delivered_fewer_shares_than_the_threshold_leaves(terms, corrupt):
    liar = Adversary(terms, corrupt).up_to(Kind.SHARES)
    for position in liar.honest:
        kept = sorted(liar.near(position), key=lambda v: v not in corrupt)[: terms.threshold - 2]
        liar.deliver(position, among=kept)
        refused(liar, position, f"{terms.threshold - 1} of this client's neighbourhood have shared")
    assert not set(liar.answers[Kind.UPLOAD]) - set(corrupt)


def test_a_client_left_out_of_some_directories_or_deliveries_is_no_survivor_to_those():
    liar = Adversary(TEN, {9}).up_to(Kind.ADVERTISE)
    known = liar.adverts()
    for position in liar.everybody:
        hidden = 1 if position == 0 else position
        liar.directory(position, [known[v] for v in range(10) if v not in (position, hidden)])
    for position in liar.everybody:
        if position != 1:
            liar.deliver(
                position, among=[v for v in range(10) if v != (1 if position == 0 else 2 if position == 3 else position)]
            )
    alive = [p for p in range(10) if p != 1]
    liar.survivors(0, range(10))
    refused(liar, 0, "Position 1 is named a survivor, but this client holds no shares of it")
    liar.survivors(3, alive)
    refused(liar, 3, "Position 2 is named a survivor, but this client holds no shares of it")


def test_shares_from_elsewhere_do_not_open():
    """From another attempt with the same identities, of another pair in this one, and swapped between senders."""
    before = Adversary(TEN, seed=1).up_to(Kind.SHARES)
    for case in ("replayed", "another's", "swapped", "altered"):
        liar = Adversary(TEN, seed=1, attempt=2).up_to(Kind.SHARES)
        parcels = {v: liar.parcel(v, 0) for v in range(1, 10)}
        if case == "replayed":
            parcels[1] = before.parcel(1, 0)
        elif case == "another's":
            parcels[1] = replace(liar.parcel(1, 2), peer=1)
        elif case == "swapped":
            parcels[1], parcels[2] = replace(parcels[2], peer=1), replace(parcels[1], peer=2)
        else:
            parcels[1] = replace(parcels[1], sealed=bytes(80))
        assert liar.deliver(0, parcels.values()) is None
        refused(liar, 0, "does not open")
        assert liar.client(0).stage == "aborted"
        assert 0 not in liar.answers[Kind.UPLOAD]


@pytest.mark.parametrize("which", ["channel_text", "mask_text"])
def test_ciphertexts_that_the_server_puts_in_the_place_of_the_senders_are_refused(which):
    """It encapsulates a secret of its own to the client's advertised keys, and leaves the sealed shares as they are."""
    liar = Adversary(REGULAR).up_to(Kind.SHARES)
    sender, position = 1, 3
    advert = liar.adverts()[position]
    _, text = encapsulate(advert.channel_kem if which == "channel_text" else advert.mask_kem)
    parcels = {v: liar.parcel(v, position) for v in liar.near(position)}
    assert len(getattr(parcels[sender], which)) == len(text)
    parcels[sender] = replace(parcels[sender], **{which: text})
    assert liar.deliver(position, parcels.values()) is None
    refused(liar, position, "does not open")


def test_shares_of_whom_the_directory_did_not_have_are_refused():
    liar = Adversary(TEN).up_to(Kind.ADVERTISE)
    known = liar.adverts()
    for position in liar.everybody:
        liar.directory(position, [known[v] for v in range(10) if v != position and (position, v) != (0, 9)])
    parcels = [liar.parcel(v, 0) for v in range(1, 9)]
    liar.deliver(0, [*parcels, replace(parcels[0], peer=9)])
    refused(liar, 0, "list of at most 8")
    liar.deliver(1, [replace(liar.parcel(0, 1), peer=1), *(liar.parcel(v, 1) for v in range(2, 10))])
    refused(liar, 1, "not in the directory")


# Survivors.


@COHORTS
def test_a_client_named_both_alive_and_dead_is_opened_once_at_most(terms, corrupt):
    """The two-list query, in every split of the honest. Within the bound nobody opens; see below for beyond."""
    assert not exposed(terms, corrupt)


def test_with_one_colluder_too_many_the_two_list_query_lays_a_client_bare():
    """So that the test above can fail: 2t > k + 1 + c no longer holds, and clients that keep to the protocol do not help."""
    assert exposed(TEN, {6, 7, 8, 9})
    assert exposed(REGULAR, {11, 12, 1})


def exposed(terms, corrupt, victim=0) -> bool:
    """Whether some split of the honest gives the server both secrets of the victim, and with them its vector.

    Those on one side of a cut through the ring are told that the victim is dead, the others that it lives.
    """
    n = terms.clients
    for cut in range(-n // 2, n // 2 + 1):
        told_dead = {p for p in range(n) if (p - victim + n // 2) % n - n // 2 > cut} - {victim}
        liar = Adversary(terms, corrupt)
        vectors = np.random.default_rng(9).integers(-50, 50, liar.vectors.shape)
        liar.vectors = vectors
        liar.up_to(Kind.UPLOAD)
        lists = {True: set(liar.everybody) - {victim}, False: set(liar.everybody)}
        dead = {p: p in told_dead for p in liar.honest}
        for position in liar.honest:
            liar.survivors(position, lists[dead[position]])
        for position in liar.honest:
            reach = {*liar.near(position), position}
            signed = [one for one in liar.given_consents(lists[dead[position]]) if one.position in reach]
            liar.consents(position, signed)
        if liar.opened(victim) == {"own seed", "root"}:
            assert np.array_equal(laid_bare(liar, victim), vectors[victim])
            return True
        assert laid_bare(liar, victim) is None
    return False


def laid_bare(liar, position):
    """A client's vector, from both of its secrets, the upload, and what everybody advertised; None without them."""
    if liar.opened(position) != {"own seed", "root"}:
        return None
    now, terms = liar.client(position)._now, liar.call.terms  # the secrets that `opened` has just rebuilt
    total = ring.unpack(liar.answers[Kind.UPLOAD][position][:-32], terms.size, terms.bits)
    masker = Masker(total.dtype)
    masker.subtract(total, keys.own_mask_key(now.own_seed, liar.call.context))
    for v, key in now.mask_keys.items():
        (masker.subtract if position < v else masker.add)(total, key)
    return ring.centre(total, terms.bits)


def test_split_views_of_the_survivors_bring_no_consents():
    """Half the cohort is shown one set, half another: consents to one are none to the other, and a forged one is noticed."""
    liar = Adversary(TEN).up_to(Kind.UPLOAD)
    first, second = set(range(10)), set(range(9))
    for position in range(9):
        assert liar.survivors(position, first if position < 5 else second) is not None
    signed = [Signed(p, liar.answers[Kind.CONSENT][p]) for p in range(9)]
    liar.consents(0, signed)
    refused(liar, 0, "Position 5 did not sign the survivors that this client was shown")
    liar.consents(1, signed[:5])
    refused(liar, 1, "5 of this client's neighbourhood have consented; at least 7 are needed")
    liar.consents(8, [*(Signed(p, signed[8].signature) for p in range(8)), signed[8]])
    refused(liar, 8, "Position 0 did not sign")
    assert not liar.reveals


@pytest.mark.parametrize(
    ("alive", "why"),
    [
        (range(1, 10), "leaves this client's upload out"),
        (range(6), "6 of this client's neighbourhood have survived; at least 7 are needed"),
    ],
)
def test_survivors_without_the_client_or_too_few_are_refused(alive, why):
    liar = Adversary(TEN).up_to(Kind.UPLOAD)
    liar.survivors(0, alive)
    refused(liar, 0, why)
    assert 0 not in liar.answers[Kind.CONSENT]


@pytest.mark.parametrize("adversary", ["active", "curious"])
def test_a_cohort_below_the_minimum_is_not_opened(adversary):
    terms = terms_of(12, threshold=8, minimum=10, adversary=adversary)
    liar = Adversary(terms).up_to(Kind.UPLOAD)
    for position in range(9):
        liar.survivors(position, range(9))
        refused(liar, position, "9 clients survive; this client opens nothing with fewer than 10.")
    assert not liar.answers[Kind.CONSENT]
    assert not liar.reveals


@pytest.mark.parametrize("body", [b"", b"\xff", b"\xff\x03\x00", b"\xff\x07", b"\xff\xff"])
def test_a_bitmap_of_another_length_or_with_more_clients_is_refused(body):
    liar = Adversary(TEN).up_to(Kind.UPLOAD)
    liar.tell(0, Kind.SURVIVORS, body)
    assert liar.client(0).stage == "aborted"
    refused(liar, 0, "bitmap")


def test_forged_foreign_and_missing_consents_are_refused():
    def told(*changes, drop=()):
        liar = Adversary(REGULAR, {3}).up_to(Kind.CONSENT)
        near = {*liar.near(0), 0}
        given = {one.position: one for one in liar.given_consents(liar.everybody) if one.position in near}
        for position, signature in changes:
            given[position] = Signed(position, signature)
        liar.consents(0, [one for position, one in given.items() if position not in drop])
        assert not liar.reveals
        return liar

    liar = Adversary(REGULAR, {3}).up_to(Kind.CONSENT)
    far = liar.answers[Kind.CONSENT][7]
    assert 7 not in liar.near(0)
    another = digest("manent survivors", liar.call.context, liar.bitmap(range(1, 14)))
    refused(told((1, bytes(64))), 0, "Position 1 did not sign the survivors")
    refused(told((1, liar.answers[Kind.CONSENT][2])), 0, "Position 1 did not sign the survivors")
    refused(told((1, liar.attempt.identities[1].sign(another))), 0, "Position 1 did not sign the survivors")
    refused(told((7, far), drop=(1,)), 0, "Position 7 is no survivor in this client's neighbourhood")
    refused(told((7, far)), 0, "at most 7")
    refused(told(drop=(0,)), 0, "own consent is missing")
    refused(told(drop=(1, 2, 3)), 0, "4 of this client's neighbourhood have consented; at least 5 are needed")


def test_consents_of_the_dead_do_not_count():
    liar = Adversary(TEN, {9}).up_to(Kind.UPLOAD)
    alive = range(8)
    for position in alive:
        liar.survivors(position, alive)
    text = digest("manent survivors", liar.call.context, liar.bitmap(alive))
    signed = [one for one in liar.given_consents(alive) if one.position < 7]
    liar.consents(0, [*signed, Signed(9, liar.attempt.identities[9].sign(text))])
    refused(liar, 0, "Position 9 is no survivor in this client's neighbourhood")


# Once only.


def test_each_step_is_taken_once_whatever_is_asked_again():
    """A second directory, delivery, set of survivors or of consents that differs is not answered; the first is, as it was."""
    liar = Adversary(TEN, {7, 8, 9}).up_to(Kind.REVEAL)
    assert len(liar.reveals) == 10
    before = {kind: dict(answers) for kind, answers in liar.answers.items()}
    known, less = liar.adverts(), set(range(9))
    for position in liar.honest:
        for ask in (
            lambda p: liar.tell(p, Kind.SURVIVORS, liar.bitmap(less)),
            lambda p: liar.consents(p, [liar.sign(q, less) for q in (7, 8)]),
            lambda p: liar.directory(p, [known[v] for v in less if v != p]),
            lambda p: liar.tell(p, Kind.DELIVERIES, bodies.listing([liar.parcel(v, p) for v in less if v != p])),
        ):
            assert ask(position) is None
        refused(liar, position, "A second SURVIVORS, other than the first, is not answered")
        refused(liar, position, "A second CONSENTS, other than the first, is not answered")
        refused(liar, position, "A second DIRECTORY, other than the first, is not answered")
        refused(liar, position, "A second DELIVERIES, other than the first, is not answered")
        assert liar.survivors(position, range(10)) == before[Kind.CONSENT][position]
    assert liar.answers == before
    assert {p: liar.opened(p) for p in liar.everybody} == {p: {"own seed"} for p in liar.everybody}


@pytest.mark.parametrize("adversary", ["active", "curious"])
def test_with_survivors_that_differ_nothing_is_opened_twice_after_a_restart_either(adversary):
    """Rebuilt from its log with other randomness, a client still has given its one answer."""
    liar = Adversary(terms_of(6, threshold=5, adversary=adversary)).up_to(Kind.CONSENT)
    first = liar.answers[Kind.CONSENT if adversary == "active" else Kind.REVEAL][0]
    liar.rebuild(0)
    assert liar.survivors(0, range(5)) is None
    refused(liar, 0, "A second SURVIVORS")
    assert liar.survivors(0, range(6)) == first


@pytest.mark.parametrize("reached", [Kind.ADVERTISE, Kind.SHARES, Kind.UPLOAD, Kind.CONSENT, Kind.REVEAL])
def test_a_round_restarted_with_other_content_is_refused(reached):
    """The same attempt with another beacon or model, or an attempt of before: secrets of one context serve no other."""
    liar = Adversary(TEN, attempt=5).up_to(reached)
    adverts = dict(liar.answers[Kind.ADVERTISE])
    for changes in ({"beacon": b"again"}, {"model": b"n" * 32}, {"attempt": 4}, {"roster_root": b"q" * 32}):
        call = liar.restarted(**changes)
        for position in liar.everybody:
            assert liar.tell(position, Kind.CALL, call.body, call) is None
            refused(liar, position, "a round is not restarted")
    assert liar.answers[Kind.ADVERTISE] == adverts
    assert liar.tell(0, Kind.CALL, liar.call.body) == adverts[0], "the same call has the same answer"


def test_a_second_attempt_draws_other_secrets_and_the_first_is_over():
    liar = Adversary(TEN).up_to(Kind.SHARES)
    first = liar.adverts()
    again = liar.restarted(attempt=2)
    for position in liar.everybody:
        assert liar.tell(position, Kind.CALL, again.body, again) is not None
    second = liar.adverts()
    for position in liar.everybody:
        assert not {*first[position].keys, first[position].commitment} & {*second[position].keys, second[position].commitment}
        assert liar.deliver(position) is None
        refused(liar, position, "DELIVERIES belongs to another attempt than this client's")


@pytest.mark.parametrize("how", ["at once", "closed", "aborted", "rebuilt"])
def test_a_vector_that_was_uploaded_is_never_summed_in_another_attempt(how):
    """Whatever became of the first attempt: the server has both masked vectors only where a client sends two."""
    liar = Adversary(TEN).up_to(Kind.UPLOAD)
    for position in liar.everybody:
        if how == "closed":
            liar.closed(position)
        elif how == "aborted":
            liar.survivors(position, [])
            assert liar.client(position).stage == "aborted"
        elif how == "rebuilt":
            liar.rebuild(position)
    uploads = dict(liar.answers[Kind.UPLOAD])
    again = liar.restarted(attempt=2)
    for position in liar.everybody:
        assert liar.tell(position, Kind.CALL, again.body, again) is None
        refused(liar, position, "has uploaded in attempt 1; its vector is not summed again")
    assert liar.answers[Kind.UPLOAD] == uploads


def test_closed_early_a_client_that_has_not_uploaded_may_be_called_again():
    liar = Adversary(TEN).up_to(Kind.SHARES)
    liar.closed(0)
    assert liar.client(0).finished
    again = liar.restarted(attempt=2)
    assert liar.tell(0, Kind.CALL, again.body, again) is not None


def test_the_graph_is_the_one_that_each_client_computes():
    """A message for another place in the ring does not fit."""
    terms = REGULAR
    liar = Adversary(terms)
    for position in liar.everybody:
        about = liar.attempt.expected
        known = Expected(about.study, about.sum, about.round, about.model, terms, liar.attempt.call.beacon)
        client = SecAggClient(liar.attempt.identities[position], liar.attempt.roster, known, liar.attempt.random)
        liar.attempt.clients[position] = client
    liar.up_to(Kind.ADVERTISE)
    known = liar.adverts()
    far = [v for v in range(1, 14) if v not in liar.near(0)]
    liar.directory(0, [known[v] for v in (*liar.near(0)[:-1], far[0])])
    refused(liar, 0, f"Position {far[0]} is no neighbour of this client in the graph")


def test_kept_to_the_protocol_nothing_is_refused_and_only_own_seeds_are_opened():
    """The harness itself: without a lie the sum comes out, by the adversary's own arithmetic."""
    for terms, corrupt in ((TEN, {7, 8, 9}), (REGULAR, {3})):
        liar = Adversary(terms, corrupt).up_to(Kind.REVEAL)
        assert not any(liar.refusals(p) for p in liar.everybody)
        assert all(liar.opened(p) == {"own seed"} for p in liar.honest)
