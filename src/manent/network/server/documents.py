"""What the server keeps: one document a study, one a sum, and the keys under which they lie.

A document is read, changed and written in one transaction, so that several processes may share a store.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from manent.core.canonical import canonical
from manent.core.store import Snapshot, Transaction
from manent.rounds.reducer import Progress

StudyState = Literal["gathering", "deciding", "running", "finished", "failed"]
SumState = Literal["open", "released", "abandoned"]
PULSE = "pulse"


@dataclass(frozen=True)
class StudyRecord:
    """A study and how far it has come.

    Attributes:
        hash: of its plain data.
        number: its place in the queue.
        bundle: digest of the bundle as it was submitted.
        by: who submitted it.
        seed: of its repeatable randomness.
        needed: it waits for a roster of so many sites.
        clients: how many it was planned for, all on the roster of this number; 0 while it waits.
        initial: digest of the model's first vector, where the server cannot draw it; or "".
        state: digest of the algorithm's and layers' arrays after the last sum; "" before the first.
        open: id of the sum under way, or "".
        released: sums that were released, or counted as such.
        result: digest of the final arrays, or "".
        reason: why it failed.
        since: seconds since the epoch, when it came into its phase.
        begun: when it began to run.
    """

    hash: str
    name: str
    number: int
    bundle: str
    by: str
    seed: int
    needed: int
    since: float
    phase: StudyState = "gathering"
    clients: int = 0
    roster: int = 0
    initial: str = ""
    round: int = 1
    index: int = 0
    state: str = ""
    open: str = ""
    released: int = 0
    result: str = ""
    reason: str = ""
    begun: float = 0.0

    @property
    def over(self) -> bool:
        return self.phase in ("finished", "failed")

    @property
    def progress(self) -> Progress:
        """Between two sums."""
        return Progress(self.round, self.index)

    def at(self, progress: Progress) -> StudyRecord:
        return dataclasses.replace(self, round=progress.round, index=progress.index)


@dataclass(frozen=True)
class SumRecord:
    """A sum under way, or over.

    Attributes:
        id: study, round and index.
        name: its kind.
        call: the body of the present attempt's call, in hexadecimal.
        count: how many were asked.
        assignment: digest of the arrays that clients are sent.
        phase: of the party.
        closes: seconds since the epoch, when the phase is closed with those who answered.
        closed: what the cohort is told at the end, in hexadecimal.
        included: the public keys of those whose vectors are in the sum, once it is over.
    """

    id: str
    study: str
    name: str
    round: int
    index: int
    attempt: int
    call: str
    count: int
    roster: int
    assignment: str
    phase: str
    closes: float
    opened: float
    state: SumState = "open"
    closed: str = ""
    reason: str = ""
    included: Sequence[str] = ()

    @property
    def log(self) -> str:
        """The log of the present attempt's party."""
        return f"sum/{self.id}/{self.attempt}"

    def upload(self, key: str) -> str:
        """The name of a site's upload in parts in the present attempt."""
        return f"{self.id}/{self.attempt}/{key}"


Record = TypeVar("Record", StudyRecord, SumRecord)


def encode(record: StudyRecord | SumRecord) -> bytes:
    return canonical(dataclasses.asdict(record))


def decode(kind: type[Record], document: bytes) -> Record:
    """A record; what a newer version added is left out."""
    values, known = json.loads(document), {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def study_key(hash: str) -> str:
    return f"study/{hash}"


def sum_key(id: str) -> str:
    return f"sum/{id}"


def decision_key(study: str, public: str) -> str:
    return f"decision/{study}/{public}"


def history_log(study: str) -> str:
    return f"history/{study}"


def study_of(view: Snapshot, hash: str) -> StudyRecord | None:
    document = view.get(study_key(hash))
    return None if document is None else decode(StudyRecord, document)


def sum_of(view: Snapshot, id: str) -> SumRecord | None:
    document = view.get(sum_key(id)) if id else None
    return None if document is None else decode(SumRecord, document)


def studies(view: Snapshot) -> list[StudyRecord]:
    """Every study, in the order in which they came."""
    found = [study_of(view, key.removeprefix("study/")) for key in view.keys("study/")]
    return sorted((study for study in found if study is not None), key=lambda study: study.number)


def put(transaction: Transaction, *records: StudyRecord | SumRecord) -> None:
    """Write records, and tell every process that something has changed."""
    for record in records:
        key = study_key(record.hash) if isinstance(record, StudyRecord) else sum_key(record.id)
        transaction.put(key, encode(record))
    beat(transaction)


def beat(transaction: Transaction) -> None:
    """Note that something has changed that others may be waiting for."""
    transaction.put(PULSE, str(pulse(transaction) + 1).encode())


def pulse(view: Snapshot) -> int:
    """A number that grows whenever something changes that others may be waiting for."""
    return int(view.get(PULSE) or b"0")


def decisions(view: Snapshot, study: str) -> dict[str, tuple[bool, str]]:
    """By public key: whether the site takes part, and why not."""
    prefix = decision_key(study, "")
    found = {}
    for key, document in view.items(prefix):
        values = json.loads(document)
        found[key.removeprefix(prefix)] = bool(values["accepted"]), str(values["reason"])
    return found
