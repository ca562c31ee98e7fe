"""A store in a SQLite file or a PostgreSQL database: durable at commit, shared by threads and processes."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from manent.core.errors import InvalidInput, ManentError, ProtocolAbort
from manent.core.store import Snapshot, Transaction
from manent.storage.databases import Database, Postgres, Sqlite, locked, shown
from manent.storage.schema import DOCUMENTS, HEAD, LOGS, upgrade, version

_NEXT = sa.func.coalesce(sa.func.max(LOGS.c.sequence) + 1, 0)
_OF_LOG = LOGS.c.log == sa.bindparam("log")
_COUNT = sa.select(_NEXT).where(_OF_LOG)
# A value that was changed by hand may have another type in SQLite; it is read as bytes nevertheless.
_ROWS = (
    sa.select(sa.cast(LOGS.c.row, sa.LargeBinary))
    .where(_OF_LOG, LOGS.c.sequence >= sa.bindparam("start"))
    .order_by(LOGS.c.sequence)
)
_GET = sa.select(sa.cast(DOCUMENTS.c.document, sa.LargeBinary)).where(DOCUMENTS.c.key == sa.bindparam("key"))
_KEYS = sa.select(DOCUMENTS.c.key).order_by(DOCUMENTS.c.key)
_ITEMS = sa.select(DOCUMENTS.c.key, sa.cast(DOCUMENTS.c.document, sa.LargeBinary)).order_by(DOCUMENTS.c.key)
_APPEND = (
    sa.insert(LOGS)
    .from_select(
        ["log", "sequence", "row"],
        sa.select(sa.bindparam("log", type_=sa.Text), _NEXT, sa.bindparam("row", type_=sa.LargeBinary)).where(_OF_LOG),
    )
    .returning(LOGS.c.sequence)
)
_REMOVE = sa.delete(DOCUMENTS).where(DOCUMENTS.c.key == sa.bindparam("key"))


def _put(dialect: Any) -> sa.Insert:
    into = dialect.insert(DOCUMENTS)
    changed: sa.Insert = into.on_conflict_do_update(index_elements=["key"], set_={"document": into.excluded.document})
    return changed


_PUT = {"sqlite": _put(sqlite), "postgresql": _put(postgresql)}


class SqlStore:
    """Logs and documents in SQL tables, which are made or brought up to date when the store is opened.

    SQLite: a file in WAL mode with full synchronisation, on a local disk (SQLite's locks do not work on network file systems),
    which only its owner can read. PostgreSQL: a database in UTF-8, preferably its own; a lock in it makes writers on all machines
    wait for each other.

    After a fork the child uses its own connections. A connection that was lost while idle, such as when PostgreSQL was restarted,
    is replaced when the next transaction begins.

    Args:
        url: "sqlite:///path" or "postgresql://user:password@host/database".
        timeout: seconds to wait for other writers before ProtocolAbort.

    Raises:
        InvalidInput: for a URL of another kind, and a database that cannot be opened, is not a store, or is of a newer version.
        MissingExtra: for PostgreSQL without its driver.
    """

    def __init__(self, url: str | sa.URL, timeout: float = 60.0) -> None:
        self._database = _database(url, timeout)
        self._timeout = timeout
        self._engine = self._database.engine()
        self._inherited: list[sa.Pool] = []
        self._closed = False
        self._renew()
        _OPEN.add(self)
        self._upgrade()

    def _renew(self) -> None:
        self._mine = threading.local()
        # Threads of one process queue here: that is fairer, and takes fewer connections, than to wait in the database.
        self._writers = threading.Lock()

    def _forked(self) -> None:
        # The parent's connections must be neither used nor closed here. A reference keeps them from being collected.
        self._inherited.append(self._engine.pool)
        self._engine.dispose(close=False)
        self._renew()

    def _upgrade(self) -> None:
        with self._explained():
            try:
                connection = self._engine.connect()
            except exc.OperationalError as error:
                raise self._unreachable(error) from None
            with connection:
                self._database.check(connection)
                if version(connection) == HEAD:
                    return
                connection.exec_driver_sql(self._database.migrating)
                upgrade(connection, self._database.name)
                self._database.mark(connection)
                connection.exec_driver_sql("COMMIT")

    def _unreachable(self, error: exc.OperationalError) -> ManentError:
        meaning = self._database.meaning(error)
        if "locked" in str(meaning):
            return meaning
        reason = str(error.orig).strip().split("\n")[0]
        return InvalidInput(f"Cannot open the store {self._database.name}: {reason}. See that it is there and lets you in.")

    @contextmanager
    def _explained(self, committing: bool = False) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError:
            raise locked(self._database.name, self._timeout) from None
        except exc.DBAPIError as error:
            if committing and error.connection_invalidated:
                raise ProtocolAbort(
                    f"The store {self._database.name} was lost during a commit: it is not known whether this transaction was "
                    f"kept. Check before you try again."
                ) from None
            raise self._database.meaning(error) from None
        except UnicodeEncodeError:
            raise InvalidInput("Names of logs and keys are text that can be written in UTF-8.") from None

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """See `core.store.Store`."""
        self._check()
        if not self._writers.acquire(timeout=self._timeout):
            raise locked(self._database.name, self._timeout)
        try:
            with self._begun(self._database.writing) as view:
                yield view
        finally:
            self._writers.release()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `core.store.Store`."""
        self._check()
        with self._begun(self._database.reading) as view:
            yield view

    def _check(self) -> None:
        if self._closed:
            raise InvalidInput(f"The store {self._database.name} has been closed; open it again.")
        if getattr(self._mine, "busy", False):
            raise InvalidInput("A transaction of this store is already open on this thread; end it before the next.")

    @contextmanager
    def _begun(self, begin: str) -> Iterator[_View]:
        with self._explained():
            connection = self._connection(begin)
        self._mine.busy = True
        view = _View(self, connection)
        try:
            yield view
            if view.failed:
                raise ProtocolAbort(
                    "A step of this transaction failed, so that nothing of it was kept; see the error of that step."
                )
            with self._explained(committing=True):
                connection.exec_driver_sql("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        finally:
            view.open = False
            self._mine.busy = False
            connection.close()

    def _connection(self, begin: str) -> sa.Connection:
        for last in (False, True):
            connection = self._engine.connect()
            try:
                connection.exec_driver_sql(begin)
                return connection
            except exc.DBAPIError as error:
                connection.close()
                # It was lost while idle. Nothing was read or written yet, so a new one does as well.
                if last or not error.connection_invalidated:
                    raise
        raise AssertionError

    def close(self) -> None:
        """Close the connections of this process."""
        self._closed = True
        self._engine.dispose()


def _roll_back(connection: sa.Connection) -> None:
    try:
        connection.rollback()
    except exc.DBAPIError:
        connection.invalidate()


_OPEN: weakref.WeakSet[SqlStore] = weakref.WeakSet()


def _forked() -> None:
    for store in list(_OPEN):
        store._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _database(url: str | sa.URL, timeout: float) -> Database:
    try:
        found = sa.make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InvalidInput("Expected sqlite:///path or postgresql://user@host/database; found a URL that is neither.") from None
    backend = found.drivername.split("+")[0]
    if backend in ("postgresql", "postgres") and found.database:
        return Postgres(found, timeout)
    if backend == "sqlite" and found.database and not found.host:
        return Sqlite(Path(found.database), timeout)
    raise InvalidInput(f"Expected sqlite:///path or postgresql://user@host/database; found {shown(found)!r}.")


class _View:
    """What a transaction of a SqlStore sees and changes; see `core.store.Transaction`."""

    def __init__(self, store: SqlStore, connection: sa.Connection) -> None:
        self._store, self._connection = store, connection
        self.open, self.failed = True, False

    def _run(self, statement: sa.Executable, values: Mapping[str, str | int | bytes]) -> sa.CursorResult[Any]:
        if not self.open:
            raise InvalidInput("This transaction has ended; begin another.")
        if self.failed:
            raise ProtocolAbort("A step of this transaction failed; end it, and begin another.")
        # If a step of a transaction has failed, PostgreSQL answers its commit by undoing it, without an error.
        self.failed = True
        with self._store._explained():
            result = self._connection.execute(statement, values)
        self.failed = False
        return result

    def rows(self, log: str, start: int = 0) -> Sequence[bytes]:
        return tuple(self._run(_ROWS, {"log": log, "start": max(start, 0)}).scalars())

    def count(self, log: str) -> int:
        return int(self._run(_COUNT, {"log": log}).scalar_one())

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._run(_GET, {"key": key}).scalar()
        return found

    def keys(self, prefix: str = "") -> Sequence[str]:
        return [str(key) for key in self._run(_among(_KEYS, prefix), {}).scalars()]

    def items(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        found: Any = self._run(_among(_ITEMS, prefix), {})
        return [(str(key), bytes(document)) for key, document in found]

    def append(self, log: str, row: bytes) -> int:
        return int(self._run(_APPEND, {"log": log, "row": bytes(row)}).scalar_one())

    def put(self, key: str, document: bytes) -> None:
        dialect = self._connection.dialect.name
        self._run(_PUT[dialect], {"key": key, "document": bytes(document)})

    def remove(self, key: str) -> None:
        self._run(_REMOVE, {"key": key})


def _among(query: sa.Select[Any], prefix: str) -> sa.Select[Any]:
    """The query, only for keys that begin with a prefix."""
    if prefix:
        query = query.where(DOCUMENTS.c.key >= prefix)
        after = _after(prefix)
        query = query if after is None else query.where(DOCUMENTS.c.key < after)
    return query


def _after(prefix: str) -> str | None:
    """The least text, by code points, that comes after all texts with a prefix; None if there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if last == 0xD800 else last)
