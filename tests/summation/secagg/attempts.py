"""One attempt at a sum between real parties, over a network that shuffles, repeats, loses and damages what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from manent.core.errors import ManentError, ProtocolAbort
from manent.core.parties import SERVER, Envelope, Step
from manent.crypto.identity import SigningKey
from manent.crypto.random import InsecureTestRNG
from manent.summation.parties.call import Roster
from manent.summation.parties.wire import Kind
from manent.summation.secagg import Call, Expected, SecAggClient, SecAggServer, Terms, parameters
from manent.summation.secagg.terms import MILLION

ANSWERS = (Kind.ADVERTISE, Kind.SHARES, Kind.UPLOAD, Kind.CONSENT, Kind.REVEAL)
ENOUGH = 5_000  # deliveries, before an attempt counts as endless


def least_threshold(clients: int, degree: int, adversary: str = "active", corrupt: float = 0.0) -> int | None:
    """The smallest threshold that clients go along with, or None."""
    for threshold in range(2, degree + 1):
        try:
            parameters.check(clients, degree, threshold, corrupt, 0.0, adversary)
        except ManentError:
            continue
        return threshold
    return None


def terms_of(clients: int, degree: int | None = None, threshold: int | None = None, **changes) -> Terms:
    """Terms that clients accept: complete graph, smallest threshold and minimum, no corrupt client, five numbers of 20 bits."""
    degree = clients - 1 if degree is None else degree
    adversary, corrupt = changes.get("adversary", "active"), changes.get("corrupt", 0)
    threshold = threshold or least_threshold(clients, degree, adversary, corrupt / MILLION)
    assert threshold is not None
    given = {"minimum": threshold, "size": 5, "bits": 20, "corrupt": 0, "dropped": 0, "suite": 1, **changes}
    terms = Terms(clients, degree, threshold, **given)
    terms.check()
    return terms


def wrapped(total, bits: int):
    """Whole numbers of any size as b-bit two's complement, int64."""
    half = 1 << (bits - 1)
    return np.array([(int(number) + half) % (2 * half) - half for number in total], np.int64)


class Attempt:
    """The parties of one attempt: identities, clients and vectors stand by position."""

    def __init__(self, terms: Terms, seed: int = 0, threads: int = 1, spare: int = 2, **call) -> None:
        self.random = InsecureTestRNG(seed)
        identities = [SigningKey.generate(self.random) for _ in range(terms.clients + spare)]
        self.roster = Roster.of(7, [identity.public for identity in identities])
        given = {"study": b"s" * 32, "sum": "train", "round": 3, "attempt": 1, "model": b"m" * 32, "beacon": b"beacon", **call}
        self.call = Call(terms, roster_number=7, roster_root=self.roster.root, **given)
        of = {identity.public: identity for identity in identities}
        self.terms, self.threads = terms, threads
        self.identities = [of[public] for public in self.call.cohort(self.roster)]
        self.outsiders = [identity for identity in identities if identity not in self.identities]
        self.expected = Expected(*(given[what] for what in ("study", "sum", "round", "model")), terms, self.call.beacon)
        self.clients = [self.client(position) for position in range(terms.clients)]
        self.server = self.new_server()
        rng = np.random.default_rng(seed)
        half = 1 << max(0, terms.bits - 1)
        self.vectors = rng.integers(-half, half, (terms.clients, terms.size), np.int64)

    def client(self, position: int, records=(), seed: int | None = None) -> SecAggClient:
        """A life of a client. Another seed gives it other private randomness than its former lives had."""
        random = self.random if seed is None else InsecureTestRNG(seed)
        return SecAggClient(self.identities[position], self.roster, self.expected, random, records)

    def new_server(self, records=(), threads: int | None = None) -> SecAggServer:
        return SecAggServer(self.call, self.roster, records, threads or self.threads)

    @property
    def survivors(self) -> list[int]:
        """Positions whose vectors are in the sum, as the server says."""
        places = {identity.public: position for position, identity in enumerate(self.identities)}
        return [places[public] for public in self.server.survivors]

    def plain_sum(self, positions) -> np.ndarray:
        return wrapped(self.vectors[list(positions)].astype(object).sum(0), self.terms.bits)

    def right_or_aborted(self) -> bool:
        """Whether there is a sum. Fails for a wrong one, and for an abort without a reason."""
        if self.server.phase == "aborted":
            assert self.server.reason
            with pytest.raises(ProtocolAbort):
                self.server.total
            return False
        assert self.server.phase == "done"
        np.testing.assert_array_equal(self.server.total, self.plain_sum(self.survivors))
        return True


@dataclass
class Network:
    """Carries an attempt to its end.

    Attributes:
        rng: what is random about the network; None delivers in order, and gives vectors at once.
        silent: by position, the first of its messages that a client does not send any more, nor anything after it.
        late: positions whose uploads arrive only once the server has closed that phase.
        duplicates, loses: how likely an envelope is repeated, or lost.
        restarts: how likely a party dies in a step, before or after it has kept its records.
        change: what an envelope is replaced with on its way.
    """

    attempt: Attempt
    rng: np.random.Generator | None = None
    silent: Mapping[int, Kind] = field(default_factory=dict)
    late: frozenset[int] = frozenset()
    duplicates: float = 0.0
    loses: float = 0.0
    restarts: float = 0.0
    change: Callable[[Envelope], list[Envelope]] | None = None

    def __post_init__(self) -> None:
        self.queue: list[Envelope] = []
        self.held: list[Envelope] = []
        self.sent: list[Envelope] = []
        self.uploaded: set[int] = set()
        self.dead: set[int] = set()
        self.logs: dict[str, list[bytes]] = {SERVER: []}
        self.places = {client.name: position for position, client in enumerate(self.attempt.clients)}
        self.said: dict[tuple[str, str, int], bytes] = {}
        self.lives = 0
        early = range(len(self.places)) if self.rng is None else np.flatnonzero(self.rng.random(len(self.places)) < 0.5)
        for position in early:
            self._give(int(position))

    def run(self) -> Network:
        """To the end, which has to come."""
        server = self.attempt.server
        self._send(server.start())
        delivered, patience = 0, 0
        while self.queue or not self.attempt.server.finished:
            assert delivered < ENOUGH, "an endless exchange"
            if self.attempt.server.phase not in ("advertise", "share", "upload"):
                self.queue, self.held = self.queue + self.held, []
            if self.queue:
                delivered += 1
                self._deliver(self.queue.pop(0 if self.rng is None else int(self.rng.integers(len(self.queue)))))
            elif patience and patience % 5:
                self._remind()
                patience += 1
            else:
                patience = 1 if self.loses or self.restarts else 0
                self._step(SERVER, lambda: self.attempt.server.deadline(), whole=True)
        return self

    def _happens(self, chance: float) -> bool:
        return self.rng is not None and chance > 0 and self.rng.random() < chance

    def _remind(self) -> None:
        """Everybody's answers are overdue."""
        if self.attempt.server.phase == "advertise":
            self._send(self.attempt.server.start())
        for position, client in enumerate(self.attempt.clients):
            if position not in self.dead:
                self._step(client.name, client.deadline, whole=True)
                self._give(position, only=("delivered",))

    def _give(self, position: int, only: tuple[str, ...] = ()) -> None:
        client = self.attempt.clients[position]
        if position not in self.dead and client.needs_vector and (not only or client.stage in only):
            self._step(client.name, lambda: client.contribute(self.attempt.vectors[position].copy()), whole=True)

    def _deliver(self, envelope: Envelope) -> None:
        if envelope.recipient == SERVER:
            self._step(SERVER, lambda: self.attempt.server.receive(envelope))
            return
        position = self.places[envelope.recipient]
        if position not in self.dead:
            client = self.attempt.clients[position]
            self._step(client.name, lambda: client.receive(envelope))
            self._give(position, only=("delivered",))

    def _step(self, name: str, call: Callable[[], Step], whole: bool = False) -> None:
        """One step of a party, in which it may die: then it is rebuilt from its log, and what it had not sent is lost."""
        step, dies = call(), not whole and self._happens(self.restarts)
        kept = not dies or bool(self.rng.integers(2))
        if kept:
            self.logs.setdefault(name, []).extend(step.keep)
        if dies:
            self.lives += 1
            if name == SERVER:
                self.attempt.server = self.attempt.new_server(self.logs[SERVER])
            else:
                place = self.places[name]
                self.attempt.clients[place] = self.attempt.client(place, self.logs.get(name, []), seed=10_000 + self.lives)
        else:
            self._send(step)

    def _send(self, step: Step) -> None:
        for envelope in step.send:
            kind, position = Kind(envelope.body[4]), self.places.get(envelope.sender, -1)
            if position in self.dead or (kind in ANSWERS and position in self.silent and kind >= self.silent[position]):
                self.dead.add(position)
                continue
            before = self.said.setdefault((envelope.sender, envelope.recipient, kind), envelope.body)
            assert before == envelope.body, f"{kind.name} was sent twice, and differs"
            if kind is Kind.UPLOAD:
                self.uploaded.add(position)
            self.sent.append(envelope)
            for one in [envelope] if self.change is None else self.change(envelope):
                if self._happens(self.loses):
                    continue
                (self.held if kind is Kind.UPLOAD and position in self.late else self.queue).append(one)
                if self._happens(self.duplicates):
                    self.queue.append(replace(one))
