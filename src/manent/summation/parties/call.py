"""What the members of a sum agree on before it begins: the roster, and the call that names the terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, Literal, Protocol, Self, TypeVar

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import KeyRoster, SumRef
from manent.crypto.digest import digest
from manent.summation.parties.cohort import draw_cohort
from manent.summation.parties.fields import Reader, short, u8, u32, u64

Beacon = Literal["server", "public"]
BEACONS: tuple[Beacon, ...] = ("server", "public")
Kind = Literal["server", "public", "private"]
KINDS: tuple[Kind, ...] = (*BEACONS, "private")


@dataclass(frozen=True)
class Roster:
    """Who may take part: the identities' public keys (32 bytes each), sorted, under a number that only grows.

    Raises InvalidInput for keys of another length, a key that is listed twice, and keys out of order.
    """

    number: int
    identities: tuple[bytes, ...]

    def __post_init__(self) -> None:
        keys = self.identities
        if any(len(key) != 32 for key in keys) or list(keys) != sorted(set(keys)):
            raise InvalidInput("A roster needs distinct identities of 32 bytes in ascending order; use Roster.of.")

    @classmethod
    def of(cls, number: int, identities: Sequence[bytes]) -> Roster:
        """A roster of these identities, given in any order."""
        return cls(number, tuple(sorted(identities)))

    @cached_property
    def root(self) -> bytes:
        """32 bytes that stand for the whole roster."""
        return digest("manent roster", u64(self.number), *self.identities)


class EncodedTerms(Protocol):
    """Terms that have a wire format."""

    @property
    def clients(self) -> int:
        """How many are asked; 0 where that is secret."""
        ...

    def encode(self) -> bytes:
        """The bytes that are hashed and sent."""
        ...

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Raises ProtocolAbort for bytes that are no terms."""
        ...


T = TypeVar("T", bound=EncodedTerms)


@dataclass(frozen=True)
class SumCall(Generic[T]):
    """The server's call to one attempt at one sum. All of it is hashed into the context, which every message carries.

    Attributes:
        terms: how the sum is formed.
        study: hash of the study's plain data, 32 bytes.
        sum: name of the sum.
        round, attempt: counted from 1.
        roster_number, roster_root: of the roster from which the cohort is drawn.
        model: digest of what the clients are sent to work on, 32 bytes.
        beacon: public randomness that appeared after the roster was signed; or, of kind "server", the server's own. Of kind
            "private" it is empty: the server has drawn the cohort by itself, and the call says neither who is in it nor how many.
    """

    label: ClassVar[str]
    """Says in the hash which summation's call it is."""
    terms_type: ClassVar[type[EncodedTerms]]

    terms: T
    study: bytes
    sum: str
    round: int
    attempt: int
    roster_number: int
    roster_root: bytes
    model: bytes
    beacon: bytes
    beacon_kind: Kind = "public"

    @classmethod
    def of(cls, terms: T, ref: SumRef, attempt: int, roster: KeyRoster, beacon: bytes, kind: Kind) -> Self:
        """The call to an attempt at a sum."""
        about = (ref.study, ref.sum, ref.round, attempt, roster.number, roster.root, ref.model)
        return cls(terms, *about, beacon, kind)

    @property
    def secret(self) -> bool:
        """See `AnyCall`."""
        return self.beacon_kind == "private"

    @cached_property
    def body(self) -> bytes:
        """The bytes that are hashed and sent."""
        of = (self.terms.encode(), self.study, short(self.sum.encode()), u32(self.round), u32(self.attempt))
        drawn = u8(KINDS.index(self.beacon_kind)) + short(self.beacon)
        return b"".join((*of, u64(self.roster_number), self.roster_root, self.model, drawn))

    @cached_property
    def context(self) -> bytes:
        """32 bytes that stand for everything agreed on."""
        return digest(self.label, self.body)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Raises ProtocolAbort for bytes that are no call."""
        reader = Reader(body)
        terms, study = cls.terms_type.read(reader), reader.take(32)
        try:
            name = reader.short().decode()
        except UnicodeDecodeError as error:
            raise ProtocolAbort("The name of the sum is not UTF-8.") from error
        round, attempt, number, root, model = reader.u32(), reader.u32(), reader.u64(), reader.take(32), reader.take(32)
        kind, beacon = reader.u8(), reader.short()
        reader.end()
        if kind >= len(KINDS):
            raise ProtocolAbort(f"Expected a kind of beacon below {len(KINDS)}; found {kind}.")
        private = KINDS[kind] == "private"
        if private != (terms.clients == 0) or (private and beacon):
            raise ProtocolAbort("A call names its cohort by a beacon and a number of clients; or, of kind private, by neither.")
        return cls(terms, study, name, round, attempt, number, root, model, beacon, KINDS[kind])  # type: ignore[arg-type]

    @cached_property
    def seed(self) -> bytes:
        """The cohort and its order follow from these 32 bytes. Every attempt has the same seed, so failing an attempt gives
        nobody another draw."""
        drawn = u8(KINDS.index(self.beacon_kind)) + self.beacon
        return digest("manent cohort", drawn, self.study, self.sum.encode(), u32(self.round), self.roster_root)

    def cohort(self, roster: KeyRoster) -> tuple[bytes, ...]:
        """The identities of the cohort by position, as every client recomputes them.

        Raises ProtocolAbort for another roster than the call names, for one that is too small, and where the cohort is secret.
        """
        self._check_roster(roster)
        if self.secret:
            raise ProtocolAbort("The cohort of this call is secret: only the server knows it.")
        if not 1 <= self.terms.clients <= len(roster.identities):
            raise ProtocolAbort(f"A cohort of {self.terms.clients} cannot be drawn from {len(roster.identities)} identities.")
        drawn = draw_cohort(len(roster.identities), self.seed, self.terms.clients)
        return tuple(roster.identities[index] for index in drawn)

    def check_asks(self, identity: bytes, roster: KeyRoster) -> None:
        """Raises ProtocolAbort for another roster than the call names, and for a client that the call does not ask.

        A secret cohort asks whoever is called, of those on the roster.
        """
        self._check_roster(roster)
        if identity not in (roster.identities if self.secret else self.cohort(roster)):
            raise ProtocolAbort("This client is not in the cohort that the beacon draws.")

    def _check_roster(self, roster: KeyRoster) -> None:
        if roster.root != self.roster_root or roster.number != self.roster_number:
            raise ProtocolAbort("The call names another roster than the one at hand.")


@dataclass(frozen=True)
class SumExpected(Generic[T]):
    """What a client knows by itself of the sum that it is called to.

    Attributes:
        study, sum, round, model, terms: as in `SumCall`.
    """

    study: bytes
    sum: str
    round: int
    model: bytes
    terms: T

    @classmethod
    def of(cls, ref: SumRef, terms: T) -> Self:
        """What is expected of a sum under these terms."""
        return cls(ref.study, ref.sum, ref.round, ref.model, terms)

    def check(self, call: SumCall[T]) -> None:
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
