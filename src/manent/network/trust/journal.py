"""The server's audit log: who asked for what, and what became of it. Its rows are chained, and rows are only ever added."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from manent.core.errors import ManentError
from manent.core.store import Store, Transaction
from manent.storage.chain import Chain

log = logging.getLogger("manent.server")
CHAIN = Chain("audit", "The audit log", "Keep the database as it is for whoever looks into this, and go on with a sound copy.")
LONGEST = 2000
"""Most characters of a text in a row; the rest is cut off."""
_VERSION = 1


def note(
    transaction: Transaction, now: float, actor: str, action: str, about: str = "", details: Mapping[str, Any] | None = None
) -> int:
    """Add a row, in the transaction that does what the row reports. Returns its number.

    Args:
        now: seconds since the epoch.
        actor: who did it: "site:KEY", "person:NAME", "operator:NAME", "address:IP", or "server".
        action: what was done, such as "join" or "release".
        about: what it was done to: the hash of a study, a name.
        details: plain data.
    """
    row = {"version": _VERSION, "time": time_text(now), "actor": actor, "action": action, "about": about}
    return CHAIN.add(
        transaction, {**{name: _sound(value) for name, value in row.items()}, "details": _sound(dict(details or {}))}
    )


def time_text(now: float) -> str:
    """Seconds since the epoch as text for people, in UTC."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")


def _sound(value: Any) -> Any:
    """Plain data whose texts can be encoded and are cut at LONGEST characters."""
    if isinstance(value, str):
        return value[:LONGEST].encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sound(str(name)): _sound(item) for name, item in value.items()}
    return [_sound(item) for item in value] if isinstance(value, list | tuple) else value


class AuditLog:
    """The audit log of a server's store.

    A row that was altered, removed or moved is found. Someone who may write to the whole database can still write another log, or
    cut off its end: note the head elsewhere from time to time, and let `verify` compare.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock

    def append(self, actor: str, action: str, about: str = "", details: Mapping[str, Any] | None = None) -> int:
        """Add a row in a transaction of its own, and return its number. See `note`."""
        with self._store.transaction() as transaction:
            return note(transaction, self._clock(), actor, action, about, details)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row in order. Raises ProtocolAbort, naming the row, if one was altered, removed or moved."""
        with self._store.snapshot() as view:
            return CHAIN.rows(view)

    def verify(self, noted: str | None = None) -> int:
        """Check the whole log, and return how many rows it has.

        Args:
            noted: what `head` returned earlier, kept elsewhere.

        Raises:
            ProtocolAbort: if a row was altered, removed or moved, with its number; or if the log does not continue the noted
                head.
        """
        with self._store.snapshot() as view:
            if noted is not None:
                CHAIN.check_noted(view, noted)
            return sum(1 for _ in CHAIN.rows(view))

    def head(self) -> str:
        """The number of rows and the hash of the last, as "count:hash". Note it elsewhere."""
        with self._store.snapshot() as view:
            count, last = CHAIN.head(view)
        return f"{count}:{last}"


class Refusals:
    """Writes refused requests to the audit log, but only so many a minute, so that strangers cannot fill the disk.

    The next row that is written says how many were left out before it.

    Args:
        most: rows that are written in `seconds`.
        clock: seconds, from any beginning.
    """

    def __init__(
        self, audit: AuditLog, most: int = 60, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._audit, self._most, self._seconds, self._clock = audit, most, seconds, clock
        self._lock = threading.Lock()
        self._since, self._count, self._left_out = -seconds, 0, 0

    def note(self, actor: str, about: str, reason: str) -> None:
        """Write that a request was refused. If the store fails, the program's own log says so."""
        with self._lock:
            now = self._clock()
            if now - self._since >= self._seconds:
                self._since, self._count = now, 0
            if self._count >= self._most:
                self._left_out += 1
                return
            self._count += 1
            left_out, self._left_out = self._left_out, 0
        try:
            self._audit.append(actor, "refused", about, {"reason": reason, **({"left_out": left_out} if left_out else {})})
        except ManentError as error:
            log.error("a refused request was not written down", extra={"actor": actor, "about": about, "reason": str(error)})
