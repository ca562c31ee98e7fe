"""Removes blobs that no document names: a process died after it had written one, and before the transaction that would have named
it.
"""

from __future__ import annotations

from manent.core.store import Snapshot, Store
from manent.network.server import documents
from manent.network.server.documents import sum_of
from manent.network.server.parties import Parties
from manent.storage.blobs import Blobs

AGE = 900.0
"""Seconds for which a blob may be on its way into a transaction."""


def named(view: Snapshot, parties: Parties) -> set[str]:
    """The digests of every blob that is still needed."""
    found: set[str] = set()
    for study in documents.studies(view):
        found |= {study.bundle, study.initial, study.state, study.result}
        record = sum_of(view, study.open)
        if record is not None:
            found |= {record.assignment, *parties.uploads(view, record)}
    return found - {""}


class Sweeper:
    """Removes blobs that were unnamed for a while. So noise is not kept that lost a race, or whose process died."""

    def __init__(self, store: Store, blobs: Blobs, parties: Parties) -> None:
        self._store, self._blobs, self._parties = store, blobs, parties
        self._since: dict[str, float] = {}

    def sweep(self, now: float, age: float = AGE) -> int:
        """Remove blobs that were unnamed each time they were looked at, over at least `age` seconds. Returns how many were
        removed.
        """
        there = set(self._blobs.digests())
        with self._store.snapshot() as view:
            unnamed = there - named(view, self._parties)
        self._since = {digest: self._since.get(digest, now) for digest in unnamed}
        gone = {digest for digest, since in self._since.items() if now - since >= age}
        if gone:
            with self._store.transaction() as transaction:  # nobody can begin to name one in it: see Rounds.check_there
                gone -= named(transaction, self._parties)
                for digest in gone:
                    self._blobs.remove(digest)
                    del self._since[digest]
        return len(gone)
