"""The differences between SQLite and PostgreSQL: how they are opened, how a transaction begins, and what their errors mean."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection

from manent.core.errors import InvalidInput, ManentError, MissingExtra, ProtocolAbort
from manent.storage.durable import make_folder, sync_folder
from manent.storage.lock import check_keeps_locks
from manent.storage.schema import VERSION_TABLE

_APPLICATION = 0x6D616E65  # "mane": marks a file as a store, so that another program's file is refused
_MIGRATING = 0x6D616E65  # PostgreSQL's advisory lock under which tables are made


class Database(Protocol):
    """One kind of database.

    Attributes:
        name: for errors, without a password.
        writing, reading, migrating: the SQL that begins a transaction of that kind.
    """

    name: str
    writing: str
    reading: str
    migrating: str

    def engine(self) -> sa.Engine:
        """Connections in the driver's autocommit mode: statements begin and end transactions. Raises InvalidInput or
        MissingExtra.
        """
        ...

    def check(self, connection: sa.Connection) -> None:
        """Raises InvalidInput for a database that cannot hold a store."""
        ...

    def mark(self, connection: sa.Connection) -> None:
        """Mark a database as a store, if it can be marked; inside a transaction."""
        ...

    def meaning(self, error: exc.DBAPIError) -> ManentError:
        """What to raise in place of an error of the driver."""
        ...


class Sqlite:
    """A file in WAL mode with full synchronisation. Only its owner can read it: the mode of a file that others can read is
    changed.
    """

    writing = migrating = "BEGIN IMMEDIATE"
    reading = "BEGIN"

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout, self.name = path, timeout, str(path)

    def engine(self) -> sa.Engine:
        """See `Database`. Raises InvalidInput for a file that cannot be written, and Refused where locks are not kept."""
        try:
            make_folder(self.path.parent)
            check_keeps_locks(self.path.parent)
            new = not self.path.exists()
            if new:
                # Only a new one: to close a file drops the locks that SQLite has on it elsewhere in this process.
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            elif not os.access(self.path, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            # SQLite gives the journal files beside it the same mode.
            os.chmod(self.path, 0o600)
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise InvalidInput(f"Cannot open the store {self.path}: {error.strerror}. Name a file that can be written.") from None
        url = sa.URL.create("sqlite+pysqlite", database=str(self.path.absolute()))
        # Keep a connection for each thread: to open one costs more than most transactions.
        engine = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", connect_args={"timeout": self.timeout}, pool_size=0, hide_parameters=True
        )
        event.listen(engine, "connect", self._prepare)
        return engine

    def _prepare(self, connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        # Unlike other statements, a change of the journal mode does not wait for other processes.
        until = time.monotonic() + self.timeout
        while True:
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        if (cursor.fetchone() or [""])[0] != "wal":
            raise InvalidInput(f"{self.name} cannot be kept in WAL mode here; put it on a local disk.")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA cache_size = -256")  # KiB of each connection; the system caches the file anyway
        cursor.close()

    def check(self, connection: sa.Connection) -> None:
        """See `Database`."""
        # In this order: another process may just be making the store, whose tables and mark come with one commit.
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
        application = connection.exec_driver_sql("PRAGMA application_id").scalar()
        if tables and application != _APPLICATION:
            raise InvalidInput(f"{self.name} is a database of another program; name another file.")

    def mark(self, connection: sa.Connection) -> None:
        """See `Database`."""
        connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION}")

    def meaning(self, error: exc.DBAPIError) -> ManentError:
        """See `Database`."""
        found: Any = error.orig
        if isinstance(error, exc.DataError):
            return InvalidInput(f"The store {self.name} cannot hold this: {found}. Keep what is so large as a blob.")
        if not isinstance(found, sqlite3.OperationalError):
            return InvalidInput(f"{self.name} is not a sound store: {found}. Name another file, or restore it.")
        if getattr(found, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return locked(self.name, self.timeout)
        return ProtocolAbort(f"The store {self.name} failed: {found}. Nothing of this transaction was kept.")


class Postgres:
    """A database of a PostgreSQL server, shared by processes on any number of machines."""

    # The lock is taken before the first statement that fixes what the transaction sees. So a writer who has waited sees what the
    # one before has written, and no two writers can fail to serialise. The lock ends with the transaction, also if the process is
    # killed. The locked table is never vacuumed; a vacuum would take a lock that gets in the way.
    writing = f"BEGIN ISOLATION LEVEL SERIALIZABLE; LOCK TABLE {VERSION_TABLE} IN SHARE ROW EXCLUSIVE MODE"
    reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    migrating = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({_MIGRATING})"

    def __init__(self, url: sa.URL, timeout: float) -> None:
        self.url, self.timeout = url.set(drivername="postgresql+psycopg"), timeout
        self.name = shown(url)

    def engine(self) -> sa.Engine:
        """See `Database`. Raises MissingExtra without the driver."""
        try:
            engine = sa.create_engine(
                self.url, isolation_level="AUTOCOMMIT", max_overflow=10, pool_timeout=self.timeout, hide_parameters=True
            )
        except ModuleNotFoundError:
            raise MissingExtra("psycopg", "server", "A store in PostgreSQL") from None
        event.listen(engine, "connect", self._prepare)
        return engine

    def _prepare(self, connection: Any, _: object) -> None:
        connection.autocommit = True
        cursor = connection.cursor()
        # Keepalives: if a machine loses its power, its locks are released within two minutes.
        cursor.execute(
            f"SET synchronous_commit TO on; SET lock_timeout TO {max(1, round(self.timeout * 1000))}; "
            "SET tcp_keepalives_idle TO 60; SET tcp_keepalives_interval TO 10; SET tcp_keepalives_count TO 5; "
            "SET client_encoding TO 'UTF8'"
        )
        cursor.close()

    def check(self, connection: sa.Connection) -> None:
        """See `Database`."""
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise InvalidInput(f"{self.name} is encoded in {encoding}; make a database with ENCODING 'UTF8'.")

    def mark(self, connection: sa.Connection) -> None:
        """See `Database`. It is known by its version table, so there is nothing to mark."""

    def meaning(self, error: exc.DBAPIError) -> ManentError:
        """See `Database`."""
        state = getattr(error.orig, "sqlstate", None) or ""
        reason = str(error.orig).strip().split("\n")[0]
        if state == "55P03":
            return locked(self.name, self.timeout)
        if isinstance(error, exc.DataError):
            return InvalidInput(f"The store {self.name} cannot hold this: {reason}.")
        return ProtocolAbort(f"The store {self.name} failed: {reason}. Nothing of this transaction was kept.")


def shown(url: sa.URL) -> str:
    """A URL for error messages, without what may be a password."""
    return url.set(query={key: value for key, value in url.query.items() if key == "host"}).render_as_string(hide_password=True)


def locked(name: str, timeout: float) -> ProtocolAbort:
    """The error for a store that other writers have kept locked."""
    return ProtocolAbort(f"The store {name} was locked for more than {timeout:g} s; see which process holds it, and retry.")
