"""A store in this process's memory, for tests and simulations. It is gone when the process ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from manent.core.errors import InvalidInput
from manent.core.store import Snapshot, Transaction


class MemoryStore:
    """Logs and documents in dictionaries, behind one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._logs: dict[str, list[bytes]] = {}
        self._documents: dict[str, bytes] = {}
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """See `core.store.Store`."""
        with self._held():
            lengths = {log: len(rows) for log, rows in self._logs.items()}
            documents = dict(self._documents)
            view = _View(self._logs, self._documents)
            try:
                yield view
            except BaseException:
                for log, rows in list(self._logs.items()):
                    del rows[lengths.get(log, 0) :]
                self._documents = documents
                raise
            finally:
                view.open = False

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `core.store.Store`."""
        with self._held():
            view = _View(self._logs, self._documents)
            try:
                yield view
            finally:
                view.open = False

    @contextmanager
    def _held(self) -> Iterator[None]:
        if self._owner == threading.get_ident():
            raise InvalidInput("A transaction of this store is already open on this thread; end it before the next.")
        with self._lock:
            if self._closed:
                raise InvalidInput("This store has been closed; open another.")
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    def close(self) -> None:
        """Forget everything. Later transactions raise InvalidInput."""
        with self._lock:
            self._closed = True
            self._logs, self._documents = {}, {}


class _View:
    """What a transaction of a MemoryStore sees and changes; see `core.store.Transaction`."""

    def __init__(self, logs: dict[str, list[bytes]], documents: dict[str, bytes]) -> None:
        self._logs, self._documents = logs, documents
        self.open = True

    def _check(self) -> None:
        if not self.open:
            raise InvalidInput("This transaction has ended; begin another.")

    def rows(self, log: str, start: int = 0) -> Sequence[bytes]:
        self._check()
        return tuple(self._logs.get(log, ())[max(start, 0) :])

    def count(self, log: str) -> int:
        self._check()
        return len(self._logs.get(log, ()))

    def get(self, key: str) -> bytes | None:
        self._check()
        return self._documents.get(key)

    def keys(self, prefix: str = "") -> Sequence[str]:
        self._check()
        return sorted(key for key in self._documents if key.startswith(prefix))

    def items(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        return [(key, self._documents[key]) for key in self.keys(prefix)]

    def append(self, log: str, row: bytes) -> int:
        self._check()
        rows = self._logs.setdefault(log, [])
        rows.append(bytes(row))
        return len(rows) - 1

    def put(self, key: str, document: bytes) -> None:
        self._check()
        self._documents[key] = bytes(document)

    def remove(self, key: str) -> None:
        self._check()
        self._documents.pop(key, None)
