"""The server's parties, each rebuilt by replaying its log. They stay in memory, and every transaction brings them up to date."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from manent.core.parties import Read, ServerParty, Step
from manent.core.store import Snapshot, Transaction
from manent.network.server.documents import SumRecord
from manent.storage.blobs import Blobs
from manent.summation.parties.stored import referenced

INLINE = 1 << 16
"""A record of more bytes lies in a blob, which its row names."""
_HERE, _ELSEWHERE = b"\x00", b"\x01"


def encode_row(record: bytes, blobs: Blobs, stored: str | None = None) -> bytes:
    """A record as a row of its log. A large one is put into a blob.

    Args:
        stored: digest of the blob that already holds the record without its first four bytes, or None.
    """
    if stored is None and len(record) <= INLINE:
        return _HERE + record
    return _ELSEWHERE + record[:4] + bytes.fromhex(stored or blobs.put([record[4:]]))


def decode_row(row: bytes, blobs: Blobs) -> bytes:
    """The record in a row of its log."""
    if row[:1] == _HERE:
        return row[1:]
    return row[1:5] + b"".join(blobs.read(row[5:].hex()))


@dataclass
class Held:
    """A party in memory.

    Attributes:
        attempt: of the sum, whose party it is.
        seen: how many rows of its log it has taken in.
        sound: whether everything that it did was stored. A party that is not sound is dropped.
        lock: held by whoever uses the party.
    """

    attempt: int
    party: ServerParty
    seen: int = 0
    sound: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)


class Parties:
    """The parties of all open sums. Each process has its own; the logs keep them equal."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()

    def held(self, record: SumRecord, make: Callable[[Read], ServerParty]) -> Held:
        """The party of a sum's present attempt. It is not up to date before `catch_up`.

        Args:
            make: makes the party, which reads stored uploads by what it is given.
        """
        with self._lock:
            found = self._held.get(record.id)
            if found is None or found.attempt != record.attempt:
                found = Held(record.attempt, make(self._read))
                self._held[record.id] = found
            return found

    @contextmanager
    def kept(self, id: str, held: Held) -> Iterator[None]:
        """Within this block nobody else uses the party. Where the block ends with an error, the party is dropped."""
        with held.lock:
            try:
                yield
            except BaseException:
                held.sound = False
                self.forget(id)
                raise

    def forget(self, id: str) -> None:
        """Drop a party, because its sum is over or what it did was not stored."""
        with self._lock:
            self._held.pop(id, None)

    def catch_up(self, view: Snapshot, record: SumRecord, held: Held) -> None:
        """Take in the rows that any process has added since."""
        try:
            rows = view.rows(record.log, held.seen)
            for row in rows:  # one at a time, as each may be as large as the model
                held.party.catch_up([decode_row(row, self._blobs)])
            held.seen += len(rows)
        except BaseException:
            held.sound = False
            self.forget(record.id)
            raise

    def keep(self, transaction: Transaction, record: SumRecord, held: Held, step: Step, stored: str | None = None) -> None:
        """Append the records of a step to the log.

        Args:
            stored: digest of the blob that already holds the step's large record, or None.
        """
        for item in step.keep:
            large = stored if stored is not None and len(item) > INLINE else None
            transaction.append(record.log, encode_row(item, self._blobs, large))
            held.seen += 1

    def uploads(self, view: Snapshot, record: SumRecord) -> set[str]:
        """Digests of the blobs that a log names: those of its rows, and those of the party's own records."""
        rows = view.rows(record.log)
        found = {row[5:].hex() for row in rows if row[:1] == _ELSEWHERE}
        own = (referenced(row[1:]) for row in rows if row[:1] == _HERE)
        return found | {named[0].hex() for named in own if named is not None}

    def _read(self, digest: bytes, start: int, stop: int) -> bytes:
        return b"".join(self._blobs.read(digest.hex(), start, stop))
