"""What outlives a process: append-only logs and small documents, changed in transactions.

The ledger keeps its rows in a Store, and a server its rounds. `manent.storage` has the implementations.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol


class Snapshot(Protocol):
    """One consistent view of a store."""

    def rows(self, log: str, start: int = 0) -> Sequence[bytes]:
        """Rows of a log from sequence number `start` on, in order; none for a log that does not exist."""
        ...

    def count(self, log: str) -> int:
        """How many rows a log has: the sequence number that the next row gets."""
        ...

    def get(self, key: str) -> bytes | None:
        """A document, or None where there is none."""
        ...

    def keys(self, prefix: str = "") -> Sequence[str]:
        """Sorted keys of the documents that begin with `prefix`."""
        ...

    def items(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        """The documents whose keys begin with `prefix`, sorted by key, in one look."""
        ...


class Transaction(Snapshot, Protocol):
    """Changes that happen together or not at all. It sees its own changes, and is of no use once it has ended."""

    def append(self, log: str, row: bytes) -> int:
        """Add a row at the end of a log; its sequence number, counted from 0. Rows are never changed or removed."""
        ...

    def put(self, key: str, document: bytes) -> None:
        """Set a document."""
        ...

    def remove(self, key: str) -> None:
        """Remove a document where there is one."""
        ...


class Store(Protocol):
    """Serialisable transactions, by any number of threads (and processes, where the store outlives one).

    A transaction is durable when its `with` block has ended; an exception inside the block undoes it and passes on.
    Transactions do not nest: opening one inside another, on the same thread, raises InvalidInput.
    """

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin to write. Writers wait for each other, so what a transaction has read is still true when it commits."""
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Begin to read."""
        ...

    def close(self) -> None:
        """Let go of files and connections; the store is of no use afterwards."""
        ...
