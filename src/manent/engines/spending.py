"""What a run spends: counted always, and kept in a ledger where one is given."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from manent.accounting import Ledger, Repeated, Reservation
from manent.core.errors import BudgetSpent, Refused
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.engines.folder import RunFolder
from manent.privacy.check import Plan
from manent.storage import open_store

RESERVATION = "reservation.json"


def open_ledger(ledger: Ledger | str | Path | None) -> Ledger | None:
    """A ledger; or the one in a SQLite file or a database."""
    return Ledger(open_store(ledger)) if isinstance(ledger, str | Path) else ledger


def data_set_name(name: str) -> str:
    """The name under which a ledger knows a federation: what does not fit is replaced by hyphens."""
    return re.sub(r"[^A-Za-z0-9._:@-]+", "-", name).strip("-._:@") or "federation"


class Spending:
    """Everything a run may release is reserved before data are touched; what it releases is counted, and committed.

    A crash leaves the reservation as it is, and so spent. A resumed run goes on under its own.
    """

    def __init__(self, plan: Plan, released: int, ledger: Ledger | None, reservation: Reservation | None) -> None:
        self.plan, self.released, self._ledger, self._reservation = plan, released, ledger, reservation

    @classmethod
    def begin(
        cls, plan: Plan, released: int, ledger: Ledger | None, data_set: str, folder: RunFolder | None, random: PrivateRandom
    ) -> Spending:
        """Reserve, or find the reservation of an interrupted run. The folder is made only once the budget covers the study.

        Raises:
            BudgetSpent: where the data set's budget does not cover the study. Nothing has run then.
            Refused: for a study without differential privacy, which no ledger can account.
        """
        if ledger is None:
            return cls(plan, released, None, None)
        if plan.privacy is None:
            raise Refused(
                "A ledger accounts differential privacy, and this study has none. Add layers and a budget, or no ledger."
            )
        name, event = data_set_name(data_set), plan.privacy.event
        if folder is not None and (folder.path / RESERVATION).exists():
            kept, _ = ledger.find(folder.read(RESERVATION)["reservation"])
            if (kept.data_set, kept.event) == (name, event):
                return cls(plan, released, ledger, kept)
        reservation = ledger.reserve(
            name,
            event,
            privacy_unit=plan.privacy.unit,
            neighboring_relation=plan.privacy.relation,
            study=plan.hash,
            random=random,
        )
        spending = cls(plan, released, ledger, reservation)
        if folder is not None:
            try:
                folder.write(RESERVATION, {"reservation": reservation.id, "data_set": reservation.data_set})
            except OSError:
                spending.finish()
                raise
        return spending

    def check(self) -> None:
        """Raises BudgetSpent, before another sum is formed, where all that was accounted has been released."""
        if self.plan.privacy is not None and self.released >= self.plan.privacy.releases:
            raise BudgetSpent(
                f"The study accounts {self.plan.privacy.releases} releases, and that many were made. Its algorithm asks for more "
                f"sums than it declares (SumSpec.every)."
            )

    def release(self) -> None:
        """Count a release."""
        self.released += 1

    def commit(self, total: Array) -> None:
        """Record a release that is durable now. Until then, and should it never come to it, it counts as spent all the same."""
        if self._ledger is not None and self._reservation is not None:
            self._ledger.commit(self._reservation, hashlib.sha256(np.ascontiguousarray(total).tobytes()).hexdigest())

    def finish(self) -> None:
        """The run is over: what it did not release goes back."""
        if self._ledger is None or self._reservation is None or self.plan.privacy is None:
            return
        if not self._ledger.running(self._reservation):
            return  # a finished run that was resumed
        _, state = self._ledger.find(self._reservation.id)
        if self.released == 0:
            self._ledger.give_back(self._reservation, "nothing was released")
            return
        if state == "reserved":
            self._ledger.commit(self._reservation, "of a release whose process was interrupted")
        event = self._reservation.event
        if isinstance(event, Repeated):  # so many in each release: one, or the steps of private training
            self._ledger.finish(self._reservation, self.released * (event.count // self.plan.privacy.releases))
