"""Blobs that nobody names: what a process left that died between a blob and the transaction that would have named it."""

from __future__ import annotations

import time

from manent.core.store import Store
from manent.network.blobs_folder import FolderBlobs
from manent.network.server import documents
from manent.network.server.documents import sum_of
from manent.network.server.parties import Parties

AGE = 900.0
"""Seconds for which a blob may be on its way into a transaction."""


def named(store: Store, parties: Parties) -> set[str]:
    """Digests of every blob that is still needed."""
    found: set[str] = set()
    with store.snapshot() as view:
        for study in documents.studies(view):
            found |= {study.bundle, study.initial, study.state, study.result}
            record = sum_of(view, study.open)
            if record is not None:
                found |= {record.assignment, *parties.uploads(view, record)}
    return found - {""}


def sweep(store: Store, blobs: FolderBlobs, parties: Parties, age: float = AGE) -> int:
    """Remove blobs that nobody names and that are older than so many seconds; how many there were.

    Noise that lost a race, or whose process died, is among them: it is not kept.
    """
    before = time.time() - age
    old = blobs.older(before)
    gone = old - named(store, parties) if old else set()
    for digest in gone:
        blobs.remove(digest)
    return len(gone)
