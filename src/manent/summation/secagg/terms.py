"""What the members of a masked sum agree on before it begins: its terms, and the call that names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import StoredMessage
from manent.summation.parties import wire
from manent.summation.parties.call import EncodedTerms, SumCall, SumExpected
from manent.summation.parties.fields import Reader, u8, u32, u64
from manent.summation.secagg import bodies, graph, parameters, ring
from manent.summation.secagg.parameters import Adversary

CLASSICAL, CHACHA, HYBRID = 1, 2, 3
SUITES = {
    CLASSICAL: "X25519, AES-256-CTR",
    CHACHA: "X25519, ChaCha20",
    HYBRID: "X25519 and ML-KEM-768, AES-256-CTR",
}
ADVERSARIES: tuple[Adversary, ...] = ("curious", "active")
MILLION = 1_000_000
_PIECE = 1 << 20  # bytes of a stored message that are read at a time


@dataclass(frozen=True)
class Terms:
    """How one sum is protected. Every client derives the terms from the study by itself.

    Attributes:
        clients: n, the size of the cohort.
        degree: k, how many neighbours a client has, itself not counted.
        threshold: t, how many shares rebuild a secret.
        minimum: the fewest survivors with which a client opens its seed.
        size: d, the length of the vectors.
        bits: b; the sum is formed modulo 2**b.
        corrupt, dropped: the share of the cohort that may collude with the server, and that may vanish, in millionths.
        suite: which ciphers: `CLASSICAL`, `CHACHA` or `HYBRID`.
        adversary: "active", a server that lies; "curious", one that follows the protocol and looks.
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
        """Whether recorded traffic stays secret from someone who can break X25519 later."""
        return self.suite == HYBRID

    def check(self) -> None:
        """Raises Refused, or InvalidInput, for terms that do not give the protection that they declare."""
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


@final
@dataclass(frozen=True)
class Call(SumCall[Terms]):
    """The server's call to one attempt at one sum. Its context goes into every key and signature."""

    label: ClassVar[str] = "manent call"
    terms_type: ClassVar[type[EncodedTerms]] = Terms

    @property
    def first_phase(self) -> str:
        """See `AnyCall`."""
        return "advertise"

    @property
    def largest_upload(self) -> int:
        """Bytes of an upload message: the frame, the packed vector, and `bodies.masked_with`."""
        return wire.HEAD + ring.packed_size(self.terms.size, self.terms.bits) + bodies.MASKED

    @property
    def stores_uploads(self) -> bool:
        """An upload is added to the running sum as it comes; the log alone holds it."""
        return False

    def examine(self, message: StoredMessage) -> bytes:
        """The whole message: the party checks it."""
        return b"".join(message.read(0, message.size, _PIECE))

    def neighbours(self, position: int) -> tuple[int, ...]:
        """The positions with which a client shares its secrets, sorted."""
        return graph.neighbours(position, self.terms.clients, self.terms.degree)


@final
@dataclass(frozen=True)
class Expected(SumExpected[Terms]):
    """What a client knows by itself of the sum that it is called to.

    Attributes:
        beacon: the public randomness that it has looked up; None where the study leaves the draw to the server.
    """

    beacon: bytes | None = None

    def check(self, call: SumCall[Terms]) -> None:
        """Raises ProtocolAbort where the call names anything else, saying what; Refused for terms that are too weak."""
        super().check(call)
        if self.beacon is not None and (call.beacon_kind, call.beacon) != ("public", self.beacon):
            raise ProtocolAbort("The call names another beacon than the one that this client looked up.")
        if self.beacon is None and call.beacon_kind == "public":
            raise ProtocolAbort("The call claims a public beacon, which this client has not looked up.")
        self.terms.check()
