"""Receipts of a site: one for each sum to which it sent its vector, signed and chained, with the guarantee it was sent under."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.store import Store, Transaction
from manent.crypto import verify as signature_holds
from manent.crypto.digest import digest
from manent.network.trust.identity import Identity
from manent.network.trust.journal import time_text
from manent.privacy.statement import Statement
from manent.rounds import strict
from manent.storage.chain import START, Chain

CHAIN: Final = Chain(
    "receipts", "The list of receipts", "Compare it with copies that were exported, and with the server's audit log."
)
FORMAT: Final = "manent receipt 1"
Outcome = Literal["released", "left out", "abandoned"]
_ADDED: Final = ("sequence", "previous", "signature", "version", "time")


@dataclass(frozen=True)
class Promise:
    """What a study's statement promises about everything that it releases, this sum and all others.

    Attributes:
        epsilon: by observer; None if there is no guarantee against that one.
        delta, unit, relation: what epsilon is about; None for a study without differential privacy.
        releases: how many sums it covers, at most.
    """

    epsilon: Mapping[str, float | None]
    delta: float | None = None
    unit: str | None = None
    relation: str | None = None
    releases: int | None = None

    @classmethod
    def of(cls, statement: Statement) -> Promise:
        """The promise of a statement."""
        epsilon: dict[str, float | None] = {observer.name: observer.epsilon for observer in statement.observers}
        found, delta = statement.protection, next((o.delta for o in statement.observers if o.delta is not None), None)
        if found is None or statement.epsilon_is == "none":
            return cls(dict.fromkeys(epsilon))
        return cls(epsilon, delta, found.privacy_unit, found.neighboring_relation, found.releases)

    def __str__(self) -> str:
        known = [f"{value:.4g} against the {name}" for name, value in self.epsilon.items() if value is not None]
        none = [f"the {name}" for name, value in self.epsilon.items() if value is None]
        if not known:
            return "no differential privacy"
        rest = f"; none against {' and '.join(none)}" if none else ""
        return f"epsilon {', '.join(known)}{rest}; delta {self.delta:g}, for each {self.unit} ({self.relation})"


@dataclass(frozen=True)
class Receipt:
    """What a site sent to one sum, and how that sum ended.

    Attributes:
        study: its hash.
        sum: the kind of sum.
        round, index: which sum of the study.
        attempt: in which the vector was sent.
        upload: SHA-256 of the message with the site's term, as it was sent.
        outcome: "released" with the site's term in it; "left out", released without it; or "abandoned". It was sent in any case.
        cohort: how many sites were asked; 0 where that is secret.
        survivors: how many are in the sum: as the site checked itself if the summation allows that, else as the server says; None
            if it does not say.
        summation: its name.
        guarantee: as the site derived it from the study.
    """

    study: str
    sum: str
    round: int
    index: int
    attempt: int
    upload: str
    outcome: Outcome
    cohort: int
    survivors: int | None
    summation: str
    guarantee: Promise


class Receipts:
    """The receipts of a site, in its store.

    Args:
        identity: signs them.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        self._store, self._identity, self._clock = store, identity, clock

    def append(self, receipt: Receipt) -> int:
        """Add a receipt in a transaction of its own, and return its number."""
        with self._store.transaction() as transaction:
            return self.add(transaction, receipt)

    def add(self, transaction: Transaction, receipt: Receipt) -> int:
        """Add a receipt in the transaction that ends the sum for the site, and return its number."""
        content = {"version": 1, "time": time_text(self._clock()), **dataclasses.asdict(receipt)}
        return CHAIN.add(transaction, content, lambda row: self._identity.signing_key.sign(digest(FORMAT, row)))


def stored(store: Store, noted: str | None = None) -> tuple[tuple[bytes, ...], str]:
    """A site's receipts as they were signed, and the hash of the last.

    Args:
        noted: an earlier "count:hash" of the last receipt, kept elsewhere.

    Raises ProtocolAbort if their number is not the head's, or they do not continue the noted head.
    """
    with store.snapshot() as view:
        if noted is not None:
            CHAIN.check_noted(view, noted)
        _, last = CHAIN.head(view)
        return tuple(view.rows(CHAIN.log)), last


def hash_of(rows: Sequence[bytes]) -> str:
    """The hash of the last row; that of an empty chain if there is none."""
    return sha256(rows[-1]).hexdigest() if rows else START


def verify(rows: Sequence[bytes], public: bytes, last: str | None = None) -> tuple[Receipt, ...]:
    """Every receipt in order, if all of them hold.

    Args:
        rows: as they were signed.
        public: the site's key, 32 bytes.
        last: hash of the last receipt. Without it, receipts that are missing at the end are not noticed.

    Raises:
        ProtocolAbort: if one is missing, altered, repeated, moved, or signed by another key; with its number.
    """
    found: list[Receipt] = []
    at: dict[str, tuple[int, int]] = {}
    for number, values in enumerate(CHAIN.checked(rows, last)):
        _check_signature(number, values, public)
        receipt = _read(number, values)
        here = receipt.round, receipt.index
        if here <= at.get(receipt.study, (0, 0)):
            raise CHAIN.altered(
                f"row {number} is of round {here[0]}, sum {here[1]} of a study that was beyond it: it is repeated or moved"
            )
        at[receipt.study] = here
        found.append(receipt)
    return tuple(found)


def _check_signature(number: int, values: Mapping[str, Any], public: bytes) -> None:
    signed = {name: value for name, value in values.items() if name != "signature"}
    try:
        signature = bytes.fromhex(values["signature"])
    except (KeyError, ValueError, TypeError):
        signature = b""
    if not signature_holds(public, digest(FORMAT, canonical(signed)), signature):
        raise CHAIN.altered(f"row {number} is not signed by the key {public.hex()[:16]}")


def _read(number: int, values: Mapping[str, Any]) -> Receipt:
    content = {name: value for name, value in values.items() if name not in _ADDED}
    try:
        found: Receipt = strict.read(Receipt, content, f"Receipt {number}", _nested)
    except InvalidInput as error:
        raise ProtocolAbort(str(error)) from None
    return found


def _nested(annotation: object, table: Mapping[str, Any], where: str) -> Any:
    if annotation is Promise:
        return strict.read(Promise, table, where, _nested)
    return {name: strict.fit(value, float | None, f"{where}.{name}", _nested) for name, value in table.items()}


def by_study(receipts: Iterable[Receipt]) -> dict[str, list[Receipt]]:
    """Receipts by study, in order."""
    found: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        found.setdefault(receipt.study, []).append(receipt)
    return found
