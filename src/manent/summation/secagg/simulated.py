"""Secure aggregation in a simulation: the real protocol between parties in one process, or a model of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import final

import numpy as np

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import SERVER, Envelope, Step, SumRef
from manent.core.protocols import Dropout, Occasion
from manent.core.randomness import PrivateRandom
from manent.core.sums import Partial, Total, TreeSum
from manent.core.vectors import Array
from manent.crypto.identity import SigningKey
from manent.summation.parties.call import Beacon, Roster
from manent.summation.secagg import graph
from manent.summation.secagg.client import SecAggClient
from manent.summation.secagg.server import SecAggServer
from manent.summation.secagg.terms import Call, Expected, Terms


@final
class ProtocolSum:
    """A sum by the real protocol. One process holds every client's keys, shares, masks and signatures, and the server.

    The beacon is drawn here and the identities are new; in a deployment both come from outside. Clients vanish at the stage that
    the occasion says.

    Args:
        beacon: of which kind the beacon is said to be.
        random: for every secret.
        threads: how many take masks off side by side.
    """

    def __init__(self, terms: Terms, occasion: Occasion, beacon: Beacon, random: PrivateRandom, threads: int) -> None:
        identities = [SigningKey.generate(random) for _ in range(occasion.count)]
        roster = Roster.of(occasion.round, [identity.public for identity in identities])
        ref = SumRef(occasion.study, occasion.sum, occasion.round, occasion.model)
        call = Call.of(terms, ref, 1, roster, random.bytes(32), beacon)
        expected = replace(Expected.of(ref, terms), beacon=call.beacon if beacon == "public" else None)
        self.size, self._terms = terms.size, terms
        self._clients = [SecAggClient(identity, roster, expected, random) for identity in identities]
        self._by_name = {client.name: (client, fate) for client, fate in zip(self._clients, occasion.vanish, strict=True)}
        self._server = SecAggServer(call, roster, threads=threads)
        self._taken: set[int] = set()
        self._added: set[bytes] = set()
        self._run(self._server.start())
        while self._server.phase in ("advertise", "share"):
            self._run(self._server.deadline())

    def add(self, position: int, vector: Array) -> None:
        """Copy, mask, send and add a client's int64[d] vector."""
        self._take(position)
        self._added.add(self._clients[position].identity.public)
        self._run(self._clients[position].contribute(vector))

    def skip(self, position: int) -> None:
        """Record that a client has vanished."""
        self._take(position)

    def merge(self, part: Partial) -> None:
        """Add one client's vector. Raises InvalidInput for a sum of several, which no client could have sent."""
        if part.level:
            raise InvalidInput("The vectors of several clients were added before they were masked.")
        if part.total is None:
            self.skip(part.index)
        else:
            self.add(part.index, part.total)

    def finish(self) -> Total:
        """int64[d], the sum of the vectors that were added. Raises ProtocolAbort where too many clients have vanished."""
        if len(self._taken) != len(self._clients):
            raise ProtocolAbort(
                f"Only {len(self._taken)} of {len(self._clients)} positions were added or skipped; no sum is formed."
            )
        while not self._server.finished:
            self._run(self._server.deadline())
        refusals = [reason for client in self._clients for reason in client.refusals]
        if self._server.phase == "aborted" and refusals:
            raise ProtocolAbort(f"{self._server.reason} A client refused: {refusals[0]}")
        total, missing = self._server.total, self._added - set(self._server.survivors)
        if missing:
            raise ProtocolAbort(f"The sum lacks {len(missing)} clients that were added. One refused: {refusals[0]}")
        return total

    def _take(self, position: int) -> None:
        if not 0 <= position < len(self._clients):
            raise InvalidInput(f"Position {position} is outside a cohort of {len(self._clients)}.")
        if position in self._taken:
            raise ProtocolAbort(f"Position {position} was given twice; a term is summed once.")
        self._taken.add(position)

    def _run(self, step: Step) -> None:
        """Deliver messages until there are none."""
        queue = deque(step.send)
        while queue:
            envelope = queue.popleft()
            if envelope.recipient == SERVER:
                queue.extend(self._server.receive(envelope).send)
            elif self._is_there(envelope):
                queue.extend(self._by_name[envelope.recipient][0].receive(envelope).send)

    def _is_there(self, envelope: Envelope) -> bool:
        """Whether a client is still there when a message comes to it."""
        client, vanishes = self._by_name[envelope.recipient]
        if vanishes == "before_training":
            return False
        return not (vanishes == "after_upload" and client.stage == "uploaded" and self._server.phase != "upload")


@final
class ModelledSum:
    """The sum that the protocol would form, without the cryptography. It aborts where the protocol would."""

    def __init__(self, terms: Terms, occasion: Occasion) -> None:
        self._terms, self._occasion = terms, occasion
        self._sum = TreeSum(terms.size, occasion.count, np.int64)

    def add(self, position: int, vector: Array) -> None:
        """Add a client's int64[d] vector."""
        self._sum.add(position, vector)

    def skip(self, position: int) -> None:
        """Record that a client has vanished."""
        self._sum.skip(position)

    def merge(self, part: Partial) -> None:
        """Take the sum over an aligned run of positions."""
        self._sum.merge(part)

    def finish(self) -> Total:
        """int64[d]. Raises ProtocolAbort where the protocol would."""
        total = self._sum.finish()
        check_recoverable(self._terms, self._occasion.vanish)
        bits = self._terms.bits
        wrapped: Total = ((total + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1))
        return wrapped


def check_recoverable(terms: Terms, vanish: Sequence[Dropout | None]) -> None:
    """Raises ProtocolAbort where, by the protocol's rules, the clients that are left cannot open what the sum needs.

    Positions stand on the graph in the order of the cohort. Where clients vanish at random, that is as random as an order drawn
    from a beacon.

    Args:
        vanish: by position, when a client drops out; None where it does not.
    """
    shared = {p for p, fate in enumerate(vanish) if fate != "before_training"}
    masked = shared
    for _ in ("Directory", "Deliveries"):  # a client that finds too few neighbours there leaves
        shared, masked = masked, {p for p in masked if 1 + _near(terms, p, masked) >= terms.threshold}
    given = {p for p, fate in enumerate(vanish) if fate in (None, "after_upload")}
    if not given <= masked:
        raise ProtocolAbort(f"Too few of the neighbourhood of position {min(given - masked)} are left for it to take part.")
    there = {p for p in given if vanish[p] is None}
    if len(given) < terms.minimum:
        raise ProtocolAbort(f"{len(given)} of {terms.clients} clients survive; at least {terms.minimum} are needed.")
    agreeing = given if terms.adversary == "curious" else there
    _check_shares(terms, shared, given, there, agreeing)


def _check_shares(terms: Terms, shared: Set[int], given: Set[int], there: Set[int], agreeing: Set[int]) -> None:
    """Raises ProtocolAbort where too few neighbours of a position are left to open its share, or to agree on the survivors.

    Args:
        shared: positions whose secrets were shared.
        given: positions whose vectors are in the sum.
        there: those of them that still answer.
        agreeing: those on whose consent a survivor relies.
    """
    for position in sorted(shared):
        if position in there and 1 + _near(terms, position, agreeing) < terms.threshold:
            raise ProtocolAbort(f"Too few of the neighbourhood of position {position} are left to agree on the survivors.")
        needed = position not in there and (position in given or _near(terms, position, given))
        if needed and (holders := _near(terms, position, there)) < terms.threshold:
            raise ProtocolAbort(f"{holders} shares of position {position} are left; {terms.threshold} are needed.")


def _near(terms: Terms, position: int, of: Set[int]) -> int:
    """How many of these positions are neighbours of a position."""
    return sum(v in of for v in graph.neighbours(position, terms.clients, terms.degree))
