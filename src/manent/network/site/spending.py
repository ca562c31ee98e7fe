"""A site's own account: what a study costs is reserved before data are touched, and stays spent whatever crashes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from manent.accounting import Event, Ledger, Reservation, without_sampling
from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.store import Transaction
from manent.crypto import SystemRandom
from manent.network.site.state import Known, SiteState, Task
from manent.network.trust.policy import Policy, charged
from manent.privacy.check import Plan
from manent.rounds.spending import reserve, settle, uses


class Account:
    """The ledger of a site's data sets, with the budgets that its policy gives them.

    Whatever the site has sent counts as seen, whether the server says that it released the sum or abandoned it.
    """

    def __init__(self, state: SiteState, policy: Policy) -> None:
        self._state, self._policy = state, policy
        self.ledger = Ledger(state.store)
        for name, rule in policy.data.items():
            if rule.budget is not None:
                self.ledger.open(name, rule.budget, rule.period)

    def reserve(self, known: Known, plan: Plan) -> Known:
        """Reserve all that a study may release, once. Nothing is reserved without privacy, or for data without a budget.

        Raises BudgetSpent where the budget does not cover it, Refused as `charged` does, and ProtocolAbort where the study's
        reservation is settled already.
        """
        made = self._made(known)
        if made is not None and not self.ledger.running(made):
            raise ProtocolAbort("The study was over, and what it had set aside is settled; nothing more is sent for it.")
        data = self._state.bundle(known.hash).data
        event = charged(self._policy, plan, data)
        rule = self._policy.data.get(data)
        if event is None or known.reservation or rule is None or rule.budget is None:
            return known
        reservation = reserve(self.ledger, data, event, plan, known.hash, SystemRandom(), _id(known))
        steps = _steps(event, plan)
        return self._state.change_study(known.hash, lambda found: replace(found, reservation=reservation.id, steps=steps))

    def commit(self, known: Known, task: Task) -> Callable[[Transaction], None]:
        """What records a vector as released, in the transaction that keeps it, before it is sent.

        The transaction raises Refused for another vector than was sent to the sum before, and BudgetSpent for one more than the
        study has reserved.
        """
        if not known.reservation or not task.upload:
            return lambda transaction: None
        reservation, _ = self.ledger.find(known.reservation)
        place = (task.round, task.index)
        return lambda transaction: self.ledger.commit(reservation, task.upload, transaction, sum=place)

    def finish(self, known: Known) -> None:
        """A study is over: give back what no sum has used. While a sum is still under way, this does nothing."""
        reservation = self._made(known)
        if reservation is None or any(task.study == known.hash for task in self._state.tasks()):
            return
        nothing = "nothing was sent to any sum of the study"
        unrecorded = "sent to sums of which the server says that none was released"
        settle(self.ledger, reservation, known.sent, known.steps, nothing=nothing, unrecorded=unrecorded)

    def _made(self, known: Known) -> Reservation | None:
        """A study's reservation, also where the site died before it had noted it; None where there is none."""
        try:
            return self.ledger.find(known.reservation or _id(known))[0]
        except InvalidInput:
            if known.reservation:
                raise
            return None


def _id(known: Known) -> str:
    """The id of a study's reservation. It follows from the study, so that nothing has to be noted first."""
    return known.hash[:32]


def _steps(event: Event, plan: Plan) -> int:
    """How many repetitions of an event one sum uses; 0 where the sums that this site sent to do not decide that.

    An event that counts on the chance of being sampled is about all rounds, whoever was asked in them.
    """
    if plan.privacy is None:
        return 0
    own = plan.privacy.unit == "example" or event == without_sampling(event)
    return uses(plan, event) if own else 0
