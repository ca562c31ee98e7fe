"""What a study spends of a ledger, the same for a simulation's ledger and a site's own account.

All that a study may release is reserved before any data are touched. Releases are counted, and when the study is over what it
did not use goes back. After a crash the reservation stays, and counts as spent.
"""

from __future__ import annotations

from manent.accounting import Event, Ledger, Reservation
from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.privacy.check import Plan


def reserve(ledger: Ledger, data_set: str, event: Event, plan: Plan, study: str, random: PrivateRandom) -> Reservation:
    """Reserve all that a study may release. It is durable when this returns.

    Args:
        event: all releases as one event: the plan's own, or what its holder charges for it.
        study: the study's hash, for the record.
        random: the source that the noise will be drawn from.

    Raises:
        BudgetSpent: where the data set's budget does not cover it. Nothing is reserved then.
        Refused: for another privacy unit or relation than the budget's, and for a source of randomness that is not secure.
        InvalidInput: for a data set without a budget, and for a study without differential privacy.
    """
    if plan.privacy is None:
        raise InvalidInput("A study without differential privacy spends nothing that could be reserved. Add layers and a budget.")
    unit, relation = plan.privacy.unit, plan.privacy.relation
    return ledger.reserve(data_set, event, privacy_unit=unit, neighboring_relation=relation, study=study, random=random)


def all_released(plan: Plan, released: int) -> bool:
    """Whether everything that the plan accounts has been released."""
    return plan.privacy is not None and released >= plan.privacy.releases


def abandoned_counts(plan: Plan, sent: int) -> bool:
    """Whether an abandoned sum counts as a release: some vectors were sent, and somebody may have learned of them."""
    return plan.abandoned_is_spent and sent > 0


def uses(plan: Plan, event: Event) -> int:
    """How many repetitions of an event one release uses: one, or the steps of private training. 0 where nothing repeats."""
    return 0 if plan.privacy is None else event.per_release(plan.privacy.releases)


def settle(ledger: Ledger, reservation: Reservation, released: int, each: int, *, nothing: str, unrecorded: str) -> None:
    """A study is over: give back what it did not use. A reservation that is settled already stays as it is.

    Args:
        released: how many releases were made.
        each: repetitions that one release uses, see `uses`; with 0 nothing can be given back once something was released.
        nothing: the reason for the record where nothing was released, and all goes back.
        unrecorded: the name under which releases are recorded that the ledger has no record of.
    """
    if not ledger.running(reservation):
        return
    _, state = ledger.find(reservation.id)
    if not released and state == "reserved":
        ledger.give_back(reservation, nothing)
        return
    if state == "reserved":
        ledger.commit(reservation, unrecorded)
    if each:
        ledger.finish(reservation, released * each)
