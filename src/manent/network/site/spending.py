"""A site's own account: what a study costs is set aside before data are touched, and stays spent whatever crashes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from manent.accounting import Event, Ledger, Repeated, without_sampling
from manent.core.errors import ProtocolAbort
from manent.core.store import Transaction
from manent.crypto import SystemRandom
from manent.network.site.state import Known, SiteState
from manent.network.trust.policy import Policy, charged
from manent.privacy.check import Plan


class Account:
    """The ledger of a site's data sets, with the budgets that its policy gives them.

    Whatever the site has sent counts as seen, whether the server says that it released the sum or abandoned it.
    """

    def __init__(self, state: SiteState, policy: Policy) -> None:
        self._state, self._policy = state, policy
        self.ledger = Ledger(state.store)
        for name, rule in policy.data.items():
            if rule.budget is not None:
                self.ledger.open(name, rule.budget)

    def reserve(self, known: Known, plan: Plan) -> Known:
        """Set aside what a study may release, once.

        Raises BudgetSpent where the budget does not cover it, ProtocolAbort where what was set aside has been given back.
        """
        if known.reservation and not self.ledger.running(self.ledger.find(known.reservation)[0]):
            raise ProtocolAbort("The study was over, and what it had set aside is settled; nothing more is sent for it.")
        event, data = charged(self._policy, plan), self._state.bundle(known.hash).data
        rule = self._policy.data.get(data)
        if event is None or plan.privacy is None or known.reservation or rule is None or rule.budget is None:
            return known
        reservation = self.ledger.reserve(
            data,
            event,
            privacy_unit=plan.privacy.unit,
            neighboring_relation=plan.privacy.relation,
            study=known.hash,
            random=SystemRandom(),
        )
        steps = _steps(event, plan)
        return self._state.change_study(known.hash, lambda found: replace(found, reservation=reservation.id, steps=steps))

    def commit(self, known: Known, sum: str) -> Callable[[Transaction], None]:
        """Records, in the transaction that ends a released sum for the site, that what was set aside is spent."""
        if not known.reservation:
            return lambda transaction: None
        reservation, _ = self.ledger.find(known.reservation)
        return lambda transaction: self.ledger.commit(reservation, sum, transaction)

    def finish(self, known: Known) -> None:
        """A study is over: what no sum has used goes back. Nothing does as long as a sum is under way."""
        if not known.reservation or any(task.study == known.hash for task in self._state.tasks()):
            return
        reservation, state = self.ledger.find(known.reservation)
        if not self.ledger.running(reservation):
            return
        if not known.sent and state == "reserved":
            self.ledger.give_back(reservation, "nothing was sent to any sum of the study")
        elif known.steps:
            if state == "reserved":
                self.ledger.commit(reservation, "sent to sums of which the server says that none was released")
            self.ledger.finish(reservation, known.sent * known.steps)


def _steps(event: Event, plan: Plan) -> int:
    """How much of a repeated event one sum uses, where the sums that this site sent to are all that count of it.

    An event that counts on the chance of being sampled is about all rounds, whoever was asked in them.
    """
    if plan.privacy is None or not isinstance(event, Repeated):
        return 0
    own = plan.privacy.unit == "example" or event == without_sampling(event)
    return event.count // plan.privacy.releases if own else 0
