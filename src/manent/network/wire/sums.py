"""What server and sites each derive from the same plan: how many are asked, the terms of a sum, its call, and its parties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from manent.core.errors import ProtocolAbort, Refused
from manent.core.parties import AnyCall, AnyTerms, ClientParty, KeyRoster, NetworkSum, Read, ServerParty, Signer, SumRef
from manent.core.protocols import SummationTraits, traits
from manent.core.randomness import PrivateRandom
from manent.crypto.samplers.chance import bernoulli
from manent.privacy.check import Plan
from manent.summation.parties.cohort import SEED_BYTES, draw_cohort

OVER_SELECTION = 1.3
"""More clients are asked than a cohort of fixed size needs, by this factor, where the first answers are enough."""


@dataclass(frozen=True)
class StudySum:
    """One sum of a study.

    Attributes:
        name: the kind of sum.
        index: which sum of the round it is, from 0.
        round: counted from 1.
        model: digest of what the clients are sent, 32 bytes.
    """

    name: str
    index: int
    round: int
    model: bytes

    def ref(self, plan: Plan) -> SumRef:
        """What a call and its parties know it by."""
        return SumRef(bytes.fromhex(plan.hash), f"{self.name}.{self.index}", self.round, self.model)


def network_of(plan: Plan) -> NetworkSum[Any, Any]:
    """How the plan's summation runs over a network. Raises Refused for one that runs in simulations only."""
    network = traits(plan.summation, SummationTraits).network
    if network is None:
        raise Refused(f"{type(plan.summation).__name__} is not run over a network; use Plain() or SecAgg().")
    return network


def check_network(plan: Plan) -> None:
    """Raises Refused for a study that does not run over a network."""
    network_of(plan).check()
    if plan.study.cohort.min_separation is not None:
        raise Refused("A cohort with min_separation is not drawn over a network; leave it out, or use simulate.")


def enough(plan: Plan, count: int) -> int:
    """With how many answers of `count` a sum is closed at once."""
    size = plan.study.cohort.size
    return min(size, count) if size is not None and network_of(plan).first_answers_do else count


def asked(plan: Plan, roster: int) -> int | None:
    """How many of a roster are asked for a sum; None where that is random.

    In a sum with privacy everyone who is asked is waited for, so nobody beyond the cohort's size is asked: who is quick must not
    decide who is in the sum.
    """
    cohort = plan.study.cohort
    if cohort.sampling_probability is not None:
        return None
    if cohort.size is None:
        return min(plan.public.clients, roster)
    if plan.privacy is not None or not network_of(plan).first_answers_do:
        return cohort.size
    return min(math.ceil(OVER_SELECTION * cohort.size), roster)


def draw_asked(plan: Plan, roster: int, random: PrivateRandom) -> int:
    """How many are asked; where that is random, each of the roster is drawn with the study's probability."""
    count = asked(plan, roster)
    if count is not None:
        return count
    cohort = plan.study.cohort
    drawn = int(bernoulli(cohort.sampling_probability or 1.0, roster, random).sum())
    return drawn if cohort.maximum is None else min(drawn, cohort.maximum)


def terms(plan: Plan, name: str, count: int) -> AnyTerms:
    """The terms of a sum of this kind that asks `count` clients; those of a secret cohort do not tell `count`.

    Raises Refused where there are none.
    """
    count = 0 if plan.secret_cohort else count
    of = (plan.stacks[name].form, count, plan.gathering.minimum, enough(plan, count))
    found: AnyTerms = network_of(plan).terms(*of)
    return found


def make_call(plan: Plan, sum: StudySum, attempt: int, count: int, roster: KeyRoster, beacon: bytes) -> AnyCall:
    """The call to one attempt that asks `count` clients, with a beacon of the server's own; of a secret cohort it tells neither.

    Raises Refused as `terms` does.
    """
    beacon = b"" if plan.secret_cohort else beacon
    called: AnyCall = network_of(plan).call(terms(plan, sum.name, count), sum.ref(plan), attempt, roster, beacon)
    return called


def read_call(plan: Plan, body: bytes) -> AnyCall:
    """Raises ProtocolAbort for bytes that are no call of the study's summation."""
    call: AnyCall = network_of(plan).read_call(body)
    return call


def draw_members(plan: Plan, roster: KeyRoster, count: int, random: PrivateRandom) -> tuple[bytes, ...]:
    """The identities of a secret cohort of this size, by position; none where the call tells the cohort.

    Only the server draws and knows them. With a count of `draw_asked`, each of the roster is in the cohort independently; of a
    size that is fixed or cut, it is a uniformly random choice.
    """
    if not plan.secret_cohort:
        return ()
    drawn = draw_cohort(len(roster.identities), random.bytes(SEED_BYTES), count)
    return tuple(roster.identities[index] for index in drawn)


def server_party(
    plan: Plan, call: AnyCall, roster: KeyRoster, records: Sequence[bytes], read: Read, members: Sequence[bytes] = ()
) -> ServerParty:
    """The server's party, rebuilt from its log.

    Args:
        members: of a secret cohort, see `draw_members`.
    """
    return network_of(plan).server(call, roster, records, read, members)


def check_roster(plan: Plan, roster: int) -> None:
    """Raises Refused for a roster of a size that the plan does not hold for.

    A guarantee for clients counts on the population that it was derived for: among fewer, each is sampled more often, and fewer
    bear the noise. Among more, a cohort that is cut at a maximum is cut more often than is paid for.
    """
    planned, cohort = plan.public.clients, plan.study.cohort
    private = plan.privacy is not None and plan.privacy.unit == "client"
    fewest = planned if private else cohort.size or 1
    most = planned if private and cohort.maximum is not None else roster
    if not fewest <= roster <= most:
        needs = "just so many" if most == planned else f"at least {fewest}"
        raise Refused(
            f"The study was planned for {planned} sites, and its plan holds for {needs}; the roster has {roster}. "
            f"Submit it under another name, so that it is planned for the sites that there are."
        )


def check_count(plan: Plan, roster: int, count: int) -> None:
    """Raises ProtocolAbort where a server asks another number of clients than the study says, or fewer than its plan needs."""
    wanted, most = asked(plan, roster), plan.study.cohort.maximum or roster
    if (wanted is not None and count != wanted) or not 1 <= count <= most:
        raise ProtocolAbort(f"The server asks {count} clients; this study asks {wanted or f'at most {most}'} of {roster}.")
    if count < plan.gathering.minimum:
        raise ProtocolAbort(f"The server asks {count} clients; this study's plan needs {plan.gathering.minimum} at least.")


def client_party(
    plan: Plan,
    call: AnyCall,
    sum: StudySum,
    identity: Signer,
    roster: KeyRoster,
    random: PrivateRandom,
    records: Sequence[bytes],
) -> ClientParty:
    """A client's party. What it expects comes from its own plan, and from the digest of what it was really sent.

    Raises ProtocolAbort where the number of clients that are asked does not follow from the study, and for a call that names a
    cohort that is to be secret, or the reverse; Refused where too few are asked, or the plan does not hold for the roster.
    """
    check_roster(plan, len(roster.identities))
    count = call.terms.clients
    if call.secret != plan.secret_cohort:
        kind = "names its cohort, which this study's guarantee takes to be secret" if plan.secret_cohort else "hides its cohort"
        raise ProtocolAbort(f"The server's call {kind}; this client does not answer it.")
    if not call.secret:
        check_count(plan, len(roster.identities), count)
    own = terms(plan, sum.name, count)
    return network_of(plan).client(own, sum.ref(plan), identity, roster, random, records)
