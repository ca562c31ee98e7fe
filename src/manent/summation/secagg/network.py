"""A masked sum between a server and clients over a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from manent.core.errors import Refused
from manent.core.layers import Form
from manent.core.parties import KeyRoster, Read, Signer, SumRef
from manent.core.randomness import PrivateRandom
from manent.summation.parties.call import Beacon
from manent.summation.secagg.client import SecAggClient
from manent.summation.secagg.parameters import Adversary
from manent.summation.secagg.server import SecAggServer
from manent.summation.secagg.terms import Call, Expected, Terms


@final
@dataclass(frozen=True)
class SecAggNetwork:
    """See `NetworkSum`.

    Attributes:
        terms_of: the terms for vectors of a form, from how many are asked and the fewest answers.
        beacon: what the cohort and the graph are drawn from.
        adversary: whom the masks withstand.
    """

    terms_of: Callable[[Form, int, int], Terms]
    beacon: Beacon
    adversary: Adversary

    @property
    def first_answers_do(self) -> bool:
        """Everyone who shared its secrets is waited for: nobody who is quick decides who is in the sum."""
        return False

    @property
    def tells_cohort(self) -> bool:
        """Each member shares secrets with others, and checks that the beacon drew them."""
        return True

    @property
    def messages(self) -> int:
        """Advert, shares, upload, consent (under the active adversary) and reveal."""
        return 5 if self.adversary == "active" else 4

    def check(self) -> None:
        """Raises Refused for a public beacon, which no server looks up yet."""
        if self.beacon == "public":
            raise Refused(
                "A public beacon is not looked up yet; use SecAgg(beacon='server'), whose statement says what that means."
            )

    def terms(self, form: Form, count: int, minimum: int, enough: int) -> Terms:
        """See `NetworkSum`; everyone who is asked is waited for."""
        return self.terms_of(form, count, minimum)

    def call(self, terms: Terms, ref: SumRef, attempt: int, roster: KeyRoster, beacon: bytes) -> Call:
        """See `NetworkSum`."""
        return Call.of(terms, ref, attempt, roster, beacon, "server")

    def read_call(self, body: bytes) -> Call:
        """Raises ProtocolAbort for bytes that are no call."""
        return Call.read(body)

    def server(
        self, call: Call, roster: KeyRoster, records: Sequence[bytes], read: Read, members: Sequence[bytes] = ()
    ) -> SecAggServer:
        """See `NetworkSum`. It reads no uploads that are stored: each is added as it comes."""
        return SecAggServer(call, roster, records)

    def client(
        self, terms: Terms, ref: SumRef, identity: Signer, roster: KeyRoster, random: PrivateRandom, records: Sequence[bytes]
    ) -> SecAggClient:
        """See `NetworkSum`."""
        return SecAggClient(identity, roster, Expected.of(ref, terms), random, records)
