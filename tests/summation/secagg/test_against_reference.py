"""The package beside the reference: the same randomness gives the same bytes, message by message, and the same sum.

Three ways: the frozen vectors are replayed; sums of every shape are run with fresh randomness, of which the reference is told
what was handed out; and messages damaged on their way are refused by both or answered alike by both.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from manent.core.errors import ManentError
from manent.core.parties import SERVER, Envelope
from manent.crypto.identity import SigningKey
from manent.crypto.random import InsecureTestRNG
from manent.summation.parties.call import Roster
from manent.summation.secagg import Call, Expected, SecAggClient, SecAggServer, Terms
from manent.summation.secagg import client as client_module

from . import make_vectors as frozen
from . import reference as ref
from .test_reference import NAMES, call_from, client_from, loaded

REFUSALS = (ref.Refused, InvalidSignature, InvalidTag)
STEPS = ("advert", "shares", "upload", "consent", "reveal")  # a client vanishes before one of these, or not at all
KIND = 4  # where a frame has its type


def encoded(number: int) -> bytes:
    return number.to_bytes(32, "big")


@dataclass
class Recorded:
    """Private randomness that remembers what it handed out; `script` comes first."""

    source: InsecureTestRNG
    script: deque[bytes] = field(default_factory=deque)
    drawn: list[bytes] = field(default_factory=list)
    secure = False

    def bytes(self, count: int) -> bytes:
        pieces = [self.script.popleft() if self.script else self.source.bytes(32) for _ in range(count // 32)]
        self.drawn += pieces
        return b"".join(pieces)

    def words(self, count: int) -> Any:
        raise AssertionError("the client draws bytes")


def package_call(call: ref.Call) -> tuple[Call, Roster]:
    t = call.terms
    terms = Terms(t.n, t.k, t.t, t.minimum, t.d, t.b, t.corrupt, t.dropped, t.suite, "active" if t.adversary else "curious")
    roster = Roster.of(call.roster_number, call.roster)
    where = (terms, call.study, call.sum_name, call.round, call.attempt, roster.number, roster.root, call.model, call.beacon)
    return Call(*where, "public" if call.beacon_kind else "server"), roster


@dataclass
class Side:
    """One client of both, in step. The reference takes what its randomness was from the package's, after it was drawn."""

    package: SecAggClient
    random: Recorded
    identity: Ed25519PrivateKey
    position: int
    gone_before: str | None = None
    reference: ref.Client | None = None

    def answer(self, message: bytes, kind: int, call: ref.Call, sides: list[Side]) -> tuple[bytes | None, bytes | None]:
        """What the package and the reference answer to what ought to be a message of this kind; None for a refusal."""
        sent = self.package.receive(Envelope(SERVER, self.package.name, message)).send
        assert len(sent) <= 1
        reply = sent[0].body if sent and sent[0].body[KIND] != ref.ABORT else None
        if kind == ref.CALL:
            assert reply is not None, self.package.refusals
            self.reference = ref.Client(call, self.position, self.identity, ref.Chance(*self.random.drawn, (), ()))
        elif kind == ref.DIRECTORY and reply is not None:
            self.learn(reply, call, sides)
        try:
            return reply, self.answer_of_reference(message, kind)
        except REFUSALS as refusal:
            event(f"refused: {refusal or type(refusal).__name__}")
            return reply, None

    def learn(self, shares: bytes, call: ref.Call, sides: list[Side]) -> None:
        """Coefficients are drawn from the highest power down; what was encapsulated, its recipient can tell."""
        assert self.reference is not None
        powers = [int.from_bytes(draw, "big") for draw in self.random.drawn[3:]]
        half = call.terms.t - 1
        assert len(powers) == 2 * half
        coefficients = {"seed_coefficients": tuple(powers[:half][::-1]), "root_coefficients": tuple(powers[half:][::-1])}
        chance = self.reference.chance = replace(self.reference.chance, **coefficients)
        records = ref.Server(call, shares={self.position: shares}).records(self.position) if self.reference.hybrid else {}
        for v, (for_channel, for_mask, _, _) in records.items():
            peer = sides[v].reference
            assert peer is not None
            chance.for_channel[v] = ref.Encapsulated(peer.channel_kem.decapsulate(for_channel), for_channel)
            if for_mask:
                chance.for_mask[v] = ref.Encapsulated(peer.mask_kem.decapsulate(for_mask), for_mask)

    def answer_of_reference(self, message: bytes, kind: int) -> bytes | None:
        client = self.reference
        assert client is not None
        match kind:
            case ref.CALL:
                return client.advertise()
            case ref.DIRECTORY:
                return client.share(message)
            case ref.DELIVERIES:
                return client.upload(message, self.vector)
            case ref.SURVIVORS:
                return client.consent(message) if client.terms.adversary else client.reveal(message)
            case ref.CONSENTS:
                return client.reveal(message)
        return None

    @property
    def vector(self) -> list[int]:
        return self._vector

    @vector.setter
    def vector(self, numbers: list[int]) -> None:
        self._vector = numbers
        self.package.contribute(np.array(numbers, np.int64))


def sides_of(call: ref.Call, keys: list[Ed25519PrivateKey], vectors: list[list[int]], seed: int) -> list[Side]:
    """The cohort, by position."""
    packaged, roster = package_call(call)
    looked_up = packaged.beacon if packaged.beacon_kind == "public" else None
    expected = Expected(call.study, call.sum_name, call.round, call.model, packaged.terms, looked_up)
    by_public = {key.public_key().public_bytes_raw(): key for key in keys}
    sides = []
    for position, public in enumerate(call.identities):
        key, random = by_public[public], Recorded(InsecureTestRNG(1000 * seed + position))
        side = Side(SecAggClient(SigningKey(key.private_bytes_raw()), roster, expected, random), random, key, position)
        side.vector = vectors[position]
        sides.append(side)
    return sides


def run(call: ref.Call, sides: list[Side], see: Callable[[Side, bytes], bool] = lambda side, message: True) -> Any:
    """Both implementations from the call to the sum, compared at each message. Stops where `see` says False. Gives the server."""
    packaged, roster = package_call(call)
    server, mirror = SecAggServer(packaged, roster), ref.Server(call)
    by_name = {side.package.name: side for side in sides}
    queue = deque(server.start().send)
    while True:
        while queue:
            envelope = queue.popleft()
            if envelope.recipient == SERVER:
                queue.extend(server.receive(envelope).send)
                continue
            side, message = by_name[envelope.recipient], envelope.body
            assert message == expected_from_server(mirror, side.position, message[KIND], server.phase == "aborted")
            if vanished(side, message[KIND], call.terms.adversary):
                continue
            if not see(side, message):
                return server
            reply, other = side.answer(message, message[KIND], call, sides)
            assert reply == other
            if reply is not None:
                kept(mirror, reply)[side.position] = reply
                queue.append(Envelope(side.package.name, SERVER, reply))
        if server.finished:
            break
        queue.extend(server.deadline().send)
    compare_sums(server, mirror, sides)
    return server


def compare_sums(server: SecAggServer, mirror: ref.Server, sides: list[Side]) -> None:
    terms = mirror.call.terms
    if server.phase == "aborted":
        assert any(side.gone_before for side in sides), server.reason
        assert too_few(mirror), server.reason
        return
    assert server.total.tolist() == mirror.total()
    assert list(server.survivors) == [mirror.call.identities[p] for p in sorted(mirror.uploads)]
    plain = [sum(sides[p].vector[j] for p in mirror.uploads) for j in range(terms.d)]
    assert mirror.total() == [(x + 2 ** (terms.b - 1)) % 2**terms.b - 2 ** (terms.b - 1) for x in plain]


def too_few(mirror: ref.Server) -> bool:
    """Whether a sum could not be formed for want of answers."""
    terms = mirror.call.terms
    if min(len(mirror.adverts), len(mirror.shares), len(mirror.uploads)) < terms.minimum or len(mirror.reveals) < terms.t:
        return True
    try:
        mirror.total()
    except ref.Refused:
        return True
    return False


def kept(mirror: ref.Server, message: bytes) -> dict[int, bytes]:
    """Where the reference's server puts a client's message."""
    places = {ref.ADVERT: mirror.adverts, ref.SHARES: mirror.shares, ref.UPLOAD: mirror.uploads}
    return (places | {ref.CONSENT: mirror.consents, ref.REVEAL: mirror.reveals})[message[KIND]]


def expected_from_server(mirror: ref.Server, p: int, kind: int, aborted: bool) -> bytes:
    said: dict[int, Callable[[], bytes]] = {
        ref.CALL: lambda: mirror.call.message,
        ref.DIRECTORY: lambda: mirror.directory(p),
        ref.DELIVERIES: lambda: mirror.deliveries(p),
        ref.RECEIVED: mirror.received,
        ref.SURVIVORS: mirror.survivors,
        ref.CONSENTS: lambda: mirror.consents_for(p),
        ref.CLOSED: lambda: mirror.closed(int(aborted)),
    }
    return said[kind]()


def vanished(side: Side, kind: int, adversary: int) -> bool:
    after_survivors = "consent" if adversary else "reveal"
    answers = {ref.CALL: "advert", ref.DIRECTORY: "shares", ref.DELIVERIES: "upload", ref.SURVIVORS: after_survivors}
    step = (answers | {ref.CONSENTS: "reveal", ref.CLOSED: "reveal"}).get(kind, "upload")
    return side.gone_before is not None and STEPS.index(side.gone_before) <= STEPS.index(step)


# 1. The frozen vectors.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", frozen.PHASES)
def test_the_package_says_what_is_frozen(name, phase, monkeypatch):
    content = loaded(name)
    call = call_from(content)
    clients = [client_from(call, p, inputs) for p, inputs in enumerate(content["clients"])]
    sides = sides_of(call, [client.identity for client in clients], [inputs["vector"] for inputs in content["clients"]], 0)
    for side, client in zip(sides, clients, strict=True):
        chance = client.chance
        powers = (*chance.seed_coefficients[::-1], *chance.root_coefficients[::-1])
        side.random.script.extend((chance.root, chance.own_seed, chance.channel, *map(encoded, powers)))
    if phase != "nobody":
        sides[frozen.VANISHING].gone_before = phase

    def see(side: Side, message: bytes) -> bool:
        outcomes = outcomes_for(clients, side.position)
        monkeypatch.setattr(client_module, "encapsulate", lambda public: outcomes[public])
        return True

    server = run(call, sides, see)
    assert server.total.tolist() == content["vanishes_before"][phase]["sum"]
    assert [not side.random.script for side in sides] == [side.gone_before != "shares" for side in sides]


def outcomes_for(clients: list[ref.Client], u: int) -> dict[bytes, tuple[bytes, bytes]]:
    """What a client encapsulates in a frozen transcript, by the key that it is for."""
    chance = clients[u].chance
    to_channel = {clients[v].channel_kem.public_key().public_bytes_raw(): e for v, e in chance.for_channel.items()}
    to_mask = {clients[v].mask_kem.public_key().public_bytes_raw(): e for v, e in chance.for_mask.items()}
    return {public: (e.secret, e.ciphertext) for public, e in (to_channel | to_mask).items()}


def test_messages_of_the_package_are_the_frozen_bytes(monkeypatch):
    """The same once more without the reference between: what the package's client says, against the file's text."""
    content = json.loads((frozen.FOLDER / "1-active-complete.json").read_text())
    call, said = call_from(content), dict[tuple[int, int], str]()
    clients = [client_from(call, p, inputs) for p, inputs in enumerate(content["clients"])]
    sides = sides_of(call, [client.identity for client in clients], [inputs["vector"] for inputs in content["clients"]], 0)
    for side, inputs in zip(sides, content["clients"], strict=True):
        powers = inputs["seed_coefficients"][::-1] + inputs["root_coefficients"][::-1]
        side.random.script.extend(map(bytes.fromhex, (inputs["root"], inputs["own_seed"], inputs["channel"], *powers)))
        receive = side.package.receive

        def heard(envelope: Envelope, receive: Any = receive, p: int = side.position) -> Any:
            step = receive(envelope)
            said.update({(sent.body[KIND], p): sent.body.hex() for sent in step.send})
            return step

        monkeypatch.setattr(side.package, "receive", heard)
    run(call, sides)
    everything = content["common"] | content["vanishes_before"]["nobody"]
    for kind, name in ((2, "advert"), (4, "shares"), (6, "upload"), (8, "consent"), (10, "reveal")):
        assert {str(p): text for (k, p), text in said.items() if k == kind} == everything[name]


# 2. Sums of every shape.


@st.composite
def calls(draw: Any, most: int = 7) -> ref.Call:
    n = draw(st.integers(3, most))
    k = draw(st.sampled_from([n - 1, *range(2, n - 1, 2)]))
    t, adversary = draw(st.integers(2, k)), draw(st.integers(0, 1))
    terms = ref.Terms(
        suite=draw(st.integers(1, 3)),
        adversary=adversary,
        n=n,
        k=k,
        t=t,
        minimum=draw(st.integers(t, n)),
        d=draw(st.sampled_from([0, 1, 2, 9])),
        b=draw(st.integers(1, 63)),
        corrupt=0,
        dropped=draw(st.sampled_from([0, 100_000])),
    )
    seed = draw(st.integers(0, 2**32 - 1))
    keys = [identity(seed, i).public_key().public_bytes_raw() for i in range(n + seed % 4)]
    texts = [hash_of(f"{seed} {what}") for what in ("study", "model", "beacon")]
    return ref.Call(
        terms, texts[0], f"sum {seed}", seed % 9, 1 + seed % 3, seed, tuple(keys), texts[1], seed % 2, texts[2][: seed % 33]
    )


def hash_of(text: str) -> bytes:
    return ref.digest(text)


def identity(seed: int, i: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hash_of(f"{seed} identity {i}"))


def cohort(call: ref.Call) -> list[Side]:
    """Fresh clients. Skips terms that the package's own finder calls weak: no client goes along with them."""
    try:
        package_call(call)[0].terms.check()
    except ManentError:
        assume(False)
    seed, limit = call.roster_number, 2 ** (min(call.terms.b, 62) - 1)
    numbers = np.random.default_rng(seed).integers(-limit, limit, (call.terms.n, call.terms.d))
    keys = [identity(seed, i) for i in range(len(call.roster))]
    return sides_of(call, keys, numbers.tolist(), seed)


@settings(max_examples=120, deadline=None)
@given(calls(), st.data())
def test_every_message_and_the_sum_are_the_references(call, data):
    sides = cohort(call)
    few = data.draw(st.sampled_from(range(call.terms.n - call.terms.t + 2)))
    for position in data.draw(st.permutations(range(call.terms.n)))[:few]:
        steps = [step for step in STEPS if call.terms.adversary or step != "consent"]
        sides[position].gone_before = data.draw(st.sampled_from(steps))
    server = run(call, sides)
    event(f"{server.phase}, {sum(side.gone_before is not None for side in sides)} vanished")


def test_a_client_with_one_neighbour_fewer_than_the_threshold_goes_on():
    """Itself counted there are t, so it may: its secrets cannot be rebuilt, but it can open its own seed itself."""
    call = replace(frozen.call_of("1-curious-complete"), roster_number=1)
    call = replace(call, roster=tuple(identity(1, i).public_key().public_bytes_raw() for i in range(5)))
    sides = cohort(call)
    sides[0].gone_before = "advert"
    assert run(call, sides).phase == "done"


def test_a_larger_sparse_sum_is_the_references():
    call = replace(frozen.call_of("1-active-regular"), roster_number=5)
    keys = [identity(5, i) for i in range(30)]
    roster = tuple(key.public_key().public_bytes_raw() for key in keys)
    call = replace(call, roster=roster, terms=replace(call.terms, n=24, k=10, t=7, minimum=18, dropped=0, suite=3))
    sides = cohort(call)
    for position, step in ((1, "advert"), (5, "shares"), (9, "upload"), (14, "consent"), (20, "reveal"), (21, "upload")):
        sides[position].gone_before = step
    assert run(call, sides).phase == "done"


# 3. Damage.


@settings(max_examples=150, deadline=None)
@given(calls(most=5), st.data())
def test_what_is_damaged_is_refused_by_both_or_answered_alike(call, data):
    sides = cohort(call)
    kinds = [ref.CONSENTS, ref.SURVIVORS, ref.DELIVERIES, ref.DIRECTORY]
    kind = data.draw(st.sampled_from(kinds if call.terms.adversary else kinds[1:]))
    target = data.draw(st.integers(0, call.terms.n - 1))
    damaged: list[tuple[bytes, bytes]] = []

    def see(side: Side, message: bytes) -> bool:
        if side.position != target or message[KIND] != kind:
            return True
        damaged.append((message, data.draw(damage(message))))
        return False

    run(call, sides, see)
    ((message, other),) = damaged
    reply, same = sides[target].answer(other, kind, call, sides)
    assert reply == same
    event(f"{kind}: {'answered' if reply else 'refused'}")
    if len(other) != len(message):
        assert reply is None


def damage(message: bytes) -> Any:
    """A bit that is another, an end that is missing, or bytes too many; most often where a message has its structure."""

    def flipped(where: tuple[int, int]) -> bytes:
        changed = bytearray(message)
        changed[where[0]] ^= 1 << where[1]
        return bytes(changed)

    places = st.integers(37, len(message) - 1) | st.integers(37, min(len(message) - 1, 48)) | st.integers(0, 36)
    bits = st.tuples(places, st.integers(0, 7)).map(flipped)
    return (
        bits | st.integers(0, len(message) - 1).map(lambda end: message[:end]) | st.binary(min_size=1).map(lambda b: message + b)
    )
