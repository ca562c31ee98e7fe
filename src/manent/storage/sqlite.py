"""A store in one SQLite file: durable at commit, shared by threads and processes of one machine."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.store import Snapshot, Transaction

_APPLICATION = 0x6D616E65  # "mane", so that another program's database is not taken for a store
_VERSION = 1
_SCHEMA = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS logs (
        log TEXT NOT NULL, sequence INTEGER NOT NULL, row BLOB NOT NULL, PRIMARY KEY (log, sequence)
    );
    CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY NOT NULL, document BLOB NOT NULL);
    CREATE TRIGGER IF NOT EXISTS logs_keep_rows BEFORE DELETE ON logs BEGIN SELECT RAISE(ABORT, 'a log only grows'); END;
    CREATE TRIGGER IF NOT EXISTS logs_keep_content BEFORE UPDATE ON logs BEGIN SELECT RAISE(ABORT, 'a log only grows'); END;
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {_VERSION};
    COMMIT;
"""


class SqliteStore:
    """Logs and documents in a SQLite file in WAL mode, with full synchronisation: a commit is on the disk before it returns.

    Each thread, and each process after a fork, has its own connection. The file is readable by its owner only; an existing
    file that others may read is restricted. It must lie on a local disk: SQLite's locks do not hold on network file systems.

    Args:
        path: the file; created, with its folders, where there is none.
        timeout: seconds to wait for other writers before ProtocolAbort.

    Raises:
        InvalidInput: for a file that is not a store, or is of a newer version.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float = 60.0) -> None:
        self.path = Path(path)
        self.timeout = timeout
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._connections: list[tuple[int, sqlite3.Connection]] = []
        self._closed = False
        self._create()

    def _create(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            # The journal files beside it take the mode of the database.
            os.chmod(self.path, 0o600)
        except OSError as error:
            raise InvalidInput(f"Cannot open the store {self.path}: {error.strerror}. Name a file that can be written.") from None
        connection = self._connection()
        with self._explained():
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if tables and application != _APPLICATION:
                raise InvalidInput(f"{self.path} is a database of another program; name another file.")
            if version > _VERSION:
                raise InvalidInput(f"{self.path} has version {version}; this manent knows up to {_VERSION}. Use a newer manent.")
            if not tables or version < _VERSION:
                connection.executescript(_SCHEMA)

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise InvalidInput(f"The store {self.path} has been closed; open it again.")
        if getattr(self._mine, "process", None) != os.getpid():
            # A connection that a fork has copied is neither used nor closed here: it is still the parent's.
            self._mine.process, self._mine.connection, self._mine.busy = os.getpid(), self._connect(), False
            with self._lock:
                self._connections.append((os.getpid(), self._mine.connection))
        connection: sqlite3.Connection = self._mine.connection
        return connection

    def _connect(self) -> sqlite3.Connection:
        with self._explained():
            connection = sqlite3.connect(self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False)
            try:
                self._use_wal(connection)
                connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                connection.close()
                raise
            return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        # Changing the journal mode does not wait for other processes as other statements do.
        until = time.monotonic() + self.timeout
        while True:
            try:
                if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                    return
                raise InvalidInput(f"{self.path} cannot be kept in WAL mode here; put it on a local disk.")
            except sqlite3.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise ProtocolAbort(
                    f"The store {self.path} was locked for more than {self.timeout:g} s; see which process holds it, and retry."
                ) from None
            raise ProtocolAbort(f"The store {self.path} failed: {error}. Nothing of this transaction was kept.") from None
        except sqlite3.DatabaseError as error:
            raise InvalidInput(f"{self.path} is not a sound store: {error}. Name another file, or restore it.") from None

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """See `core.store.Store`."""
        with self._begun("BEGIN IMMEDIATE") as view:
            yield view

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `core.store.Store`."""
        with self._begun("BEGIN") as view:
            yield view

    @contextmanager
    def _begun(self, begin: str) -> Iterator[_View]:
        connection = self._connection()
        if self._mine.busy:
            raise InvalidInput("A transaction of this store is already open on this thread; end it before the next.")
        with self._explained():
            connection.execute(begin)
        self._mine.busy = True
        view = _View(self, connection)
        try:
            yield view
            with self._explained():
                connection.execute("COMMIT")
        finally:
            view.open = False
            self._mine.busy = False
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connections of this process."""
        self._closed = True
        with self._lock:
            for process, connection in self._connections:
                if process == os.getpid():
                    connection.close()


class _View:
    def __init__(self, store: SqliteStore, connection: sqlite3.Connection) -> None:
        self._store, self._connection = store, connection
        self.open = True

    def _run(self, statement: str, values: tuple[str | int | bytes, ...]) -> list[tuple[bytes]]:
        if not self.open:
            raise InvalidInput("This transaction has ended; begin another.")
        with self._store._explained():
            return self._connection.execute(statement, values).fetchall()

    def rows(self, log: str, start: int = 0) -> Sequence[bytes]:
        found = self._run("SELECT CAST(row AS BLOB) FROM logs WHERE log = ? AND sequence >= ? ORDER BY sequence", (log, start))
        return tuple(bytes(row) for (row,) in found)

    def count(self, log: str) -> int:
        return int(self._run("SELECT coalesce(max(sequence) + 1, 0) FROM logs WHERE log = ?", (log,))[0][0])

    def get(self, key: str) -> bytes | None:
        found = self._run("SELECT CAST(document AS BLOB) FROM documents WHERE key = ?", (key,))
        return bytes(found[0][0]) if found else None

    def keys(self, prefix: str = "") -> Sequence[str]:
        found = self._run("SELECT key FROM documents WHERE substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix))
        return [str(key) for (key,) in found]

    def append(self, log: str, row: bytes) -> int:
        sequence = self.count(log)
        self._run("INSERT INTO logs VALUES (?, ?, ?)", (log, sequence, bytes(row)))
        return sequence

    def put(self, key: str, document: bytes) -> None:
        self._run(
            "INSERT INTO documents VALUES (?, ?) ON CONFLICT DO UPDATE SET document = excluded.document", (key, bytes(document))
        )

    def remove(self, key: str) -> None:
        self._run("DELETE FROM documents WHERE key = ?", (key,))
