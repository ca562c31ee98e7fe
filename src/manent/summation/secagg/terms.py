"""What the members of a sum agree on before it begins: its terms, the roster, and the call that names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.crypto.digest import digest
from manent.summation.parties.fields import Reader, short, u8, u32, u64
from manent.summation.secagg import graph, parameters
from manent.summation.secagg.parameters import Adversary

CLASSICAL, CHACHA, HYBRID = 1, 2, 3
SUITES = {
    CLASSICAL: "X25519, AES-256-CTR",
    CHACHA: "X25519, ChaCha20",
    HYBRID: "X25519 and ML-KEM-768, AES-256-CTR",
}
ADVERSARIES: tuple[Adversary, ...] = ("curious", "active")
MILLION = 1_000_000
Beacon = Literal["server", "public"]
BEACONS: tuple[Beacon, ...] = ("server", "public")


@dataclass(frozen=True)
class Terms:
    """How one sum is protected. Every client derives them from the study by itself.

    Attributes:
        clients: n, the cohort.
        degree: k, each client's neighbours, itself not counted.
        threshold: t, how many shares rebuild a secret.
        minimum: fewest survivors with which a client opens its seed.
        size: d, the length of the vectors.
        bits: b; the sum is formed modulo 2**b.
        corrupt, dropped: the share of the cohort that may collude with the server, and that may vanish, in millionths.
    """

    clients: int
    degree: int
    threshold: int
    minimum: int
    size: int
    bits: int
    corrupt: int
    dropped: int
    suite: int = HYBRID
    adversary: Adversary = "active"

    @property
    def hybrid(self) -> bool:
        """Whether recorded traffic stays secret from who can break X25519 later."""
        return self.suite == HYBRID

    def check(self) -> None:
        """Raises Refused (or InvalidInput) for terms that do not keep what they declare."""
        if self.suite not in SUITES or self.adversary not in ADVERSARIES:
            raise InvalidInput(f"Expected a suite of {sorted(SUITES)} and an adversary of {ADVERSARIES}; found {self}.")
        if not 1 <= self.bits <= 63:
            raise InvalidInput(f"A ring of 2**b needs 1 <= b <= 63; found b = {self.bits}.")
        if self.minimum < self.threshold or self.minimum > self.clients:
            raise InvalidInput(
                f"Expected threshold <= minimum <= clients; found {self.threshold}, {self.minimum}, {self.clients}."
            )
        corrupt, dropped = self.corrupt / MILLION, self.dropped / MILLION
        parameters.check(self.clients, self.degree, self.threshold, corrupt, dropped, self.adversary)

    def encode(self) -> bytes:
        """The bytes that are hashed and sent."""
        head = u8(self.suite) + u8(ADVERSARIES.index(self.adversary))
        counts = (self.clients, self.degree, self.threshold, self.minimum)
        numbers = b"".join(u32(count) for count in counts)
        return head + numbers + u64(self.size) + u8(self.bits) + u32(self.corrupt) + u32(self.dropped)

    @classmethod
    def read(cls, reader: Reader) -> Terms:
        """Raises ProtocolAbort for bytes that are no terms."""
        suite, adversary = reader.u8(), reader.u8()
        if suite not in SUITES or adversary >= len(ADVERSARIES):
            raise ProtocolAbort(f"Expected a known suite and adversary; found {suite} and {adversary}.")
        clients, degree, threshold, minimum = (reader.u32() for _ in range(4))
        size, bits, corrupt, dropped = reader.u64(), reader.u8(), reader.u32(), reader.u32()
        given = ADVERSARIES[adversary]
        return cls(clients, degree, threshold, minimum, size, bits, corrupt, dropped, suite, given)


@dataclass(frozen=True)
class Roster:
    """Who may take part: the identities' public keys (32 bytes each), sorted, under a number that only grows."""

    number: int
    identities: tuple[bytes, ...]

    def __post_init__(self) -> None:
        keys = self.identities
        if any(len(key) != 32 for key in keys) or list(keys) != sorted(set(keys)):
            raise InvalidInput("A roster needs distinct identities of 32 bytes in ascending order; use Roster.of.")

    @classmethod
    def of(cls, number: int, identities: Sequence[bytes]) -> Roster:
        return cls(number, tuple(sorted(identities)))

    @cached_property
    def root(self) -> bytes:
        """32 bytes that stand for the whole roster."""
        return digest("manent roster", u64(self.number), *self.identities)


@dataclass(frozen=True)
class Call:
    """The server's call to one attempt at one sum. Everything in it goes into the context, and so into every key and signature.

    Attributes:
        study: hash of the study's plain data, 32 bytes.
        model: digest of what the clients are sent to work on, 32 bytes.
        beacon: public randomness of after the roster was signed; or, of kind "server", the server's own.
    """

    terms: Terms
    study: bytes
    sum: str
    round: int
    attempt: int
    roster_number: int
    roster_root: bytes
    model: bytes
    beacon: bytes
    beacon_kind: Beacon = "public"

    @cached_property
    def body(self) -> bytes:
        """The bytes that are hashed and sent."""
        of = (self.terms.encode(), self.study, short(self.sum.encode()), u32(self.round), u32(self.attempt))
        drawn = u8(BEACONS.index(self.beacon_kind)) + short(self.beacon)
        return b"".join((*of, u64(self.roster_number), self.roster_root, self.model, drawn))

    @cached_property
    def context(self) -> bytes:
        """32 bytes that stand for everything agreed on."""
        return digest("manent call", self.body)

    @classmethod
    def read(cls, body: bytes) -> Call:
        """Raises ProtocolAbort for bytes that are no call."""
        reader = Reader(body)
        terms, study = Terms.read(reader), reader.take(32)
        try:
            name = reader.short().decode()
        except UnicodeDecodeError as error:
            raise ProtocolAbort("The name of the sum is not UTF-8.") from error
        round, attempt, number, root, model = reader.u32(), reader.u32(), reader.u64(), reader.take(32), reader.take(32)
        kind, beacon = reader.u8(), reader.short()
        reader.end()
        if kind >= len(BEACONS):
            raise ProtocolAbort(f"Expected a kind of beacon below {len(BEACONS)}; found {kind}.")
        return cls(terms, study, name, round, attempt, number, root, model, beacon, BEACONS[kind])

    @cached_property
    def seed(self) -> bytes:
        """What cohort and graph follow from: the same for every attempt, so that failing one gives nobody another draw."""
        drawn = u8(BEACONS.index(self.beacon_kind)) + self.beacon
        return digest("manent cohort", drawn, self.study, self.sum.encode(), u32(self.round), self.roster_root)

    def cohort(self, roster: Roster) -> tuple[bytes, ...]:
        """The identities of the cohort by position, as every client recomputes them."""
        if roster.root != self.roster_root or roster.number != self.roster_number:
            raise ProtocolAbort("The call names another roster than the one at hand.")
        if not 1 <= self.terms.clients <= len(roster.identities):
            raise ProtocolAbort(f"A cohort of {self.terms.clients} cannot be drawn from {len(roster.identities)} identities.")
        drawn = graph.draw_cohort(len(roster.identities), self.seed, self.terms.clients)
        return tuple(roster.identities[index] for index in drawn)

    def neighbours(self, position: int) -> tuple[int, ...]:
        return graph.neighbours(position, self.terms.clients, self.terms.degree)


@dataclass(frozen=True)
class Expected:
    """What a client knows by itself of the sum that it is called to.

    Attributes:
        beacon: the public randomness that it has looked up; None where the study leaves the draw to the server.
    """

    study: bytes
    sum: str
    round: int
    model: bytes
    terms: Terms
    beacon: bytes | None = None

    def check(self, call: Call) -> None:
        """Raises ProtocolAbort where the call names anything else, saying what."""
        named = (
            ("study", self.study, call.study),
            ("sum", self.sum, call.sum),
            ("round", self.round, call.round),
            ("terms", self.terms, call.terms),
        )
        for what, known, found in named:
            if known != found:
                raise ProtocolAbort(
                    f"The server calls to another {what} than this client's: expected {known!r}, found {found!r}."
                )
        if self.model != call.model:
            raise ProtocolAbort("The call names another model than the one that this client was sent.")
        if self.beacon is not None and (call.beacon_kind, call.beacon) != ("public", self.beacon):
            raise ProtocolAbort("The call names another beacon than the one that this client looked up.")
        if self.beacon is None and call.beacon_kind == "public":
            raise ProtocolAbort("The call claims a public beacon, which this client has not looked up.")
        self.terms.check()
