"""A site's own account: what a study costs is set aside before data are touched, and stays spent whatever crashes."""

from __future__ import annotations

from dataclasses import replace

from manent.accounting import Ledger
from manent.crypto import SystemRandom
from manent.network.policy import Policy, charged
from manent.network.site.state import Known, SiteState
from manent.privacy.check import Plan


class Account:
    """The ledger of a site's data sets, with the budgets that its policy gives them."""

    def __init__(self, state: SiteState, policy: Policy) -> None:
        self._state, self._policy = state, policy
        self.ledger = Ledger(state.store)
        for name, rule in policy.data.items():
            if rule.budget is not None:
                self.ledger.open(name, rule.budget)

    def reserve(self, known: Known, plan: Plan) -> Known:
        """Set aside what a study may release, once. Raises BudgetSpent where the budget does not cover it."""
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
        return self._state.change_study(known.hash, lambda found: replace(found, reservation=reservation.id))

    def finish(self, known: Known) -> None:
        """A study is over: what it cannot have released goes back, if no sum of it was begun."""
        if not known.reservation:
            return
        reservation, state = self.ledger.find(known.reservation)
        if self.ledger.running(reservation) and state == "reserved" and not known.round:
            self.ledger.give_back(reservation, "no sum of the study was begun")
