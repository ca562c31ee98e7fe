"""Rows chained by hash: each names the one before, so that none can be altered, removed or moved without its being seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from manent.core.errors import ProtocolAbort
from manent.core.store import Snapshot, Transaction
from manent.core.study import canonical

LOG = "ledger"
HEAD = "ledger/head"
START = "0" * 64


def head(view: Snapshot) -> tuple[int, str]:
    """How many rows there are, and the hash of the last, as the head says.

    Raises:
        ProtocolAbort: where the log is shorter or longer than that.
    """
    document = view.get(HEAD)
    count, last = (0, START) if document is None else _head_of(document)
    if count != view.count(LOG):
        raise broken(f"its head says {count} rows, and there are {view.count(LOG)}")
    return count, last


def _head_of(document: bytes) -> tuple[int, str]:
    try:
        values = json.loads(document)
        return int(values["count"]), str(values["hash"])
    except (ValueError, KeyError, TypeError):
        raise broken("its head cannot be read") from None


def add(transaction: Transaction, content: Mapping[str, Any]) -> int:
    """Append a row that names the one before it; its number."""
    count, last = head(transaction)
    row = canonical({**content, "sequence": count, "previous": last})
    number = transaction.append(LOG, row)
    transaction.put(HEAD, canonical({"count": count + 1, "hash": sha256(row).hexdigest()}))
    return number


def checked_rows(view: Snapshot) -> Iterator[dict[str, Any]]:
    """Every row in order, each checked against the one before, and the last against the head.

    Raises:
        ProtocolAbort: at the first row that does not fit, with its number.
    """
    count, last = head(view)
    previous = START
    for number, row in enumerate(view.rows(LOG)):
        try:
            values = json.loads(row)
        except ValueError:
            raise broken(f"row {number} cannot be read") from None
        if not isinstance(values, dict) or canonical(values) != row:
            raise broken(f"row {number} is not in its canonical form")
        if values.get("sequence") != number or values.get("previous") != previous:
            raise broken(f"row {number} does not follow from the row before it")
        previous = sha256(row).hexdigest()
        yield values
    if previous != last:
        raise broken(f"row {count - 1} is not the one that the head names")


def broken(reason: str) -> ProtocolAbort:
    """The error for a ledger that is not as it was written."""
    return ProtocolAbort(f"The ledger has been altered: {reason}. Restore it from a sound copy; until then it grants nothing.")
