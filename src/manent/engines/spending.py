"""What a run spends: counted always, and kept in a ledger where one is given."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from manent.accounting import Ledger, Reservation
from manent.core.errors import BudgetSpent, InvalidInput, ManentError, Refused
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.engines.folder import Checkpoint, RunFolder
from manent.privacy.check import Plan
from manent.rounds.spending import all_released, reserve, settle, uses
from manent.storage import open_store

RESERVATION = "reservation.json"
ABANDONED = "abandoned"
"""In place of a digest, for a sum that was abandoned after vectors were sent to it."""


def open_ledger(ledger: Ledger | str | Path | None) -> Ledger | None:
    """A ledger as it is; or the one in a SQLite file or a database, by its path or URL."""
    return Ledger(open_store(ledger)) if isinstance(ledger, str | Path) else ledger


def data_set_name(name: str) -> str:
    """The name under which a ledger knows a federation: what does not fit is replaced by hyphens."""
    return re.sub(r"[^A-Za-z0-9._:@-]+", "-", name).strip("-._:@") or "federation"


def digest_of(total: Array) -> str:
    """SHA-256, in hexadecimal, of a total with its noise."""
    return hashlib.sha256(np.ascontiguousarray(total).tobytes()).hexdigest()


class Spending:
    """All that a run may release is reserved before data are touched; a release is counted, and committed before it is told.

    A crash leaves the reservation as it is, and so spent. A resumed run continues under its own reservation.
    """

    def __init__(self, plan: Plan, released: int, ledger: Ledger | None, reservation: Reservation | None) -> None:
        self.plan, self.released, self._ledger, self._reservation = plan, released, ledger, reservation

    @classmethod
    def begin(
        cls,
        plan: Plan,
        saved: Checkpoint | None,
        ledger: Ledger | None,
        data_set: str,
        folder: RunFolder | None,
        random: PrivateRandom,
    ) -> Spending:
        """Reserve the budget, or find the reservation of an interrupted run.

        A folder notes the id first, and then it is reserved under: no kill can part them. Where it is refused, the note goes.

        Args:
            saved: the checkpoint of an interrupted run.
            ledger: None where nothing is accounted.

        Raises:
            BudgetSpent: where the data set's budget does not cover the study. Nothing has run then.
            Refused: for a study without differential privacy, which no ledger can account.
            InvalidInput: for a run that has released sums, and whose reservation is not in this ledger.
        """
        released = 0 if saved is None else saved.released
        if ledger is None:
            return cls(plan, released, None, None)
        if plan.privacy is None:
            raise Refused(
                "A ledger accounts differential privacy, and this study has none. Add layers and a budget, or no ledger."
            )
        name = data_set_name(data_set)
        event = plan.privacy.charged(ledger.account(name).budget.against)
        noted = None if folder is None else _noted(folder)
        kept = None if noted is None else _found(ledger, noted, must=released > 0)
        if kept is not None and (kept.data_set, kept.event) == (name, event):
            return cls(plan, released, ledger, kept)
        id = noted if noted is not None and kept is None else Reservation.new_id()
        if folder is not None:
            folder.write(RESERVATION, {"reservation": id, "data_set": name})
        try:
            return cls(plan, released, ledger, reserve(ledger, name, event, plan, plan.hash, random, id))
        except ManentError:
            if folder is not None:
                folder.remove(RESERVATION)
            raise

    def check(self) -> None:
        """Raises before another sum is formed.

        Raises:
            BudgetSpent: where all that was accounted has been released.
            Refused: where what the run had reserved is settled.
        """
        if all_released(self.plan, self.released):
            raise BudgetSpent(
                f"The study accounts {self.released} releases, and that many were made. Its algorithm asks for more "
                f"sums than it declares (SumSpec.every)."
            )
        if self._ledger is not None and self._reservation is not None and not self._ledger.running(self._reservation):
            raise Refused(
                f"What this run had reserved ({self._reservation.id}) is settled: it was finished in a copy of its folder, or "
                f"settled by hand. Nothing more is released under it. Begin a new run in another folder; it pays for itself."
            )

    def release(self) -> None:
        """Count a release."""
        self.released += 1

    def commit(self, release: tuple[int, int, str] | None) -> None:
        """Record a release that is durable now, before anybody is told of it. The same again changes nothing.

        Args:
            release: see `Checkpoint.release`.

        Raises:
            Refused: where the sum was released before with other noise.
            BudgetSpent: for one release more than was reserved.
        """
        if release is not None and self._ledger is not None and self._reservation is not None:
            round, index, digest = release
            self._ledger.commit(self._reservation, digest, sum=(round, index))

    def finish(self) -> None:
        """The run is over: give back what it did not release. A finished run that was resumed changes nothing."""
        if self._ledger is None or self._reservation is None:
            return
        each = uses(self.plan, self._reservation.event)
        nothing, unrecorded = "nothing was released", "of a release whose process was interrupted"
        settle(self._ledger, self._reservation, self.released, each, nothing=nothing, unrecorded=unrecorded)


def _noted(folder: RunFolder) -> str | None:
    """The id that a run folder notes, or None. Raises InvalidInput for a note that is none."""
    if not (folder.path / RESERVATION).exists():
        return None
    noted = folder.read(RESERVATION).get("reservation")
    if not isinstance(noted, str):
        raise folder.damaged(RESERVATION)
    return noted


def _found(ledger: Ledger, id: str, must: bool) -> Reservation | None:
    """The reservation of a run; None for one that was noted and not made. Raises InvalidInput where it must be there."""
    try:
        return ledger.find(id)[0]
    except InvalidInput:
        if must:
            raise
        return None
