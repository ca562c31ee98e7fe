"""The protocol of storage that outlives a process: append-only logs and small documents, changed in transactions.

The ledger keeps its rows in a Store, and a server keeps its rounds in one. `manent.storage` has the implementations.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol


class Snapshot(Protocol):
    """One consistent view of a store."""

    def rows(self, log: str, start: int = 0) -> Sequence[bytes]:
        """The rows of a log from sequence number `start` on, in order. A log that does not exist has none."""
        ...

    def count(self, log: str) -> int:
        """How many rows a log has. This is also the sequence number of the next row."""
        ...

    def get(self, key: str) -> bytes | None:
        """A document, or None where there is none."""
        ...

    def keys(self, prefix: str = "") -> Sequence[str]:
        """The keys that begin with `prefix`, sorted."""
        ...

    def items(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        """Keys and documents for all keys that begin with `prefix`, sorted by key, read at once."""
        ...


class Transaction(Snapshot, Protocol):
    """Changes that happen together or not at all. It sees its own changes. It cannot be used after its end."""

    def append(self, log: str, row: bytes) -> int:
        """Adds a row at the end of a log, and returns its sequence number, from 0. Rows are never changed or removed."""
        ...

    def put(self, key: str, document: bytes) -> None:
        """Sets the document of a key, replacing any other."""
        ...

    def remove(self, key: str) -> None:
        """Removes the document of a key. Does nothing where there is none."""
        ...


class Store(Protocol):
    """Serialisable transactions for any number of threads, and of processes where the store outlives one.

    A transaction is durable once its `with` block has ended. An exception in the block undoes the transaction, and is raised on.
    Transactions do not nest: opening one inside another, on the same thread, raises InvalidInput.
    """

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begins to write. Writers wait for each other, so what a transaction has read is still true when it commits."""
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Begins to read."""
        ...

    def close(self) -> None:
        """Closes files and connections. The store cannot be used afterwards."""
        ...
