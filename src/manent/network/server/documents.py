"""What the server keeps: one document for each study, one for each sum, and the keys under which they lie.

A document is read, changed and written in one transaction, so that several processes may share a store.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

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
        hash: SHA-256 of its plain data.
        number: its place in the queue.
        bundle: digest of the bundle as it was submitted.
        by: who submitted it.
        seed: of its repeatable randomness.
        needed: how many sites must be on the roster before it is planned.
        since: when it entered its present phase, in seconds since the epoch.
        clients, roster: it is planned for so many sites, those on the roster of this number; 0 while it waits for them.
        initial: digest of the model's first vector, if the server cannot draw it; or "".
        round, index: the next sum, or the one under way.
        state: digest of the algorithm's and layers' arrays after the last sum; "" before the first.
        open: id of the sum under way, or "".
        released: how many sums were released, or count as released.
        result: digest of the final arrays, or "".
        reason: why it failed.
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

    @property
    def over(self) -> bool:
        """Whether it has finished or failed."""
        return self.phase in ("finished", "failed")

    @property
    def progress(self) -> Progress:
        """Where it stands between two sums."""
        return Progress(self.round, self.index)

    def at(self, progress: Progress) -> StudyRecord:
        """The same study at another round and index."""
        return dataclasses.replace(self, round=progress.round, index=progress.index)


@dataclass(frozen=True)
class SumRecord:
    """A sum, under way or over.

    Attributes:
        id: "STUDY-ROUND-INDEX".
        name: its kind, such as "train".
        attempt: the present one; the first is 1.
        call: the body of the present attempt's call, in hexadecimal.
        count: how many sites are asked.
        roster: the number of the roster that the present attempt is under.
        assignment: digest of the arrays that clients are sent.
        phase: of the server's party.
        closes: when the phase is closed with those who answered, in seconds since the epoch.
        opened: when the present attempt began, in seconds since the epoch.
        closed: what the cohort is told at the end, in hexadecimal.
        reason: why it was abandoned.
        cohort: where the call does not tell it, the public keys of those that are asked, by position; every attempt asks these.
        included: once it is over, the public keys of those whose vectors are in it.
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
    cohort: Sequence[str] = ()
    included: Sequence[str] = ()

    @property
    def log(self) -> str:
        """The name of the log of the present attempt's party."""
        return f"sum/{self.id}/{self.attempt}"

    def upload(self, key: str) -> str:
        """The name of a site's upload in parts, in the present attempt."""
        return f"{self.id}/{self.attempt}/{key}"


Record = TypeVar("Record", StudyRecord, SumRecord)


def encode(record: StudyRecord | SumRecord) -> bytes:
    """A record as canonical JSON."""
    return canonical(dataclasses.asdict(record))


def decode(kind: type[Record], document: bytes) -> Record:
    """The record in a document. Fields of another version that this one does not know are left out."""
    values, known = json.loads(document), {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def study_key(hash: str) -> str:
    """The key of a study's document."""
    return f"study/{hash}"


def sum_key(id: str) -> str:
    """The key of a sum's document."""
    return f"sum/{id}"


def decision_key(study: str, public: str) -> str:
    """The key of a site's decision about a study."""
    return f"decision/{study}/{public}"


def history_log(study: str) -> str:
    """The name of the log with one row for each sum of a study."""
    return f"history/{study}"


def history(view: Snapshot, study: str) -> list[dict[str, Any]]:
    """The history of a study, a row for each sum that is over.

    An earlier version noted in each row how long it took, which tells of a private sum how many took part. That is left out.
    """
    rows = (json.loads(row) for row in view.rows(history_log(study)))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def study_of(view: Snapshot, hash: str) -> StudyRecord | None:
    """A study by its hash, or None."""
    document = view.get(study_key(hash))
    return None if document is None else decode(StudyRecord, document)


def sum_of(view: Snapshot, id: str) -> SumRecord | None:
    """A sum by its id; None for an unknown id, and for ""."""
    document = view.get(sum_key(id)) if id else None
    return None if document is None else decode(SumRecord, document)


def studies(view: Snapshot) -> list[StudyRecord]:
    """Every study, in the order in which they were submitted."""
    found = [study_of(view, key.removeprefix("study/")) for key in view.keys("study/")]
    return sorted((study for study in found if study is not None), key=lambda study: study.number)


def put(transaction: Transaction, *records: StudyRecord | SumRecord) -> None:
    """Write records, and note that something has changed."""
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
    """The decisions about a study: by public key, whether the site takes part, and why not."""
    prefix = decision_key(study, "")
    found = {}
    for key, document in view.items(prefix):
        values = json.loads(document)
        found[key.removeprefix(prefix)] = bool(values["accepted"]), str(values["reason"])
    return found
