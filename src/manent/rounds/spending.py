"""What a study spends of a ledger, the same for a simulation's ledger and a site's own account.

All that a study may release is reserved before any data are touched. Releases are counted, and when the study is over what it
did not use goes back. After a crash the reservation stays, and counts as spent.
"""

from __future__ import annotations

from manent.accounting import Event, Ledger, Reservation
from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.privacy.check import Plan


def reserve(
    ledger: Ledger, data_set: str, event: Event, plan: Plan, study: str, random: PrivateRandom, id: str | None = None
) -> Reservation:
    """Reserve all that a study may release. It is durable when this returns.

    Args:
        event: all releases as one event: the plan's own, or what its holder charges for it.
        study: the study's hash, for the record.
        random: the source that the noise will be drawn from.
        id: that was noted before; see `Ledger.reserve`.

    Raises:
        BudgetSpent: where the data set's budget does not cover it. Nothing is reserved then.
        Refused: for another privacy unit or relation than the budget's, and for a source of randomness that is not secure.
        InvalidInput: for a data set without a budget, and for a study without differential privacy.
    """
    if plan.privacy is None:
        raise InvalidInput("A study without differential privacy spends nothing that could be reserved. Add layers and a budget.")
    unit, relation = plan.privacy.unit, plan.privacy.relation
    return ledger.reserve(
        data_set,
        event,
        privacy_unit=unit,
        neighboring_relation=relation,
        study=study,
        random=random,
        releases=plan.privacy.releases,
        id=id,
    )


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
        each: repetitions that one release uses, see `uses`; with 0 nothing is given back once something was released.
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
    else:
        ledger.close(reservation)


def settle_by_hand(ledger: Ledger, id: str, released: int | None) -> None:
    """Settle the reservation of a study whose process is gone for good. Nothing more can be released under it.

    Args:
        released: how many releases it made, as its folder or history tells; None where nobody knows: then all of it is spent.

    Raises:
        InvalidInput: for a reservation that is unknown or settled, for fewer releases than the ledger knows of or more than were
            reserved, and for a number where the event is spent as a whole.
    """
    found = next((one for one in ledger.unsettled() if one.reservation.id == id), None)
    if found is None:
        known = ", ".join(one.reservation.id for one in ledger.unsettled()) or "none"
        raise InvalidInput(f"No reservation {id!r} waits to be settled; there are: {known}.")
    reservation, most = found.reservation, found.most
    if released is not None and not found.releases <= released <= (most or released):
        raise InvalidInput(f"Of {most} releases, at least {found.releases} were made by the ledger; found {released}.")
    each = 0 if released is None or most is None else reservation.event.per_release(most)
    if released and not each:
        raise InvalidInput(f"Reservation {id} is spent as a whole once something was released. Leave the number of releases out.")
    words = {"nothing": "settled by hand: nothing was released", "unrecorded": "settled by hand"}
    settle(ledger, reservation, 1 if released is None else released, each, **words)
