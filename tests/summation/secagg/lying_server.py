"""A server that lies as it is told, with some corrupt clients, and everything that it can work out from what it has seen.

It speaks for the corrupt clients: it has their identities and every secret of theirs. Honest clients are the real ones. A test
writes what it says, to whom; `Adversary.opened` then says which of an honest client's secrets it can rebuild.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from manent.core.errors import ProtocolAbort
from manent.core.parties import SERVER, Envelope, Step
from manent.crypto.digest import digest
from manent.crypto.shamir import recover
from manent.summation.parties import wire
from manent.summation.parties.fields import Reader, u8
from manent.summation.parties.wire import Kind
from manent.summation.secagg import SecAggClient, Terms, bodies, keys
from manent.summation.secagg.bodies import Advert, Opened, Parcel, Signed
from manent.summation.secagg.terms import Call

from .attempts import Attempt


class Adversary:
    """The server of one cohort, and the corrupt clients.

    Attributes:
        attempt: the cohort: its clients are real ones, which the corrupt among them only seem to be.
        corrupt: their positions.
        answers: by kind and position, the last that each client sent.
        shown: by position, whom the client was told to have survived.
        seeds: own seeds that were opened, by position.
        reveals: shares that were opened, by opener and owner.
    """

    def __init__(self, terms: Terms, corrupt: Iterable[int] = (), seed: int = 0, **call) -> None:
        self.attempt = Attempt(terms, seed, **call)
        self.call = self.attempt.call
        self.corrupt = frozenset(corrupt)
        self.everybody = range(terms.clients)
        self.honest = [p for p in self.everybody if p not in self.corrupt]
        self.answers: dict[Kind, dict[int, bytes]] = {kind: {} for kind in Kind}
        self.logs: dict[int, list[bytes]] = {p: [] for p in self.everybody}
        self.shown: dict[int, frozenset[int]] = {}
        self.seeds: dict[int, bytes] = {}
        self.reveals: dict[int, dict[int, bytes]] = {}
        self.vectors = self.attempt.vectors

    # What it says.

    def client(self, position: int) -> SecAggClient:
        return self.attempt.clients[position]

    def tell(self, position: int, kind: Kind, body: bytes, call: Call | None = None) -> bytes | None:
        """Say something to a client. Its answer's body, where it answers at all and does not refuse."""
        context = (call or self.call).context
        client = self.client(position)
        return self._heard(position, client.receive(Envelope(SERVER, client.name, wire.frame(kind, context, body))))

    def _heard(self, position: int, step: Step) -> bytes | None:
        answer = None
        self.logs[position].extend(step.keep)
        for envelope in step.send:
            kind, _, body = wire.unframe(envelope.body)
            self.answers[kind][position] = body
            if kind is Kind.REVEAL:
                opened = bodies.read_list(Reader(body[32:]), Opened.read, lambda one: one.position, len(self.everybody))
                self.seeds[position] = body[:32]
                self.reveals[position] = {one.position: one.share for one in opened}
            answer = None if kind is Kind.ABORT else body
        return answer

    def rebuild(self, position: int) -> None:
        """The client crashes, and comes back from its log with other randomness."""
        self.attempt.clients[position] = self.attempt.client(position, self.logs[position], seed=1000 + position)

    def call_all(self, call: Call | None = None) -> None:
        for position in self.everybody:
            self.tell(position, Kind.CALL, (call or self.call).body, call)

    def adverts(self) -> dict[int, Advert]:
        hybrid = self.call.terms.hybrid
        return {p: Advert.read(Reader(body), hybrid) for p, body in self.answers[Kind.ADVERTISE].items()}

    def near(self, position: int, among: Iterable[int] | None = None) -> list[int]:
        kept = set(self.everybody if among is None else among)
        return [v for v in self.call.neighbours(position) if v in kept]

    def directory(self, position: int, adverts: Iterable[Advert] | None = None) -> bytes | None:
        known = self.adverts()
        shown = [known[v] for v in self.near(position, known)] if adverts is None else adverts
        return self.tell(position, Kind.DIRECTORY, bodies.listing(sorted(shown, key=lambda advert: advert.position)))

    def parcel(self, sender: int, recipient: int) -> Parcel:
        read = bodies.shares_reader(sender, self.call.terms.hybrid)
        body = self.answers[Kind.SHARES][sender]
        found = bodies.read_list(Reader(body), read, lambda parcel: parcel.peer, len(self.everybody))
        return next(parcel for parcel in found if parcel.peer == recipient).delivered(sender)

    def deliver(self, position: int, parcels: Iterable[Parcel] | None = None, among: Iterable[int] | None = None) -> bytes | None:
        """The upload, where the client takes the deliveries."""
        senders = self.near(position, set(self.answers[Kind.SHARES]) & set(self.everybody if among is None else among))
        given = [self.parcel(v, position) for v in senders] if parcels is None else parcels
        answer = self.tell(position, Kind.DELIVERIES, bodies.listing(sorted(given, key=lambda parcel: parcel.peer)))
        client = self.client(position)
        if client.stage == "delivered":
            answer = self._heard(position, client.contribute(self.vectors[position].copy()))
        return answer

    def survivors(self, position: int, alive: Iterable[int]) -> bytes | None:
        """The consent, or with the curious adversary what is opened."""
        self.shown.setdefault(position, frozenset(alive))
        return self.tell(position, Kind.SURVIVORS, self.bitmap(alive))

    def bitmap(self, alive: Iterable[int]) -> bytes:
        return bodies.bitmap(frozenset(alive), len(self.everybody))

    def sign(self, position: int, alive: Iterable[int]) -> Signed:
        """A consent in the name of a corrupt client, to anything."""
        assert position in self.corrupt
        text = digest("manent survivors", self.call.context, self.bitmap(alive))
        return Signed(position, self.attempt.identities[position].sign(text))

    def consents(self, position: int, signed: Iterable[Signed]) -> bytes | None:
        """What the client opens, where it takes them."""
        return self.tell(position, Kind.CONSENTS, bodies.listing(sorted(signed, key=lambda one: one.position)))

    def given_consents(self, alive: Iterable[int]) -> list[Signed]:
        """All consents to this very set: those that were given, and those that corrupt clients give to anything."""
        text = digest("manent survivors", self.call.context, self.bitmap(alive))
        found = [self.sign(p, alive) for p in self.corrupt if p in set(alive)]
        for position in self.honest:
            if position in self.answers[Kind.CONSENT]:
                signed = Signed(position, self.answers[Kind.CONSENT][position])
                if signed.signature == self.attempt.identities[position].sign(text):
                    found.append(signed)
        return found

    def up_to(self, kind: Kind, among: Iterable[int] | None = None) -> Adversary:
        """Keep to the protocol with these clients, until all have sent this."""
        there = list(self.everybody if among is None else among)
        for position in there:
            self.tell(position, Kind.CALL, self.call.body)
        if kind > Kind.ADVERTISE:
            for position in there:
                self.directory(position)
        if kind > Kind.SHARES:
            for position in there:
                self.deliver(position, among=there)
        if kind > Kind.UPLOAD:
            for position in there:
                self.survivors(position, there)
        if kind > Kind.CONSENT:
            for position in there:
                near = {*self.near(position), position}
                self.consents(position, [one for one in self.given_consents(there) if one.position in near])
        return self

    # What it can work out.

    def opened(self, position: int) -> set[str]:
        """Which secrets of a client it has: "own seed", "root"; from what was opened, and from what corrupt clients hold."""
        advert, context = self.adverts()[position], self.call.context
        tests = {
            "own seed": lambda seed: keys.commitment(context, seed) == advert.commitment,
            "root": lambda root: keys.agreement_key(root, "mask", context).public == advert.mask,
        }
        return {what for what, right in tests.items() if self._has(position, what, right)}

    def _has(self, position: int, what: str, right: Callable[[bytes], bool]) -> bool:
        if what == "own seed" and position in self.seeds and right(self.seeds[position]):
            return True
        shares = dict[int, bytes]()
        for opener, opened in self.reveals.items():
            if position in opened and (position in self.shown[opener]) == (what == "own seed"):
                shares[1 + opener] = opened[position]
        for corrupt in self.corrupt:
            now = self.client(corrupt)._now
            if now is not None and position in now.shares:
                shares[1 + corrupt] = now.shares[position][what == "root"]
        if len(shares) < self.call.terms.threshold:
            return False
        try:
            recover(shares, self.call.terms.threshold, right)
        except ProtocolAbort:
            return False
        return True

    def refusals(self, position: int) -> str:
        return " | ".join(self.client(position).refusals)

    def restarted(self, **changes) -> Call:
        return replace(self.call, **changes)

    def closed(self, position: int) -> None:
        self.tell(position, Kind.CLOSED, u8(1))
