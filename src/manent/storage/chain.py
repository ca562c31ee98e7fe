"""Rows chained by hash: each names the one before it, so that no row can be altered, removed or moved without being noticed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.store import Snapshot, Transaction

START = "0" * 64
_NOTED = re.compile(r"(\d{1,15}):([0-9a-f]{64})")


@dataclass(frozen=True)
class Chain:
    """A log whose rows are chained. A document beside it, the head, says how many rows there are, and the hash of the last.

    Someone who may write everything can write a whole new chain, or cut off its end and set the head back. To notice that, note
    the head elsewhere: see `check_noted`.

    Attributes:
        log: its name in the store; the head is the document "<log>/head".
        name: for messages, such as "The ledger".
        cure: what to do about an altered one, as a sentence.
    """

    log: str
    name: str
    cure: str

    @property
    def head_key(self) -> str:
        """The key of the head."""
        return f"{self.log}/head"

    def head(self, view: Snapshot) -> tuple[int, str]:
        """How many rows there are, and the hash of the last, as the head says.

        Raises:
            ProtocolAbort: if the log has another number of rows.
        """
        document = view.get(self.head_key)
        count, last = (0, START) if document is None else self._head_of(document)
        if count != view.count(self.log):
            raise self.altered(f"its head says {count} rows, and there are {view.count(self.log)}")
        return count, last

    def _head_of(self, document: bytes) -> tuple[int, str]:
        try:
            values = json.loads(document)
            return int(values["count"]), str(values["hash"])
        except (ValueError, KeyError, TypeError):
            raise self.altered("its head cannot be read") from None

    def add(self, transaction: Transaction, content: Mapping[str, Any], sign: Callable[[bytes], bytes] | None = None) -> int:
        """Append a row that names the one before it. Returns its number.

        Args:
            sign: makes a signature over the rest of the row, with its number and the hash of the row before.
        """
        count, last = self.head(transaction)
        values = {**content, "sequence": count, "previous": last}
        if sign is not None:
            values["signature"] = sign(canonical(values)).hex()
        row = canonical(values)
        number = transaction.append(self.log, row)
        transaction.put(self.head_key, canonical({"count": count + 1, "hash": sha256(row).hexdigest()}))
        return number

    def rows(self, view: Snapshot) -> Iterator[dict[str, Any]]:
        """Every row in order, if all of them fit each other and the head.

        Raises:
            ProtocolAbort: if one does not, with its number.
        """
        _, last = self.head(view)
        return self.checked(view.rows(self.log), last)

    def checked(self, rows: Sequence[bytes], last: str | None = None) -> Iterator[dict[str, Any]]:
        """Check rows already in memory, as `rows` does.

        Args:
            last: hash of the last row; None if it is not known.
        """
        before = [self._before(number, row) for number, row in enumerate(rows)]
        names = "the head" if last is not None else "the last row"
        # From the end, as each row is vouched for by the one after it: so the error names the row that was altered.
        for number in reversed(range(len(rows))):
            if last is not None and sha256(rows[number]).hexdigest() != last:
                raise self.altered(f"row {number} is not the one that {names} names")
            last, names = before[number], f"row {number}"
        if rows and last != START:
            raise self.altered("row 0 names a row before it")
        return (json.loads(row) for row in rows)

    def _before(self, number: int, row: bytes) -> str:
        """The hash of the row before, as a row names it. Raises ProtocolAbort for a row that does not belong at this place."""
        try:
            values = json.loads(row)
            sound = isinstance(values, dict) and canonical(values) == row
        except (ValueError, RecursionError):
            sound = False
        if not sound:
            raise self.altered(f"row {number} is not in the form in which rows are written")
        if values.get("sequence") != number:
            raise self.altered(f"row {number} is missing, and in its place stands one numbered {values.get('sequence')!a:.40}")
        return str(values.get("previous"))

    def check_noted(self, view: Snapshot, noted: str) -> None:
        """Compare with a head that was noted earlier, as "count:hash".

        Raises:
            InvalidInput: for text that is no head.
            ProtocolAbort: if the log does not continue that head.
        """
        found = _NOTED.fullmatch(noted)
        if found is None:
            raise InvalidInput(f"A noted head is a count, a colon, and 64 hexadecimal digits; found {noted!a:.80}.")
        count, wanted = int(found[1]), found[2]
        row = next(iter(view.rows(self.log, count - 1)), None) if count else None
        if (START if count == 0 else None if row is None else sha256(row).hexdigest()) != wanted:
            raise self.altered(f"row {count - 1} is not the one that was the last when the head was noted")

    def altered(self, reason: str) -> ProtocolAbort:
        """The error for rows that are not as they were written."""
        return ProtocolAbort(f"{self.name} has been altered: {reason}. {self.cure}")
