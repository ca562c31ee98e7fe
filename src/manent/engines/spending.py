"""What a run spends: counted always, and kept in a ledger where one is given."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from manent.accounting import Ledger, Reservation
from manent.core.errors import BudgetSpent, Refused
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.engines.folder import RunFolder
from manent.privacy.check import Plan
from manent.rounds.spending import all_released, reserve, settle, uses
from manent.storage import open_store

RESERVATION = "reservation.json"


def open_ledger(ledger: Ledger | str | Path | None) -> Ledger | None:
    """A ledger as it is; or the one in a SQLite file or a database, by its path or URL."""
    return Ledger(open_store(ledger)) if isinstance(ledger, str | Path) else ledger


def data_set_name(name: str) -> str:
    """The name under which a ledger knows a federation: what does not fit is replaced by hyphens."""
    return re.sub(r"[^A-Za-z0-9._:@-]+", "-", name).strip("-._:@") or "federation"


class Spending:
    """All that a run may release is reserved before data are touched; what it releases is counted, and committed.

    A crash leaves the reservation as it is, and so spent. A resumed run continues under its own reservation.
    """

    def __init__(self, plan: Plan, released: int, ledger: Ledger | None, reservation: Reservation | None) -> None:
        self.plan, self.released, self._ledger, self._reservation = plan, released, ledger, reservation

    @classmethod
    def begin(
        cls, plan: Plan, released: int, ledger: Ledger | None, data_set: str, folder: RunFolder | None, random: PrivateRandom
    ) -> Spending:
        """Reserve the budget, or find the reservation of an interrupted run.

        The folder is made only once the budget covers the study.

        Args:
            released: how many sums an interrupted run had released.
            ledger: None where nothing is accounted.

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
        name = data_set_name(data_set)
        event = plan.privacy.charged(ledger.account(name).budget.against)
        if folder is not None and (folder.path / RESERVATION).exists():
            kept, _ = ledger.find(folder.read(RESERVATION)["reservation"])
            if (kept.data_set, kept.event) == (name, event):
                return cls(plan, released, ledger, kept)
        reservation = reserve(ledger, name, event, plan, plan.hash, random)
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
        if all_released(self.plan, self.released):
            raise BudgetSpent(
                f"The study accounts {self.released} releases, and that many were made. Its algorithm asks for more "
                f"sums than it declares (SumSpec.every)."
            )

    def release(self) -> None:
        """Count a release."""
        self.released += 1

    def commit(self, total: Array) -> None:
        """Record a release that is durable now. One that is never recorded counts as spent all the same."""
        if self._ledger is not None and self._reservation is not None:
            self._ledger.commit(self._reservation, hashlib.sha256(np.ascontiguousarray(total).tobytes()).hexdigest())

    def finish(self) -> None:
        """The run is over: give back what it did not release. A finished run that was resumed changes nothing."""
        if self._ledger is None or self._reservation is None:
            return
        each = uses(self.plan, self._reservation.event)
        nothing, unrecorded = "nothing was released", "of a release whose process was interrupted"
        settle(self._ledger, self._reservation, self.released, each, nothing=nothing, unrecorded=unrecorded)
