"""The server's audit log: who asked for what, and what became of it; rows that are chained, and only ever added to."""

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
"""Characters of a text in a row; the rest is cut off."""
_VERSION = 1


def note(
    transaction: Transaction, now: float, actor: str, action: str, about: str = "", details: Mapping[str, Any] | None = None
) -> int:
    """Add a row in the transaction that does what it tells of; its number.

    Args:
        now: seconds since the epoch.
        actor: who did it: "site:KEY", "person:NAME", "operator:NAME", "address:IP", or "server".
        action: what was done, as "join" or "release".
        about: to what: the hash of a study, a name.
        details: plain data.
    """
    row = {"version": _VERSION, "time": time_text(now), "actor": actor, "action": action, "about": about}
    return CHAIN.add(
        transaction, {**{name: _sound(value) for name, value in row.items()}, "details": _sound(dict(details or {}))}
    )


def time_text(now: float) -> str:
    """Seconds since the epoch, for people."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")


def _sound(value: Any) -> Any:
    """Plain data whose texts are not too long, and can be encoded."""
    if isinstance(value, str):
        return value[:LONGEST].encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sound(str(name)): _sound(item) for name, item in value.items()}
    return [_sound(item) for item in value] if isinstance(value, list | tuple) else value


class AuditLog:
    """The audit log of a server's store.

    An altered, removed or moved row is found. Someone who may write to the whole database can write another log, or cut off its
    end: note the head elsewhere from time to time, and let `verify` compare.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock

    def append(self, actor: str, action: str, about: str = "", details: Mapping[str, Any] | None = None) -> int:
        """Add a row; its number. See `note`."""
        with self._store.transaction() as transaction:
            return note(transaction, self._clock(), actor, action, about, details)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row in order. Raises ProtocolAbort where one was altered, removed or moved, naming it."""
        with self._store.snapshot() as view:
            return CHAIN.rows(view)

    def verify(self, noted: str | None = None) -> int:
        """Go through the whole log; how many rows it has.

        Args:
            noted: what `head` gave earlier, kept elsewhere.

        Raises:
            ProtocolAbort: where a row was altered, removed or moved, with its number; or the log is not that of the noted head.
        """
        with self._store.snapshot() as view:
            if noted is not None:
                CHAIN.check_noted(view, noted)
            return sum(1 for _ in CHAIN.rows(view))

    def head(self) -> str:
        """Count and hash of the last row, as "count:hash"; to be noted elsewhere."""
        with self._store.snapshot() as view:
            count, last = CHAIN.head(view)
        return f"{count}:{last}"


class Refusals:
    """Writes refused requests to the audit log: at most so many a minute, so that strangers cannot fill the disk.

    The row after those that were left out says how many they were.
    """

    def __init__(
        self, audit: AuditLog, most: int = 60, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._audit, self._most, self._seconds, self._clock = audit, most, seconds, clock
        self._lock = threading.Lock()
        self._since, self._count, self._left_out = -seconds, 0, 0

    def note(self, actor: str, about: str, reason: str) -> None:
        """A request that was refused. Where even that cannot be written, the program's own log says so."""
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
