"""What server and sites derive, each by itself, from the same plan: the terms of a sum, its call, and its parties."""

from __future__ import annotations

import math
from collections.abc import Sequence

from manent.core.errors import ProtocolAbort, Refused
from manent.core.randomness import PrivateRandom
from manent.crypto.identity import SigningKey
from manent.crypto.samplers.chance import bernoulli
from manent.privacy.check import Plan
from manent.summation.plain.parties import PlainCall, PlainClient, PlainExpected, PlainServer, PlainTerms, Read
from manent.summation.secagg import Call, Expected, Roster, SecAgg, SecAggClient, SecAggServer, Terms

ServerParty = PlainServer | SecAggServer
ClientParty = PlainClient | SecAggClient
AnyCall = Call | PlainCall
OVER_SELECTION = 1.3
"""Of a cohort of fixed size, so many times as many are asked where that is open to no objection."""


def sum_label(name: str, index: int) -> str:
    """The name of a sum in its call: that of its kind, and which sum of the round it is."""
    return f"{name}.{index}"


def hidden(plan: Plan) -> bool:
    """Whether its sums are formed by secure aggregation. Raises Refused for a summation that has no parties."""
    if isinstance(plan.summation, SecAgg):
        return True
    if type(plan.summation).__name__ != "Plain":
        raise Refused(f"{type(plan.summation).__name__} is not run over a network; use Plain() or SecAgg().")
    return False


def check_network(plan: Plan) -> None:
    """Raises Refused for a study that is not run over a network."""
    if hidden(plan) and getattr(plan.summation, "beacon", "server") == "public":
        raise Refused("A public beacon is not looked up yet; use SecAgg(beacon='server'), whose statement says what that means.")
    if plan.study.cohort.min_separation is not None:
        raise Refused("A cohort with min_separation is not drawn over a network; leave it out, or use simulate.")


def enough(plan: Plan, count: int) -> int:
    """With how many answers of `count` a sum is closed at once."""
    size = plan.study.cohort.size
    return count if size is None or hidden(plan) else min(size, count)


def asked(plan: Plan, roster: int) -> int | None:
    """How many of a roster are asked for a sum; None where that is random.

    Of a sum with privacy nobody is asked who will not be waited for: who is quick must not decide who is in it.
    """
    cohort = plan.study.cohort
    if cohort.sampling_probability is not None:
        return None
    if cohort.size is None:
        return min(plan.public.clients, roster)
    if hidden(plan) or plan.privacy is not None:
        return cohort.size
    return min(math.ceil(OVER_SELECTION * cohort.size), roster)


def draw_asked(plan: Plan, roster: int, random: PrivateRandom) -> int:
    """How many are asked, drawn where it is random: each of the roster with the study's probability."""
    count = asked(plan, roster)
    if count is not None:
        return count
    cohort = plan.study.cohort
    drawn = int(bernoulli(cohort.sampling_probability or 1.0, roster, random).sum())
    return drawn if cohort.maximum is None else min(drawn, cohort.maximum)


def terms(plan: Plan, name: str, count: int) -> Terms | PlainTerms:
    """The terms of a sum of `count` clients. Raises Refused where there are none."""
    form, minimum = plan.stacks[name].form, plan.gathering.minimum
    if isinstance(plan.summation, SecAgg):
        return plan.summation.terms(form, count, minimum)
    if not 0 <= minimum <= enough(plan, count):
        raise Refused(f"A sum of {count} clients is below the fewest that are needed, {minimum}.")
    bound = 0 if form.grid is None or form.largest is None else math.ceil(form.largest + form.spread)
    return PlainTerms(count, form.layout.size, form.grid is not None, bound, minimum, enough(plan, count))


def make_call(
    plan: Plan, name: str, index: int, round: int, attempt: int, count: int, roster: Roster, model: bytes, beacon: bytes
) -> AnyCall:
    """The call to one attempt, with a beacon of the server's own."""
    of, study = terms(plan, name, count), bytes.fromhex(plan.statement.study)
    about = (study, sum_label(name, index), round, attempt, roster.number, roster.root, model, beacon, "server")
    return Call(of, *about) if isinstance(of, Terms) else PlainCall(of, *about)  # type: ignore[arg-type]


def read_call(plan: Plan, body: bytes) -> AnyCall:
    """Raises ProtocolAbort for bytes that are no call of the study's kind."""
    return Call.read(body) if hidden(plan) else PlainCall.read(body)


def server_party(call: AnyCall, roster: Roster, records: Sequence[bytes], read: Read) -> ServerParty:
    """The server's party, rebuilt from its log."""
    return SecAggServer(call, roster, records) if isinstance(call, Call) else PlainServer(call, roster, records, read)


def check_count(plan: Plan, roster: int, count: int) -> None:
    """Raises ProtocolAbort where a server asks another number of clients than the study says."""
    wanted, most = asked(plan, roster), plan.study.cohort.maximum or roster
    if (wanted is not None and count != wanted) or not 1 <= count <= most:
        raise ProtocolAbort(f"The server asks {count} clients; this study asks {wanted or f'at most {most}'} of {roster}.")


def client_party(
    plan: Plan, call: AnyCall, index: int, name: str, round: int, model: bytes, identity: SigningKey, roster: Roster,
    random: PrivateRandom, records: Sequence[bytes],
) -> ClientParty:  # fmt: skip
    """A client's party, with what it expects by itself: from its own plan, and the digest of what it was really sent.

    Raises ProtocolAbort where the number of clients that are asked does not follow from the study, Refused where too few are.
    """
    count = call.terms.clients
    check_count(plan, len(roster.identities), count)
    of, study = terms(plan, name, count), bytes.fromhex(plan.statement.study)
    about = (study, sum_label(name, index), round, model)
    if isinstance(of, Terms):
        return SecAggClient(identity, roster, Expected(*about, of), random, records)
    return PlainClient(identity, roster, PlainExpected(*about, of), records)
