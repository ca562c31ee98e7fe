"""A sum in the clear between a server and clients over a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from manent.core.errors import Refused
from manent.core.layers import Form
from manent.core.parties import KeyRoster, Read, Signer, SumRef
from manent.core.randomness import PrivateRandom
from manent.summation.parties.call import SumExpected
from manent.summation.plain.client import PlainClient
from manent.summation.plain.server import PlainServer
from manent.summation.plain.terms import PlainCall, PlainTerms


@final
class PlainNetwork:
    """See `NetworkSum`."""

    @property
    def first_answers_do(self) -> bool:
        """The server sees each vector anyway, so it may add those that came first."""
        return True

    @property
    def tells_cohort(self) -> bool:
        """A client sends its vector to the server, and hears of no other client."""
        return False

    @property
    def messages(self) -> int:
        """The upload."""
        return 1

    def check(self) -> None:
        """Every sum in the clear runs over a network."""

    def terms(self, form: Form, count: int, minimum: int, enough: int) -> PlainTerms:
        """See `NetworkSum`. Raises Refused where `minimum` is more than `enough`, unless the cohort is secret."""
        if count and not 0 <= minimum <= enough:
            raise Refused(f"A sum of {count} clients is below the fewest that are needed, {minimum}.")
        bound = 0 if form.grid is None else int(form.reach or 0)
        return PlainTerms(count, form.layout.size, form.grid is not None, bound, minimum, enough if count else 0)

    def call(self, terms: PlainTerms, ref: SumRef, attempt: int, roster: KeyRoster, beacon: bytes) -> PlainCall:
        """See `NetworkSum`."""
        return PlainCall.of(terms, ref, attempt, roster, beacon, "server" if terms.clients else "private")

    def read_call(self, body: bytes) -> PlainCall:
        """Raises ProtocolAbort for bytes that are no call."""
        return PlainCall.read(body)

    def server(
        self, call: PlainCall, roster: KeyRoster, records: Sequence[bytes], read: Read, members: Sequence[bytes] = ()
    ) -> PlainServer:
        """See `NetworkSum`."""
        return PlainServer(call, tuple(members) if call.secret else call.cohort(roster), records, read)

    def client(
        self, terms: PlainTerms, ref: SumRef, identity: Signer, roster: KeyRoster, random: PrivateRandom, records: Sequence[bytes]
    ) -> PlainClient:
        """See `NetworkSum`. It draws nothing at random."""
        return PlainClient(identity, roster, SumExpected.of(ref, terms), records)
